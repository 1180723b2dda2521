"Streams, resuming after a kill, several processes: what needs real processes or hostile files."
import json, os, re, shutil, signal, subprocess, sys, time
from pathlib import Path
import numpy as np, pytest, torch
from PIL import Image
from torch import nn
from conftest import refused
from filelock import FileLock
from fastai.callback.core import Callback
from fastai.callback.training import GradientAccumulation
from finetune_course.cli import main
from finetune_course.data import InputError, dataloaders, load
from finetune_course.finetune import fit_, learner
from finetune_course.pipeline import Config, OutFolder, Trainer, load_sizes, repeated
from finetune_course.scale import Checkpoint, StreamDL, _part_of, fit_in_memory, is_stream, load_shards, open_shards, sample_shards, stream_dataloaders, tracking, write_shards

root = Path(__file__).parent.parent
tiny = ['--arch', 'test_efficientnet', '--weights', 'random', '--size', '32', '--epochs', '1', '--patience', '1', '--prune', '.5', '--device', 'cpu']   # timm's smallest: some 30 s a run

@pytest.fixture(scope='module')
def files(tmp_path_factory):
    "480 digits of four kinds as PNG files, train/ and test/, one of them broken"
    path, (train, _) = tmp_path_factory.mktemp('digits'), load('mnist5k', 28)
    for c in range(4):
        for n, i in enumerate((train.y == c).nonzero()[:120, 0].tolist()):
            (d := path/('test' if n % 6 == 0 else 'train')/str(c)).mkdir(parents=True, exist_ok=True)
            Image.fromarray(train.x[i, 0].numpy()).save(d/f'{i}.png')
    (path/'train'/'0'/'broken.png').write_text('')
    return path

@pytest.fixture(scope='module')
def shards(files, tmp_path_factory):
    out = tmp_path_factory.mktemp('shards')/'s'
    n, skipped = write_shards(files, out, rows=150)
    assert n == {'train': 400, 'test': 80} and len(skipped) == 1 and 'broken.png' in skipped[0]
    return out

def test_a_class_that_only_the_test_part_has_is_refused(tmp_path):
    for d in 'train/a', 'train/b', 'test/a', 'test/c': (tmp_path/'in'/d).mkdir(parents=True); Image.new('L', (8, 8)).save(tmp_path/'in'/d/'0.png')
    with pytest.raises(InputError, match="class 'c' in test/"): write_shards(tmp_path/'in', tmp_path/'out')
    shutil.rmtree(tmp_path/'in'/'train')
    with pytest.raises(InputError, match='no train/'): write_shards(tmp_path/'in', tmp_path/'out')
    assert not (tmp_path/'out').exists()

torchrun = sys.executable, '-m', 'torch.distributed.run', '--standalone'   # on a port that is free

def start(*argv, env=(), ranks=0):
    cmd = [Path(sys.executable).with_name('finetune-course')]
    if ranks: cmd = [*torchrun, '--nproc-per-node', str(ranks), '--no-python', *cmd]
    return subprocess.Popen([*cmd, *map(str, argv)], env=os.environ | dict(OMP_NUM_THREADS='1', PYTHONPATH=str(root)) | dict(env),
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

# --- Streams

def test_the_hubs_schema_is_what_we_write(shards):
    import pyarrow.parquet as pq
    t = pq.read_table(next(shards.glob('train-00000*')))
    assert t.schema.names == ['image', 'label'] and str(t.schema.field('image').type) == 'struct<bytes: binary, path: string>' and str(t.schema.field('label').type) == 'int64'
    assert {p.name for p in shards.iterdir()} == {'train-00000-of-00003.parquet', 'train-00001-of-00003.parquet', 'train-00002-of-00003.parquet', 'test-00000-of-00001.parquet'}

def test_a_folder_a_pattern_and_a_file(shards):
    for data in shards, f'{shards}/*.parquet', f'{shards}/train-*.parquet': assert open_shards(data)['train'].rows == 400
    assert open_shards(next(shards.glob('train-00000*')))['train'].rows == 150
    assert is_stream('ylecun/mnist') and not is_stream('mnist5k') and not is_stream(shards.parent.parent/'nowhere')

def test_parts_go_by_names_and_none_may_lack(shards, tmp_path):
    for name, part in ('latest', 'train'), ('devices', 'train'), ('partial-test', 'test'), ('validation', 'test'): assert _part_of(tmp_path/name/'0000.parquet') == part
    latest = shutil.copytree(shards, tmp_path/'latest')             # "test" in the folder's name says nothing
    assert {k: s.rows for k, s in open_shards(latest).items()} == {'train': 400, 'test': 80}
    (latest/'test-00000-of-00001.parquet').rename(latest/'validation-00000-of-00001.parquet')
    assert open_shards(latest)['test'].rows == 80
    (latest/'train-00001-of-00003.parquet').unlink()
    with pytest.raises(ValueError, match='2 of the 3 files train'): open_shards(latest)

def test_samples_are_of_all_classes(tmp_path):
    "Rows sorted by class, many more than are held in memory, and some labels kept secret"
    import io, pyarrow as pa, pyarrow.parquet as pq
    for c in 'ab':
        (tmp_path/'f'/c).mkdir(parents=True)
        for i in range(3): Image.new('L', (9, 9), i).save(tmp_path/'f'/c/f'{i}.png')
    write_shards(tmp_path/'f', tmp_path/'s')
    schema = pq.read_schema(f := next((tmp_path/'s').glob('*.parquet')))
    def rows(n, seed):
        rng = np.random.default_rng(seed)
        for i in range(n):
            Image.fromarray(rng.integers(0, 256, (9, 9), np.uint8)).save(buf := io.BytesIO(), 'png')
            yield dict(image=dict(bytes=buf.getvalue(), path=None), label=-1 if i % 50 == 0 else 2*i//n)
    pq.write_table(pa.Table.from_pylist([*rows(6000, 0)], schema), f)
    pq.write_table(pa.Table.from_pylist([*rows(1000, 1)], schema), f.with_name('test.parquet'))
    for s in load_shards(tmp_path/'s', 9, most=100):
        n = s.y.bincount()
        assert len(n) == 2 and n.min() > .3*len(s)

def test_a_test_part_of_its_own(tmp_path):
    "Read alone for `evaluate`; with other classes it is refused, and without images it is none"
    for part in 'train', 'test':
        for c in 'ab':
            (tmp_path/part/c).mkdir(parents=True)
            for i in range(30): Image.new('L', (9, 9), 3*i + 100*(c == 'b')).save(tmp_path/part/c/f'{i}.png')
        write_shards(tmp_path/part, tmp_path/f's-{part}')
    (folder := tmp_path/'s').mkdir()
    def put(part, kind): return shutil.copy(next((tmp_path/f's-{part}').glob('*.parquet')), folder/f'{kind}.parquet')
    put('train', 'train'); test = put('test', 'test')
    (alone, ), (_, _, third) = sample_shards(folder, [9], wanted=['test'])[9], load_shards(folder, 9)
    assert torch.equal(alone.x, third.x) and len(alone) == 60
    import pyarrow.parquet as pq
    pq.write_table(pq.read_table(test).slice(0, 0), test)
    rest, valid, held = load_shards(folder, 9)
    assert len(held) and not {x.tobytes() for x in held.x.numpy()} & {x.tobytes() for x in rest.x.numpy()} and len(rest.shards) < 60*.85
    t = pq.read_table(next((tmp_path/'s-test').glob('*.parquet')))
    meta = t.schema.metadata[b'huggingface'].replace(b'["a", "b"]', b'["b", "a"]')
    assert meta != t.schema.metadata[b'huggingface']
    pq.write_table(t.replace_schema_metadata({b'huggingface': meta}), test)
    with pytest.raises(ValueError, match='in another order'): load_shards(folder, 9)

def test_the_stream_holds_the_same_images_as_the_folder(files, shards):
    folder, stream = load(files, 28), load_shards(shards, 28)
    def sums(x): return sorted(x.flatten(1).long().sum(1).tolist())
    every = [x for x, _ in StreamDL(open_shards(shards)['train'], 28, bs=400)][0]
    assert sums(every) == sums(folder[0].x) and sums(stream[2].x) == sums(folder[1].x)
    assert not set(sums(stream[1].x)) - set(sums(folder[0].x))

def test_mixed_sizes_and_colours(tmp_path):
    for c in 'ab':
        (tmp_path/'f'/c).mkdir(parents=True)
        for i in range(40): Image.new('RGB' if i % 3 else 'L', (10 + i, 12), 5*i).save(tmp_path/'f'/c/f'{i}.png')
    write_shards(tmp_path/'f', tmp_path/'s')
    train, valid, test = load_shards(tmp_path/'s', 16)
    assert {s.x.shape[1:] for s in (train, valid, test)} == {(3, 16, 16)}

def test_streams_that_cannot_serve(tmp_path, capsys, shards):
    import pyarrow as pa, pyarrow.parquet as pq
    (tmp_path/'bad').mkdir(); (tmp_path/'bad'/'train-0.parquet').write_bytes(b'no parquet')
    assert 'damaged' in refused(capsys, 'run', '--data', tmp_path/'bad', '--out', tmp_path/'o')
    (tmp_path/'plain').mkdir(); pq.write_table(pa.table({'a': [1, 2]}), tmp_path/'plain'/'train.parquet')
    assert 'lacks a column of images' in refused(capsys, 'run', '--data', tmp_path/'plain', '--out', tmp_path/'o')
    assert 'not empty' in refused(capsys, 'shard', shards, shards)
    assert 'no images' in refused(capsys, 'shard', tmp_path, tmp_path/'x')
    assert not (tmp_path/'o').exists() and not (tmp_path/'x').exists()

def test_shards_written_here(files, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path/'mine.txt').touch()
    assert 'not empty' in refused(capsys, 'shard', files, '.') and 'not empty' in refused(capsys, 'shard', files, '/')
    (tmp_path/'in').mkdir(); monkeypatch.chdir(tmp_path/'in')
    assert main(['shard', str(files), '.']) == 0 and len(list((tmp_path/'in').glob('*.parquet'))) == 2

@pytest.mark.skipif(sys.version_info >= (3, 13), reason='there ** may stand beside letters')
def test_a_pattern_that_is_none(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert 'stand alone between slashes' in refused(capsys, 'run', '--data', 'im/**x*.parquet', '--out', 'o')

def test_unreadable_images_in_a_stream_are_told(tmp_path, shards):
    import pyarrow as pa, pyarrow.parquet as pq
    (tmp_path/'s').mkdir()
    for f in shards.glob('*.parquet'):
        rows = pq.read_table(f)
        broken = [dict(o, bytes=o['bytes'][:60]) if i % 9 == 0 else o for i, o in enumerate(rows['image'].to_pylist())]
        pq.write_table(rows.set_column(0, rows.schema.field('image'), pa.array(broken, rows.schema.field('image').type)), tmp_path/'s'/f.name)
    p = start('run', '--data', tmp_path/'s', *tiny, '--out', tmp_path/'r')
    _, err = p.communicate(timeout=600)
    assert p.returncode == 0, err
    assert 1 <= err.count('It was left out') <= 40 and err.count('Traceback') == 0
    p = start('run', '--data', tmp_path/'s', '--strict', *tiny, '--out', tmp_path/'x')
    _, err = p.communicate(timeout=600)
    assert p.returncode == 2 and 'shard --strict' in err and not (tmp_path/'x').exists()

def test_a_run_from_a_stream(shards, tmp_path, capsys):
    assert main(['run', '--data', str(shards), *tiny, '--track', '--out', str(tmp_path/'r')]) == 0
    rep = json.loads((tmp_path/'r'/'report.json').read_text())
    assert rep['data']['test'] == 80 and 300 < rep['data']['train'] < 400 and rep['resumed_from_step'] is None and rep['seconds_count'] == 'the whole run'
    assert (tmp_path/'r'/'log.csv').is_file() and list((tmp_path/'r'/'tensorboard').iterdir()) and not (tmp_path/'r'/'checkpoint').exists()
    capsys.readouterr()
    assert main(['evaluate', str(tmp_path/'r'), '--json']) == 0
    assert [r['accuracy'] for r in json.loads(capsys.readouterr().out)['rows']] == [r['accuracy'] for r in rep['rows']]

# --- Resuming

def toy(epochs, *cbs, seed=0):
    "Train a small net on a few digits, 8 batches an epoch"
    train, valid = load('digits8', 8)
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4*36, 10))
    fit_(learner(dataloaders(train.take(range(0, 1400, 10)), valid.take(range(20)), 16, (.5,), (.5,)), net, splitter=lambda m: [list(m.parameters())]), epochs, 1e-2, cbs=cbs)
    return net.state_dict()

def test_no_gradient_is_lost_between_two_steps(tmp_path):
    "Killed at any batch while gradients are added up, a training goes on to the same weights"
    class Kill(Callback):
        order = 101
        def __init__(self, at): self.at, self.n = at, 0
        def after_batch(self):
            self.n += self.training
            if self.n == self.at: raise RuntimeError('killed')
    def fit(*cbs): return toy(2, GradientAccumulation(48), *cbs)
    want = fit()
    for at in 1, 2, 4, 8, 11:
        with pytest.raises(RuntimeError, match='killed'): fit(Checkpoint(tmp_path/str(at), every=0), Kill(at))
        for a, b in zip(want.values(), fit(Checkpoint(tmp_path/str(at), every=0, resume=True)).values()): assert torch.equal(a, b)

def test_the_log_of_a_stopped_training_is_that_of_a_whole_one(tmp_path):
    "Stopped an epoch and a half after its last checkpoint, so that one epoch is trained twice"
    import pandas as pd
    class Kill(Callback):
        order = 101
        def after_batch(self):
            if self.training and self.train_iter == 12: self.learn.checkpoint.every = 1e9   # no checkpoint after the second epoch's middle
            if self.training and self.train_iter == 28: raise RuntimeError('killed')
    def fits(name, *cbs, resume=False):
        ckpt = Checkpoint(tmp_path/name/'ckpt', every=0, resume=resume)
        for seed in 0, 1: toy(5, ckpt, *tracking(tmp_path/name, resume), *cbs, seed=seed)
    fits('whole')
    with pytest.raises(RuntimeError, match='killed'): fits('cut', Kill())
    fits('cut', resume=True)
    whole, cut = (pd.read_csv(tmp_path/n/'log.csv').drop(columns='time') for n in ('whole', 'cut'))
    assert whole.epoch.tolist() == [0, 1, 2, 3, 4]*2 and cut.equals(whole)

same = 'model.onnx', 'pruned.onnx', 'model.int8.onnx', 'model.safetensors', 'model.json', 'baseline.int8.onnx', 'baseline.safetensors', 'history.csv'

@pytest.fixture(scope='module')
def whole(files, tmp_path_factory):
    "An uninterrupted run, and its options"
    out, args = tmp_path_factory.mktemp('runs')/'whole', ['run', '--data', str(files), *tiny, '--baseline', '--checkpoint-every', '.001']
    p = start(*args, '--out', out)
    _, err = p.communicate(timeout=600)
    assert p.returncode == 0, err
    return out, args

@pytest.fixture(scope='module', params=['fit0.previous', 'fit1.previous', 'fit2.previous'], ids=['fine-tuning', 'recovering', 'baseline'])
def killed(request, whole, tmp_path_factory):
    "What `kill -9` leaves behind"
    out = tmp_path_factory.mktemp('runs')/'r'
    seen = out.with_name('r.partial')/'checkpoint'/request.param
    p = start(*whole[1], '--out', out)
    while p.poll() is None and not seen.exists(): time.sleep(.01)
    p.send_signal(signal.SIGKILL); p.wait()
    assert not out.exists() and seen.exists()
    return out, seen.with_suffix('.pt')

def numbers(out):
    "The report's rows without times"
    return [{k: v for k, v in r.items() if not re.search('ms_|faster', k)} for r in json.loads((out/'report.json').read_text())['rows']]

@pytest.mark.parametrize('state', ['whole', 'torn'])
def test_killed_and_resumed(whole, killed, tmp_path, state):
    (out, last), want = killed, whole[0]
    shutil.copytree(out.with_name('r.partial'), tmp_path/'r.partial')
    if state == 'torn': (f := tmp_path/'r.partial'/'checkpoint'/last.name).write_bytes(last.read_bytes()[:1000] if last.exists() else b'')
    p = start(*whole[1], '--out', tmp_path/'r', '--resume')
    _, err = p.communicate(timeout=600)
    assert p.returncode == 0 and 'resumed from step' in err, err
    rep = json.loads((tmp_path/'r'/'report.json').read_text())
    assert rep['resumed_from_step'] > 0 and rep['seconds_count'] == 'since the run was resumed'
    for f in same: assert (tmp_path/'r'/f).read_bytes() == (want/f).read_bytes(), f
    assert numbers(tmp_path/'r') == numbers(want)

@pytest.mark.parametrize('left', ['as it was', 'the state before the last'])
def test_a_stopped_run_is_not_thrown_away(killed, capsys, tmp_path, left):
    shutil.copytree(killed[0].with_name('r.partial'), tmp_path/'r.partial')
    if left != 'as it was':                             # killed between the two steps of writing
        for f in (tmp_path/'r.partial'/'checkpoint').glob('fit*.pt'): f.unlink()
    def found(): return {f: f.read_bytes() for f in tmp_path.rglob('*') if f.is_file()}
    before = found()
    assert main(['run', *tiny, '--out', str(tmp_path/'r')]) == 2
    assert '--resume to go on' in capsys.readouterr().err and found() == before

def test_resuming_without_a_checkpoint_or_with_other_options(whole, tmp_path):
    p = start(*whole[1], '--out', tmp_path/'r', '--resume')
    _, err = p.communicate(timeout=600)
    assert p.returncode == 0 and 'started afresh' in err, err
    for f in same: assert (tmp_path/'r'/f).read_bytes() == (whole[0]/f).read_bytes(), f      # and two whole runs are equal
    (tmp_path/'x.partial'/'checkpoint').mkdir(parents=True)
    (tmp_path/'x.partial'/'checkpoint'/'run.json').write_text(json.dumps(dict(seed=7)))
    p = start(*whole[1], '--out', tmp_path/'x', '--resume')
    _, err = p.communicate(timeout=600)
    assert p.returncode == 2 and 'give the same options' in err and (tmp_path/'x.partial'/'checkpoint'/'run.json').exists()

# --- Ranks

worker = '''
import copy, os, sys, torch
torch.set_num_threads(1)
from torch import nn
from fastai.callback.training import GradientAccumulation
from fastai.optimizer import SGD
from finetune_course.backbone import backbone, replace_head_
from finetune_course.data import dataloaders, mnist5k, split
from finetune_course.finetune import learner
from finetune_course.scale import rank_callbacks, start_ranks
start_ranks(torch.device('cpu'))
torch.manual_seed(0)
train, valid = split(mnist5k(28).take(range(0, 5000, 10)), .1)   # 28 batches of 16
net = nn.Sequential(nn.Conv2d(1, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8*13*13, 10))
from fastai.callback.core import Callback
class Frozen(Callback):
    def before_train(self): self.model.apply(lambda m: m.eval() if isinstance(m, nn.BatchNorm2d) else None)
dls = dataloaders(train, valid, 16, (.5,), (.5,), aug=[])
learn = learner(dls, net, splitter=lambda m: [list(m.parameters())], opt_func=SGD)
acc = [] if 'RANK' in os.environ else [GradientAccumulation(32)]
dls.train.rng.seed(0)
with learn.no_bar(), learn.no_logging(): learn.fit(2, .05, cbs=[Frozen(), *rank_callbacks(torch.device('cpu')), *acc])   # one rate: a schedule would count the small steps
if int(os.environ.get('RANK', 0)) == 0: torch.save(net.state_dict(), sys.argv[1])
'''

def test_two_ranks_are_one_process_that_accumulates(tmp_path):
    (tmp_path/'w.py').write_text(worker)
    env = os.environ | dict(OMP_NUM_THREADS='1', PYTHONPATH=str(root), PYTHONWARNINGS='ignore')
    subprocess.run([sys.executable, tmp_path/'w.py', tmp_path/'one.pt'], env=env, check=True)
    subprocess.run([*torchrun, '--nproc-per-node', '2', tmp_path/'w.py', tmp_path/'two.pt'], env=env, check=True)
    one, two = (torch.load(tmp_path/f'{n}.pt', weights_only=True) for n in ('one', 'two'))
    for k in one: torch.testing.assert_close(one[k], two[k], rtol=1e-4, atol=1e-5)

def test_a_rank_ends_in_peace_while_its_threads_are_busy(tmp_path):
    (tmp_path/'w.py').write_text('''
import time, torch
from finetune_course.scale import start_ranks
start_ranks(torch.device('cpu'))
torch.distributed.all_reduce(torch.ones(9), async_op=True).get_future().then(lambda f: time.sleep(.5))
''')
    subprocess.run([*torchrun, '--nproc-per-node', '2', tmp_path/'w.py'], env=os.environ | dict(OMP_NUM_THREADS='1', PYTHONPATH=str(root)), check=True)

def test_two_ranks_make_one_run(shards, tmp_path):
    p = start('run', '--data', shards, *tiny, '--baseline', '--out', tmp_path/'r', ranks=2)
    out, err = p.communicate(timeout=400)
    assert p.returncode == 0, err
    assert out.count('shipped:') == 1 and json.loads((tmp_path/'r'/'report.json').read_text())['processes'] == 2
    assert [f.name for f in tmp_path.iterdir()] == ['r']

def test_a_rank_that_dies_ends_the_run(files, tmp_path):
    p = start('run', '--data', files, *tiny, '--epochs', '50', '--checkpoint-every', '.001', '--out', tmp_path/'r', ranks=2)
    while p.poll() is None and not list(tmp_path.glob('r.partial/checkpoint/fit0.pt')): time.sleep(.05)
    for d in Path('/proc').glob('[0-9]*'):
        try: env = (d/'environ').read_bytes().split(b'\0'); cmd = (d/'cmdline').read_bytes()
        except OSError: continue
        if b'RANK=1' in env and str(tmp_path).encode() in cmd: os.kill(int(d.name), signal.SIGKILL)
    _, err = p.communicate(timeout=120)
    assert p.returncode != 0 and ('SIGKILL' in err or 'another process' in err) and not (tmp_path/'r').exists()

# --- VGG16, the classic

def test_vgg16_with_a_dense_head(files, tmp_path, capsys):
    from finetune_course.backbone import build
    from safetensors.torch import save_file
    torch.manual_seed(0)
    save_file(build('vgg16').state_dict(), tmp_path/'vgg16.safetensors')
    assert main(['run', '--data', str(files), '--arch', 'vgg16', '--head', 'mlp', '--weights', str(tmp_path/'vgg16.safetensors'), *tiny[4:], '--small-size', '32', '--out', str(tmp_path/'r')]) == 0
    rows = json.loads((tmp_path/'r'/'report.json').read_text())['rows']
    assert 15e6 < rows[0]['params'] < 16e6 and rows[1]['params'] < .4*rows[0]['params']

def test_one_of_several_processes_that_runs_out_of_memory_says_so(monkeypatch):
    def fit(bs, cbs): raise torch.OutOfMemoryError('pretended')
    monkeypatch.setattr('finetune_course.scale.num_distrib', lambda: 2)
    with pytest.raises(InputError, match='64 images on each device.*--batch-size'): fit_in_memory(fit, 64)

def test_a_test_part_without_labels_leaves_the_validation_part_to_judge(tmp_path, monkeypatch):
    "As some sets of the hub are: labels of `test` are kept secret (-1)"
    import datasets
    kinds = datasets.Features(image=datasets.Image(), label=datasets.ClassLabel(names=['cross', 'nought']))
    images = [Image.fromarray(np.full((8, 8), 20*i, np.uint8)) for i in range(12)]
    def part(ys): return datasets.Dataset.from_dict(dict(image=images[:len(ys)], label=ys), features=kinds)
    parts = dict(train=part([0, 1]*6), validation=part([0, 1, 0, 1]), test=part([-1]*6))
    for k, d in parts.items(): d.to_parquet(tmp_path/f'{k}.parquet')
    streams = datasets.load_dataset('parquet', data_files={k: str(tmp_path/f'{k}.parquet') for k in parts}, streaming=True)
    for k, d in streams.items(): d.info.splits = datasets.SplitDict({k: datasets.SplitInfo(k, num_examples=len(parts[k]))})
    monkeypatch.setattr(datasets, 'load_dataset', lambda name, streaming: streams)
    test = open_shards('someone/something')['test']
    assert test.rows == 10 and [y for _, y in test.read()] == [0, 1, 0, 1]

def test_a_stream_of_one_class_is_refused(tmp_path, capsys):
    import datasets
    images = [Image.fromarray(np.full((9, 9), i % 256, np.uint8) + (i//256)*np.eye(9, dtype=np.uint8)) for i in range(400)]
    features = datasets.Features(image=datasets.Image(), label=datasets.ClassLabel(names=['only']))
    datasets.Dataset.from_dict(dict(image=images, label=[0]*400), features).to_parquet(tmp_path/'train.parquet')
    capsys.readouterr()   # its progress bar
    assert main(['run', *tiny, '--data', str(tmp_path), '--out', str(tmp_path/'o')]) == 2
    err = capsys.readouterr().err
    assert err.count('\n') == 1 and "a single class, 'only'" in err and not (tmp_path/'o').exists()

def test_runs_that_start_in_the_same_second(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path); monkeypatch.setattr('time.strftime', lambda _: 'now')
    first, second = OutFolder(None), OutFolder(None)               # both named before a folder is made
    with first as a, second as b, OutFolder(None) as c:
        for d in a, b, c: (d/'report.json').write_text(d.name)
    assert {p.name: (p/'report.json').read_text() for p in Path('runs').iterdir()} == {'now': 'now.partial', 'now-2': 'now-2.partial', 'now-3': 'now-3.partial'}
    assert not list(Path('runs').rglob('run.lock'))

def test_a_second_run_into_the_same_folder(tmp_path, capsys):
    late = OutFolder(tmp_path/'r', force=True)                     # looks while nobody is there
    with OutFolder(tmp_path/'r') as d:
        (d/'report.json').touch()
        for how in [], ['--force'], ['--resume']: assert 'another run is writing there' in refused(capsys, 'run', '--data', 'nowhere', '--out', tmp_path/'r', *how)
        with pytest.raises(InputError, match='another run is writing there'): late.__enter__()
        assert (d/'report.json').exists()
    assert [p.name for p in tmp_path.rglob('*')] == ['r', 'report.json']

def test_a_run_that_began_before_another_had_finished(tmp_path):
    late = OutFolder(tmp_path/'r')
    with OutFolder(tmp_path/'r') as d: (d/'report.json').touch()
    with pytest.raises(InputError, match='already holds a run'): late.__enter__()
    assert [p.name for p in tmp_path.rglob('*')] == ['r', 'report.json']

def test_what_stands_beside_the_folder_is_left_alone(tmp_path):
    (tmp_path/'r.old').mkdir(); (tmp_path/'r.old'/'report.json').write_text('mine')
    for i in range(2):
        with OutFolder(tmp_path/'r', force=True) as d: (d/'report.json').write_text(str(i))
    assert {str(p.relative_to(tmp_path)): p.read_text() for p in tmp_path.rglob('*') if p.is_file()} == {'r.old/report.json': 'mine', 'r/report.json': '1'}

def test_killed_while_the_old_run_makes_room(tmp_path, monkeypatch):
    "Between the two renames nothing is lost, and --resume goes on"
    (tmp_path/'r').mkdir(); (tmp_path/'r'/'report.json').write_text('old')
    def stop(a, b, real=os.replace):
        real(a, b)
        raise KeyboardInterrupt
    with monkeypatch.context() as m, pytest.raises(KeyboardInterrupt):
        with OutFolder(tmp_path/'r', force=True) as d:
            (d/'report.json').write_text('new')
            m.setattr(os, 'replace', stop)
    assert (tmp_path/'r.partial'/'replaced'/'report.json').read_text() == 'old'
    with OutFolder(tmp_path/'r', resume=True): pass
    assert {str(p.relative_to(tmp_path)): p.read_text() for p in tmp_path.rglob('*') if p.is_file()} == {'r/report.json': 'new'}

def test_folders_that_cannot_be_renamed(tmp_path, capsys, monkeypatch):
    (tmp_path/'disk').mkdir()
    monkeypatch.setattr(os.path, 'ismount', lambda p, real=os.path.ismount: Path(p) == tmp_path/'disk' or real(p))
    for out in tmp_path/'disk', '/': assert 'is a mount point' in refused(capsys, 'run', '--data', 'nowhere', '--out', out)

def test_resume_takes_the_run_that_wrote_last(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, written, made in ('older', 100, 150), ('newer', 200, 50):   # the folders' own times tell the opposite
        (folder := tmp_path/'runs'/f'{name}.partial'/'checkpoint').mkdir(parents=True)
        (folder/'fit.pt').write_bytes(b'')
        os.utime(folder/'fit.pt', (written, written))
        for p in folder, folder.parent: os.utime(p, (made, made))
    assert OutFolder(None, resume=True).path.name == 'newer'
    with FileLock('runs/newer.partial/run.lock'):                  # it is being written
        assert OutFolder(None, resume=True).path.name == 'older'

def test_a_stream_goes_on_with_as_many_workers(shards, tmp_path, monkeypatch):
    "The order of its batches depends on their number, which another machine would choose otherwise"
    cfg = Config(data=str(shards), size=28, device='cpu')
    sets = load_sizes(cfg)
    def workers(n):
        monkeypatch.setattr('finetune_course.pipeline.n_workers', lambda device: n)
        return Trainer(cfg, sets, tmp_path, Checkpoint(tmp_path/'checkpoint', resume=True)).batches.keywords['num_workers']
    assert [workers(2), workers(0)] == [2, 2]

def test_what_a_stream_repeats_is_counted_in_a_sample(shards):
    train, valid, _ = load_shards(shards, 28)
    less = train.take(range(50))
    assert ['may be more' in repeated(t, valid, t.take([1]))[0] for t in (train, less)] == [False, True]

def test_a_stream_is_shared_out_evenly(files, shards, tmp_path):
    "Three row groups, among processes and their workers"
    train = open_shards(shards)['train']
    for world in 2, 3, 4: assert sorted(b for r in range(world) for b, _ in train.read(0, rank=r, world=world)) == sorted(b for b, _ in train.read())
    assert {len([*train.read(0, rank=r, world=4)]) for r in range(4)} == {100}
    images = [x.numpy().tobytes() for xb, _ in StreamDL(train, 28, bs=10, num_workers=3) for x in xb]
    assert len(images) == 400 and len(set(images)) > 380
    write_shards(files, tmp_path/'many', rows=20)                  # row groups enough to share out those
    many = open_shards(tmp_path/'many')['train']
    halves = [[b for b, _ in many.read(0, rank=r, world=2)] for r in range(2)]
    assert abs(len(halves[0]) - len(halves[1])) <= 40 and sorted(halves[0] + halves[1]) == sorted(b for b, _ in train.read())

def test_a_folder_with_brackets_in_its_name(files, tmp_path):
    write_shards(files, tmp_path/'out [v2]')
    assert open_shards(tmp_path/'out [v2]')['train'].rows == 400

def test_processes_of_one_machine_share_its_cores(shards, monkeypatch):
    train, valid, _ = load_shards(shards, 28)
    monkeypatch.setattr(os, 'cpu_count', lambda: 4)
    def workers(device='meta'): return stream_dataloaders(train, valid, 8, aug=[], device=device).train.fake_l.num_workers
    monkeypatch.delenv('LOCAL_WORLD_SIZE', raising=False)
    assert workers() == 3 and workers('cpu') == 0
    monkeypatch.setenv('LOCAL_WORLD_SIZE', '3')
    assert workers() == 1
