"What the tests share; and how nbval runs the notebooks: the cells that nbdev-test runs, comparing what they print."
import json, os, subprocess, sys
from functools import cache
from pathlib import Path
import pytest
from nbdev.config import get_config
from nbdev.test import nb_test_cells
from nbval.kernel import RunningKernel

# --- nbval

rich = 'text/html', 'text/markdown', 'text/latex', 'image/svg+xml', 'image/png', 'image/jpeg'

@cache
def tested(path):
    "Ids of the cells that nbdev-test runs in this notebook."
    return {c.id for c in nb_test_cells(path, skip_flags=get_config().tst_flags)}

def printed(outputs):
    "Without what is drawn (tables, figures), which holds measurements, and without its stand-in text."
    return [o for o in outputs if not any(k in o.get('data', {}) for k in rich) and o.get('name') != 'stderr']

def execute(self, source, allow_stdin=None):
    "With history, as in a notebook; nbval goes without, and then a closing `;` silences nothing."
    return self.kc.execute(source, allow_stdin=allow_stdin, stop_on_error=False)
RunningKernel.execute_cell_input = execute

def pytest_collection_modifyitems(items):
    cells = [i for i in items if hasattr(i, 'cell')]
    for item in cells:
        item.cell.execution_count = 1   # nbdev-clean takes the counts away; nbval reads that as "never run"
        item.options['skip'] |= item.cell.id not in tested(item.path)
        compare = item.compare_outputs
        item.compare_outputs = lambda test, ref, compare=compare: compare(printed(test), printed(ref))
    idle = {i.path for i in cells} - {i.path for i in cells if not i.options['skip']}
    if idle: raise pytest.UsageError(f'no cell would run: {", ".join(p.name for p in idle)}')

# --- Calls

tiny = ['--arch', 'plain_cnn', '--weights', 'random', '--size', '16', '--epochs', '1', '--patience', '1',
        '--prune', '.5', '--device', 'cpu']   # the quickest run there is: some 4 s

def digits_config(**options):
    "What a run on digits would choose, and `options`"
    from finetune_course.app.config import Config, digit_recipe
    return Config(**digit_recipe | options)

def refused(capsys, *argv):
    "The one sentence a refused call prints"
    from finetune_course.app.cli import main
    capsys.readouterr()
    try: code = main([str(a) for a in argv])
    except SystemExit as e: code = e.code          # argparse's own way out
    assert code == 2
    out, err = capsys.readouterr()
    assert out == '' and err.startswith('finetune-course: ') and err.count('\n') == 1 and 'Traceback' not in err
    return err

environ = os.environ | dict(OMP_NUM_THREADS='1', PYTHONPATH=str(Path(__file__).parent.parent))
torchrun = sys.executable, '-m', 'torch.distributed.run', '--standalone'   # on a port that is free

def start(*argv, ranks=0):
    "The command as a process of its own, or as several"
    cmd = [Path(sys.executable).with_name('finetune-course'), *map(str, argv)]
    if ranks: cmd = [*torchrun, '--nproc-per-node', str(ranks), '--no-python', *cmd]
    return subprocess.Popen(cmd, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

def report_of(run):
    "What a run's report.json holds"
    return json.loads((run/'report.json').read_text(encoding='utf-8'))

def all_files(folder):
    "Each file below a folder, by its name from there, and its bytes"
    return {f.relative_to(folder).as_posix(): f.read_bytes() for f in folder.rglob('*') if f.is_file()}

@pytest.fixture
def quick_clock(monkeypatch):
    "Files are timed with a few calls, for tests to which their times do not matter"
    from finetune_course import evaluate
    def latencies(files, bs=1, *counts, real=evaluate.latencies): return real(files, bs, runs=3, warmup=1)
    monkeypatch.setattr(evaluate, 'latencies', latencies)

# --- Images

def folder(path, classes='ab', n=4, size=(12, 10)):
    "A folder of class folders, each with `n` grey squares; every square in a grey of its own"
    from PIL import Image
    for i, c in enumerate(classes):
        (path/c).mkdir(parents=True)
        for j in range(n): Image.new('L', size, 40*i + j).save(path/c/f'{j}.png')
    return path

def folder_of_digits(path, first=0, n=24, classes=3):
    "A folder of class folders: `n` real digits of each kind, from the `first` on, and a broken file"
    from PIL import Image
    from finetune_course.data import load
    train, _ = load('mnist5k', 28)
    for c in range(classes):
        (path/str(c)).mkdir(parents=True)
        for i in (train.y == c).nonzero()[first:first+n, 0].tolist():
            Image.fromarray(train.x[i, 0].numpy()).save(path/str(c)/f'{i}.png')
    (path/'0'/'broken.png').write_text('')
    return path

def random_images(n, seed=0, c=1):
    "`n` images of noise, 8×8, of three classes"
    import numpy as np, torch
    from finetune_course.data import Images
    x = np.random.default_rng(seed).integers(1, 256, (n, c, 8, 8), dtype=np.uint8)
    return Images(torch.from_numpy(x), torch.arange(n) % 3, list('abc'))

def idx(a):
    "An array of bytes as an IDX file"
    return bytes([0, 0, 8, a.ndim]) + b''.join(n.to_bytes(4, 'big') for n in a.shape) + a.tobytes()

def write_idx(folder, part, x, y):
    "MNIST's two files of one part, 'train' or 't10k'"
    (folder/f'{part}-images-idx3-ubyte').write_bytes(idx(x))
    (folder/f'{part}-labels-idx1-ubyte').write_bytes(idx(y))

@pytest.fixture(scope='session')
def digits(tmp_path_factory): return folder_of_digits(tmp_path_factory.mktemp('digits'))

@pytest.fixture(scope='session')
def parts(tmp_path_factory):
    "480 digits of four kinds as PNG files, train/ and test/, and a broken file"
    path = tmp_path_factory.mktemp('parts')
    folder_of_digits(path/'train', n=100, classes=4)
    folder_of_digits(path/'test', first=100, n=20, classes=4)
    (path/'test'/'0'/'broken.png').unlink()
    return path

@pytest.fixture(scope='session')
def shards(parts, tmp_path_factory):
    "The same as Parquet shards"
    from finetune_course.base.shards import write_shards
    out = tmp_path_factory.mktemp('shards')/'s'
    n, skipped = write_shards(parts, out, rows=150)
    assert n == {'train': 400, 'test': 80} and len(skipped) == 1 and 'broken.png' in skipped[0]
    return out

@pytest.fixture(scope='session')
def done(digits, tmp_path_factory):
    "A finished run of the default net on `digits`: for all who only read it"
    from finetune_course.app.cli import main
    out = tmp_path_factory.mktemp('runs')/'r'
    options = '--size 32 --epochs 1 --prune .5'.split()
    assert main(['run', '--data', str(digits), *options, '--out', str(out)]) == 0
    return out
