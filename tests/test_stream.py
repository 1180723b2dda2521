"Parquet shards: written here, read as a stream; hostile and odd ones."
import io, json, os, shutil, sys
import numpy as np, pyarrow as pa, pyarrow.parquet as pq, pytest, torch
from PIL import Image
from conftest import refused, report_of, tiny
from finetune_course.app.cli import main
from finetune_course.base.errors import InputError
from finetune_course.data import Splits, load
from finetune_course.app.provenance import overlap_findings
from finetune_course.base.shards import _part_of_file, is_shards, open_shards, write_shards
from finetune_course.base.streaming import StreamDL
from finetune_course.stream import load_shards, sample_shards, stream_dataloaders

def squares(path, n, base=lambda i, c: i):
    "Two classes, `n` grey squares each"
    for c in 'ab':
        (path/c).mkdir(parents=True)
        for i in range(n): Image.new('L', (9, 9), base(i, c)).save(path/c/f'{i}.png')
    return path

def contents(rows): return sorted(b for b, _ in rows)

# --- Written

def test_the_hubs_schema_is_what_we_write(shards):
    t = pq.read_table(next(shards.glob('train-00000*')))
    assert t.schema.names == ['image', 'label'] and str(t.schema.field('label').type) == 'int64'
    assert str(t.schema.field('image').type) == 'struct<bytes: binary, path: string>'
    trains = {f'train-0000{i}-of-00003.parquet' for i in range(3)}
    assert {p.name for p in shards.iterdir()} == trains | {'test-00000-of-00001.parquet'}

def test_a_class_that_only_the_test_part_has_is_refused(tmp_path):
    for d in 'train/a', 'train/b', 'test/a', 'test/c':
        (tmp_path/'in'/d).mkdir(parents=True)
        Image.new('L', (8, 8)).save(tmp_path/'in'/d/'0.png')
    with pytest.raises(InputError, match="class 'c' in test/"): write_shards(tmp_path/'in', tmp_path/'out')
    shutil.rmtree(tmp_path/'in'/'train')
    with pytest.raises(InputError, match='no train/'): write_shards(tmp_path/'in', tmp_path/'out')
    assert not (tmp_path/'out').exists()

def test_shards_written_here(parts, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path/'mine.txt').touch()
    for out in '.', '/': assert 'not empty' in refused(capsys, 'shard', parts, out)
    (tmp_path/'in').mkdir()
    monkeypatch.chdir(tmp_path/'in')
    assert main(['shard', str(parts), '.']) == 0 and len(list((tmp_path/'in').glob('*.parquet'))) == 2

def test_a_folder_with_brackets_in_its_name(parts, tmp_path):
    write_shards(parts, tmp_path/'out [v2]')
    assert open_shards(tmp_path/'out [v2]')['train'].rows == 400

# --- Found

def test_a_folder_a_pattern_and_a_file(shards):
    for data in shards, f'{shards}/*.parquet', f'{shards}/train-*.parquet':
        assert open_shards(data)['train'].rows == 400
    assert open_shards(next(shards.glob('train-00000*')))['train'].rows == 150
    assert is_shards('hf://ylecun/mnist') and not is_shards('mnist5k') and not is_shards(shards.parent.parent/'nowhere')

@pytest.mark.skipif(sys.version_info >= (3, 13), reason='there ** may stand beside letters')
def test_a_pattern_that_is_none(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert 'stand alone between slashes' in refused(capsys, 'run', '--data', 'im/**x*.parquet', '--out', 'o')

def test_parts_go_by_names_and_none_may_lack(shards, tmp_path):
    names = {'latest': 'train', 'devices': 'train', 'partial-test': 'test', 'validation': 'test'}
    assert {n: _part_of_file(tmp_path/n/'0000.parquet') for n in names} == names
    latest = shutil.copytree(shards, tmp_path/'latest')             # "test" in the folder's name says nothing
    assert {k: s.rows for k, s in open_shards(latest).items()} == {'train': 400, 'test': 80}
    (latest/'test-00000-of-00001.parquet').rename(latest/'validation-00000-of-00001.parquet')
    assert open_shards(latest)['test'].rows == 80
    (latest/'train-00001-of-00003.parquet').unlink()
    with pytest.raises(ValueError, match='2 of the 3 files train'): open_shards(latest)

def test_streams_that_cannot_serve(tmp_path, capsys, shards):
    def said(data): return refused(capsys, 'run', '--data', data, '--out', tmp_path/'o')
    for d in 'bad', 'plain': (tmp_path/d).mkdir()
    (tmp_path/'bad'/'train-0.parquet').write_bytes(b'no parquet')
    assert 'damaged' in said(tmp_path/'bad')
    pq.write_table(pa.table({'a': [1, 2]}), tmp_path/'plain'/'train.parquet')
    assert 'lacks a column of images' in said(tmp_path/'plain')
    assert 'not empty' in refused(capsys, 'shard', shards, shards)
    assert 'no images' in refused(capsys, 'shard', tmp_path, tmp_path/'x')
    assert not (tmp_path/'o').exists() and not (tmp_path/'x').exists()

def test_a_stream_of_one_class_is_refused(tmp_path, capsys):
    import datasets
    eye = np.eye(9, dtype=np.uint8)
    images = [Image.fromarray(np.full((9, 9), i % 256, np.uint8) + (i//256)*eye) for i in range(400)]
    features = datasets.Features(image=datasets.Image(), label=datasets.ClassLabel(names=['only']))
    table = datasets.Dataset.from_dict(dict(image=images, label=[0]*400), features)
    table.to_parquet(tmp_path/'train.parquet')
    capsys.readouterr()   # its progress bar
    assert "a single class, 'only'" in refused(capsys, 'run', *tiny, '--data', tmp_path, '--out', tmp_path/'o')
    assert not (tmp_path/'o').exists()

def test_a_test_part_without_labels_leaves_the_validation_part_to_judge(tmp_path, monkeypatch):
    "As some sets of the hub are: labels of `test` are kept secret (-1)"
    import datasets
    kinds = datasets.Features(image=datasets.Image(), label=datasets.ClassLabel(names=['cross', 'nought']))
    images = [Image.fromarray(np.full((8, 8), 20*i, np.uint8)) for i in range(12)]
    labels = dict(train=[0, 1]*6, validation=[0, 1, 0, 1], test=[-1]*6)
    for k, ys in labels.items():
        table = datasets.Dataset.from_dict(dict(image=images[:len(ys)], label=ys), features=kinds)
        table.to_parquet(tmp_path/f'{k}.parquet')
    files = {k: str(tmp_path/f'{k}.parquet') for k in labels}
    streams = datasets.load_dataset('parquet', data_files=files, streaming=True)
    for k, d in streams.items():
        d.info.splits = datasets.SplitDict({k: datasets.SplitInfo(k, num_examples=len(labels[k]))})
    monkeypatch.setattr(datasets, 'load_dataset', lambda name, streaming: streams)
    test = open_shards('hf://someone/something')['test']
    assert test.rows == 10 and [y for _, y in test.read()] == [0, 1, 0, 1]

# --- Read

def test_the_stream_holds_the_same_images_as_the_folder(parts, shards):
    files, stream = load(parts, 28), load_shards(shards, 28)
    def sums(x): return sorted(x.flatten(1).long().sum(1).tolist())
    every = [x for x, _ in StreamDL(open_shards(shards)['train'], 28, bs=400)][0]
    assert sums(every) == sums(files[0].x) and sums(stream[2].x) == sums(files[1].x)
    assert not set(sums(stream[1].x)) - set(sums(files[0].x))

def test_samples_are_of_all_classes(tmp_path):
    "Rows sorted by class, many more than are held in memory, and some labels kept secret"
    write_shards(squares(tmp_path/'f', 3), tmp_path/'s')
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

@pytest.fixture
def two_parts(tmp_path):
    "A folder with train.parquet and test.parquet, 60 images each"
    (tmp_path/'s').mkdir()
    for part in 'train', 'test':
        squares(tmp_path/part, 30, lambda i, c: 3*i + 100*(c == 'b'))
        write_shards(tmp_path/part, tmp_path/f's-{part}')
        shutil.copy(next((tmp_path/f's-{part}').glob('*.parquet')), tmp_path/'s'/f'{part}.parquet')
    return tmp_path/'s'

def test_a_test_part_is_read_alone_for_evaluate(two_parts):
    alone, third = sample_shards(two_parts, [9], wanted=['test'])[9].test, load_shards(two_parts, 9).test
    assert torch.equal(alone.x, third.x) and len(alone) == 60

def test_a_test_part_without_images_is_none(two_parts):
    test = two_parts/'test.parquet'
    pq.write_table(pq.read_table(test).slice(0, 0), test)
    rest, _, held = load_shards(two_parts, 9)
    def pixels(s): return {x.tobytes() for x in s.x.numpy()}
    assert len(held) and not pixels(held) & pixels(rest) and len(rest.shards) < 60*.85

def test_a_test_part_with_other_classes_is_refused(two_parts):
    t = pq.read_table(two_parts/'test.parquet')
    meta = t.schema.metadata[b'huggingface'].replace(b'["a", "b"]', b'["b", "a"]')
    assert meta != t.schema.metadata[b'huggingface']
    pq.write_table(t.replace_schema_metadata({b'huggingface': meta}), two_parts/'test.parquet')
    with pytest.raises(ValueError, match='in another order'): load_shards(two_parts, 9)

def test_mixed_sizes_and_colours(tmp_path):
    for c in 'ab':
        (tmp_path/'f'/c).mkdir(parents=True)
        for i in range(40): Image.new('RGB' if i % 3 else 'L', (10 + i, 12), 5*i).save(tmp_path/'f'/c/f'{i}.png')
    write_shards(tmp_path/'f', tmp_path/'s')
    assert {s.x.shape[1:] for s in load_shards(tmp_path/'s', 16)} == {(3, 16, 16)}

def test_what_a_stream_repeats_is_counted_in_a_sample(shards):
    train, valid, _ = load_shards(shards, 28)
    less = train.take(range(50))
    said = [str(overlap_findings(Splits(t, valid, t.take([1])))[0]) for t in (train, less)]
    assert ['may be more' in s for s in said] == [False, True]

# --- Shared out

def test_a_stream_is_shared_out_evenly(parts, shards, tmp_path):
    "Three row groups, among processes and their workers"
    train = open_shards(shards)['train']
    for world in 2, 3, 4:
        shares = [row for r in range(world) for row in train.read(0, rank=r, world=world)]
        assert contents(shares) == contents(train.read())
    assert {len([*train.read(0, rank=r, world=4)]) for r in range(4)} == {100}
    images = [x.numpy().tobytes() for xb, _ in StreamDL(train, 28, bs=10, num_workers=3) for x in xb]
    assert len(images) == 400 and len(set(images)) > 380
    write_shards(parts, tmp_path/'many', rows=20)                  # row groups enough to share out those
    many = open_shards(tmp_path/'many')['train']
    halves = [[*many.read(0, rank=r, world=2)] for r in range(2)]
    assert abs(len(halves[0]) - len(halves[1])) <= 40 and contents(halves[0] + halves[1]) == contents(train.read())

def test_processes_of_one_machine_share_its_cores(shards, monkeypatch):
    train, valid, _ = load_shards(shards, 28)
    monkeypatch.setattr(os, 'cpu_count', lambda: 4)
    def workers(device='meta'):
        return stream_dataloaders(train, valid, 8, aug=[], device=device).train.fake_l.num_workers
    monkeypatch.delenv('LOCAL_WORLD_SIZE', raising=False)
    assert workers() == 3 and workers('cpu') == 0
    monkeypatch.setenv('LOCAL_WORLD_SIZE', '3')
    assert workers() == 1

# --- A whole run

@pytest.mark.slow
def test_a_run_from_a_stream(shards, tmp_path, capsys):
    assert main(['run', '--data', str(shards), *tiny, '--track', '--out', str(tmp_path/'r')]) == 0
    rep = report_of(tmp_path/'r')
    assert rep['data']['test'] == 80 and 300 < rep['data']['train'] < 400
    assert rep['resumed_from_step'] is None and rep['seconds_count'] == 'the whole run'
    assert (tmp_path/'r'/'log.csv').is_file() and list((tmp_path/'r'/'tensorboard').iterdir())
    assert not (tmp_path/'r'/'checkpoint').exists()
    capsys.readouterr()
    assert main(['evaluate', str(tmp_path/'r'), '--json']) == 0
    again = json.loads(capsys.readouterr().out)
    assert [r['accuracy'] for r in again['rows']] == [r['accuracy'] for r in rep['rows']]

@pytest.mark.slow
def test_unreadable_images_in_a_stream_are_told(tmp_path, shards, capsys):
    (tmp_path/'s').mkdir()
    for f in shards.glob('*.parquet'):
        rows = pq.read_table(f)
        cells = rows['image'].to_pylist()
        for cell in cells[::9]: cell['bytes'] = cell['bytes'][:60]
        kind = rows.schema.field('image').type
        pq.write_table(rows.set_column(0, rows.schema.field('image'), pa.array(cells, kind)), tmp_path/'s'/f.name)
    assert main(['run', '--data', str(tmp_path/'s'), *tiny, '--out', str(tmp_path/'r')]) == 0
    assert 1 <= capsys.readouterr().err.count('It was left out') <= 40
    said = refused(capsys, 'run', '--data', tmp_path/'s', '--strict', *tiny, '--out', tmp_path/'x')
    assert 'shard --strict' in said and not (tmp_path/'x').exists()
