"What holds for the repository as a whole: chapters, modules, wheel, tracked files."
import ast, configparser, json, re, shutil, subprocess, sys, zipfile
from pathlib import Path
import pytest
from nbdev.config import get_config
from nbdev.doclinks import nbglob
from nbdev.test import nb_test_cells

root = Path(__file__).parent.parent
chapters = sorted((root/'nbs').glob('*.ipynb'))
modules = sorted(p for p in (root/'finetune_course').glob('*.py') if p.name[0] != '_')

def sh(*cmd, **kw): return subprocess.run(cmd, cwd=root, capture_output=True, text=True, check=True, **kw).stdout
def cells(path): return json.loads(path.read_text(encoding='utf-8'))['cells']
def outputs(path): return [o for c in cells(path) for o in c.get('outputs', [])]
def each(paths): return pytest.mark.parametrize('path', paths, ids=lambda p: p.name)

# --- Chapters

def test_every_notebook_is_executed():
    "nbdev-test and nbval both find each notebook there is, wherever it lies."
    there = {root/f for f in sh('git', 'ls-files', '-co', '--exclude-standard', '*.ipynb').split() if (root/f).exists()}
    collected = sh(sys.executable, '-m', 'pytest', '-q', '-p', 'tests.conftest', '--nbval', '--collect-only', 'nbs')
    assert there == {Path(p) for p in nbglob(root/'nbs', as_path=True)}
    assert there == {root/m for m in re.findall(r'^(.*?\.ipynb)::', collected, re.M)}
    assert not list((root/'nbs').rglob('.notest'))

@each(chapters)
def test_chapter_runs_some_cells(path): assert nb_test_cells(path, skip_flags=get_config(root).tst_flags)

def test_few_cells_run_nowhere():
    idle = [(p.name, c['id']) for p in chapters for c in cells(p)
            if re.search(r'^#\|\s*(notest\b|eval:?\s*false)|NBVAL_SKIP|nbval-skip', ''.join(c['source']) + str(c['metadata']), re.M)]
    assert len(idle) <= 5, idle

@each(chapters)
def test_chapter_is_committed_with_good_outputs(path):
    assert path.stat().st_size <= 300_000
    assert outputs(path), 'run it and keep its outputs'
    assert not [o for o in outputs(path) if o['output_type'] == 'error']

def test_sidebar_lists_every_chapter():
    assert set(re.findall(r'[\w/]+\.ipynb', (root/'_quarto.yml').read_text())) == {p.name for p in chapters}

# --- Modules

def chapter(path): return re.search(r'File to edit: \.\./nbs/(\d+)_', path.read_text())[1]

def imports(path):
    "What a module imports, anywhere in it: its own package's modules with a leading dot."
    for n in ast.walk(ast.parse(path.read_text())):
        if isinstance(n, ast.Import): yield from (a.name for a in n.names)
        if isinstance(n, ast.ImportFrom): yield from ([f'.{n.module}'] if n.level and n.module else [f'.{a.name}' for a in n.names] if n.level else [n.module])

def test_modules_import_only_earlier_chapters():
    order = [p.stem for p in sorted(modules, key=lambda p: (chapter(p), p.stem == 'cli'))]
    for p in modules:
        own = {i.replace('finetune_course.', '.').split('.')[1] for i in imports(p) if i.startswith(('.', 'finetune_course.'))}
        assert own <= set(order[:order.index(p.stem)]), f'{p.name} imports {own}; the order is {order}'

@each(modules)
def test_module_needs_no_dev_extra(path):
    cfg = configparser.ConfigParser(delimiters='=')
    cfg.read(root/'settings.ini')
    dev = {re.match(r'\w+', r)[0] for r in cfg['DEFAULT']['dev_requirements'].split()}
    assert not dev & {i.split('.')[0] for i in imports(path)}

def test_help_comes_without_the_heavy_libraries():
    code = 'import sys, finetune_course.cli; print(*{m.split(".")[0] for m in sys.modules} & {"torch", "fastai", "matplotlib", "timm", "onnxruntime", "sklearn"})'
    assert sh(sys.executable, '-c', code).strip() == ''

# --- What is shipped

def test_sdist_makes_a_wheel_with_the_chapters(tmp_path):
    for f in sh('git', 'ls-files', '-co', '--exclude-standard').splitlines():
        if (root/f).is_file():
            (tmp_path/f).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(root/f, tmp_path/f)
    subprocess.run([sys.executable, '-m', 'build', '-q', '--no-isolation'], cwd=tmp_path, check=True, capture_output=True)  # sdist, then wheel from it
    names = set(zipfile.ZipFile(*(tmp_path/'dist').glob('*.whl')).namelist())
    assert {f'finetune_course/nbs/{p.name}' for p in chapters} <= names
    assert {f'finetune_course/{p.name}' for p in modules} <= names
    assert not any(n.startswith(('tests', 'nbs', 'bench', 'tools')) for n in names)

def test_no_machine_in_the_files():
    "No path of somebody's machine and no registry host, in any text that is committed."
    places = re.compile('|'.join([r'(?<![\w.])/' + d + '/' for d in ('work', 'tmp', 'root', 'home', 'Users')] + ['py' + r'pi\.org', 'python' + r'hosted\.org', 'npm' + r'js\.org']))
    for f in sh('git', 'ls-files', '-co', '--exclude-standard').splitlines():
        p = root/f
        if p == Path(__file__) or not p.is_file(): continue
        if p.suffix == '.ipynb':
            text = [''.join(c['source']) for c in cells(p)]
            text += [''.join(v) for o in outputs(p) for k, v in [*o.items(), *o.get('data', {}).items()] if k == 'text' or k.startswith('text/')]
            text = [re.sub(r'base64,[\w+/=]+', '', t) for t in text]
        else:
            try: text = [p.read_text(encoding='utf-8')]
            except UnicodeDecodeError: continue
        found = [m[0] for t in text for m in places.finditer(t)]
        assert not found, f'{f}: {found}'
