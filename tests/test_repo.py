"What holds for the repository as a whole: notebooks, floors, modules, wheel, tracked files."
import ast, configparser, json, re, shutil, subprocess, sys, zipfile
from importlib.metadata import packages_distributions
from pathlib import Path
import pytest
from nbdev.config import get_config
from nbdev.doclinks import nbglob
from nbdev.test import nb_test_cells

root = Path(__file__).parent.parent
package = root/'finetune_course'
notebooks = sorted((root/'nbs').rglob('[!.]*.ipynb'))
chapters = [p for p in notebooks if p.parent.name == 'nbs']
modules = sorted(p for p in package.rglob('*.py') if p.name[0] != '_')

def sh(*cmd, **kw): return subprocess.run(cmd, cwd=root, capture_output=True, text=True, check=True, **kw).stdout
def tracked(*patterns):
    found = sh('git', 'ls-files', '-co', '--exclude-standard', *patterns).splitlines()
    return [root/f for f in found if (root/f).is_file()]
def cells(path): return json.loads(path.read_text(encoding='utf-8'))['cells']
def code(path): return [''.join(c['source']) for c in cells(path) if c['cell_type'] == 'code']
def outputs(path): return [o for c in cells(path) for o in c.get('outputs', [])]
def each(paths): return pytest.mark.parametrize('path', paths, ids=lambda p: p.relative_to(root).as_posix())

# --- Notebooks

def test_every_notebook_is_executed():
    "nbdev-test and nbval both find each notebook there is, wherever it lies."
    collected = sh(sys.executable, '-m', 'pytest', '-q', '-p', 'tests.conftest', '--nbval', '--collect-only', 'nbs')
    there = set(tracked('*.ipynb'))
    assert there == set(notebooks) == {Path(p) for p in nbglob(root/'nbs', as_path=True)}
    assert there == {root/m for m in re.findall(r'^(.*?\.ipynb)::', collected, re.M)}
    assert not list((root/'nbs').rglob('.notest'))

@each(notebooks)
def test_notebook_runs_some_cells(path): assert nb_test_cells(path, skip_flags=get_config(root).tst_flags)

def test_few_cells_run_nowhere():
    nowhere = re.compile(r'^#\|\s*(notest\b|eval:?\s*false)|NBVAL_SKIP|nbval-skip', re.M)
    idle = [(p.name, c['id']) for p in notebooks for c in cells(p)
            if nowhere.search(''.join(c['source']) + str(c['metadata']))]
    assert len(idle) <= 5, idle

@each(notebooks)
def test_notebook_is_committed_with_good_outputs(path):
    assert path.stat().st_size <= 300_000
    assert outputs(path) or path not in chapters, 'run it and keep its outputs'
    assert not [o for o in outputs(path) if o['output_type'] == 'error']

@each(notebooks)
def test_a_chapter_is_called_by_the_number_it_has(path):
    text = path.read_text(encoding='utf-8')
    for said, led_to in re.findall(r'hapter 0*(\d+[a-z]?)\]\((?:\.\./)?0*(\d+[a-z]?)_', text): assert said == led_to

hidden = re.compile(r'#\|\s*(hide|default_exp|eval:\s*false|include:\s*false|echo:\s*false)')

def test_lines_are_short():
    "In a cell that is shown at most 110 characters, elsewhere 120; options for Quarto aside"
    texts = [(p, src, 120 if hidden.search(src) else 110) for p in notebooks for src in code(p)]
    scripts = tracked('tests/*.py', 'bench/*.py', 'tools/*.py', 'setup.py')
    texts += [(p, p.read_text(encoding='utf-8'), 120) for p in scripts]
    long = [f'{p.name}: {line}' for p, text, most in texts for line in text.splitlines()
            if len(line) > most and not line.startswith('#| ')]
    assert not long, f'{len(long)} lines:\n' + '\n'.join(long)

@each(chapters)
def test_most_of_a_chapter_is_no_plumbing(path):
    "At most 30 % of the code lines are exported; hidden cells and those that only import do not count."
    lines = dict(exported=0, taught=0)
    for src in code(path):
        own = [line for line in src.splitlines() if line.strip() and not line.startswith('#|')]
        if hidden.search(src) or all(re.match(r'from|import|%|\s', line) for line in own): continue
        lines['exported' if re.search(r'#\|\s*export', src) else 'taught'] += len(own)
    assert lines['exported'] <= .3*sum(lines.values()), lines

@each(notebooks)
def test_imports_stand_in_cells_of_their_own(path):
    "nbdev runs each cell that imports something, with all that stands beside it, when it builds the site."
    def is_import(node): return isinstance(node, (ast.Import, ast.ImportFrom))
    def is_setting(node): return isinstance(node, (ast.FunctionDef, ast.Expr)) or 'rcParams' in ast.unparse(node)
    for src in code(path):
        if re.search(r'#\|\s*(export|eval: false)', src): continue
        nodes = ast.parse(re.sub(r'^\s*[%!].*', '', src, flags=re.M)).body
        others = [n for n in nodes if not is_import(n) and not (hidden.search(src) and is_setting(n))]
        assert not (others and any(map(is_import, nodes))), src

# --- Modules

def dotted(path): return '.'.join(path.relative_to(root).with_suffix('').parts)

def imports(path):
    "All that a module imports, anywhere in it, by its whole name; of `from a import b` both `a` and `a.b`"
    home = path.relative_to(root).parent.parts
    for n in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
        if isinstance(n, ast.Import): yield from (a.name for a in n.names)
        if not isinstance(n, ast.ImportFrom): continue
        start = home[:len(home) + 1 - n.level] if n.level else ()
        source = '.'.join([*start, *filter(None, [n.module])])
        yield from (source, *(f'{source}.{a.name}' for a in n.names))

def place(path):
    "Floor and notebook of a module: where it stands in the order of reading"
    floor = ('base', 'finetune_course', 'exercises', 'app').index(path.parent.name)
    return floor, re.search(r'File to edit: [./]*nbs/(\S+)\.ipynb', path.read_text(encoding='utf-8'))[1]

@each(modules)
def test_module_imports_only_what_stands_before_it(path):
    "Floors below its own; on its own floor, modules of earlier notebooks"
    later = {dotted(p) for p in modules if place(p) >= place(path)}
    assert not later & set(imports(path))

@each(modules)
def test_module_is_no_longer_than_300_lines(path): assert len(path.read_text(encoding='utf-8').splitlines()) <= 300

@each(modules)
def test_functions_require_four_arguments_at_most(path):
    for f in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
        if not isinstance(f, ast.FunctionDef): continue
        named = [a.arg for a in f.args.posonlyargs + f.args.args if a.arg != 'self']
        assert len(named) - len(f.args.defaults) + f.args.kw_defaults.count(None) <= 4, f.name

def distribution(name): return re.sub(r'[-_.]+', '-', name).lower()

@each(modules)
def test_what_a_module_imports_is_declared(path):
    "In settings.ini, and not for developers only"
    cfg = configparser.ConfigParser(delimiters='=')
    cfg.read(root/'settings.ini')
    keys = [k for k in cfg['DEFAULT'] if k.endswith('requirements') and not k.startswith(('dev', 'peers'))]
    declared = {distribution(re.match(r'[\w.-]+', r)[0]) for k in keys for r in cfg['DEFAULT'][k].split()}
    found = packages_distributions()
    for name in {i.split('.')[0] for i in imports(path)} - set(sys.stdlib_module_names) - {'finetune_course'}:
        assert declared & {distribution(d) for d in found.get(name, [name])}, f'{name} is not declared'

def loaded(code, *argv):
    "Top-level modules that are there after some code"
    out = sh(sys.executable, '-c', f'{code}\nimport sys; print(*sys.modules)', *map(str, argv))
    return set(out.splitlines()[-1].split())

heavy = {'torch', 'torchvision', 'fastai', 'timm'}

def test_help_comes_without_the_heavy_libraries():
    assert not loaded('import finetune_course.app.cli') & {*heavy, 'matplotlib', 'onnxruntime', 'sklearn'}

def test_reading_an_image_needs_no_torch(done, digits):
    assert not loaded('import finetune_course.predict, finetune_course.base.errors') & heavy
    predict = 'import sys; from finetune_course.app.cli import main; assert main(["predict", *sys.argv[1:]]) == 0'
    there = loaded(predict, done, next((digits/'1').glob('*.png')))
    assert 'onnxruntime' in there and not there & heavy

# --- What is shipped

def test_sdist_makes_a_wheel_with_the_chapters(tmp_path):
    for f in tracked():
        copy = tmp_path/f.relative_to(root)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(f, copy)
    create_model = sys.executable, '-m', 'build', '-q', '--no-isolation'      # sdist, then wheel from it
    subprocess.run(create_model, cwd=tmp_path, check=True, capture_output=True)
    names = set(zipfile.ZipFile(*(tmp_path/'dist').glob('*.whl')).namelist())
    assert {f'finetune_course/{p.relative_to(root).as_posix()}' for p in notebooks} <= names
    assert {p.relative_to(root).as_posix() for p in modules} <= names
    assert not any(n.startswith(('tests', 'nbs', 'bench', 'tools')) for n in names)

def test_no_machine_in_the_files():
    "No path of somebody's machine and no registry host, in any text that is committed."
    folders, hosts = ('work', 'tmp', 'root', 'home', 'Users'), ('py' + 'pi', 'python' + 'hosted', 'npm' + 'js')
    places = re.compile('|'.join([*(rf'(?<![\w.])/{d}/' for d in folders), *(rf'{h}\.org' for h in hosts)]))
    for f in tracked():
        if f == Path(__file__): continue
        if f.suffix == '.ipynb':
            shown = [(k, v) for o in outputs(f) for k, v in [*o.items(), *o.get('data', {}).items()]]
            text = [''.join(c['source']) for c in cells(f)]
            text += [''.join(v) for k, v in shown if k == 'text' or k.startswith('text/')]
            text = [re.sub(r'base64,[\w+/=]+', '', t) for t in text]
        else:
            try: text = [f.read_text(encoding='utf-8')]
            except UnicodeDecodeError: continue
        found = [m[0] for t in text for m in places.finditer(t)]
        assert not found, f'{f}: {found}'
