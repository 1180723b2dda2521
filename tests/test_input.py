"Input as people really have it: odd pictures, broken files, wrong options. One sentence, exit code 2, nothing half-written."
import errno, gzip, json, os, pickle, re, shutil
from pathlib import Path
import numpy as np, pytest, torch
from PIL import Image
from safetensors.torch import save_file
from conftest import refused
from finetune_course import pipeline
from finetune_course.backbone import backbone, read_weights
from finetune_course.cli import main
from finetune_course.data import InputError, class_folders, image_files, load, mnist5k, read_idx, read_image, split
from finetune_course.scale import write_shards

def folder(path, classes='ab', n=4, size=(12, 10)):
    for i, c in enumerate(classes):
        (path/c).mkdir(parents=True)
        for j in range(n): Image.new('L', size, 40*i + j).save(path/c/f'{j}.png')
    return path

# --- Pictures

@pytest.mark.parametrize('mode, c', [('1', 1), ('L', 1), ('I;16', 1), ('P', 3), ('RGB', 3), ('RGBA', 3), ('LA', 1), ('CMYK', 3), ('LAB', 3)])
def test_every_mode_is_read(tmp_path, mode, c):
    im = Image.fromarray(np.full((9, 7), 30000, np.uint16)) if mode == 'I;16' else Image.new(mode, (7, 9))
    im.save(f := tmp_path/('x.tif' if mode in ('CMYK', 'LAB') else 'x.png'))
    x = read_image(f, 16)
    assert x.shape == (c, 16, 16) and x.dtype == torch.uint8
    if mode == 'I;16': assert (x == round(30000/257)).all()

def test_transparent_is_white(tmp_path):
    Image.new('RGBA', (4, 4), (0, 0, 0, 0)).save(f := tmp_path/'x.png')
    assert (read_image(f, 8) == 255).all()

@pytest.mark.parametrize('size', [(1, 1), (10_000, 3), (3, 10_000)])
def test_extreme_sizes(tmp_path, size):
    Image.new('L', size, 7).save(f := tmp_path/'x.png')
    assert (read_image(f, 16) == 7).all()

def test_broken_files_are_named_and_counted_or_refused(tmp_path):
    folder(tmp_path)
    good = (tmp_path/'a'/'0.png').read_bytes()
    (tmp_path/'a'/'cut.png').write_bytes(good[:len(good)//2])
    (tmp_path/'a'/'empty.png').write_bytes(b'')
    (tmp_path/'b'/'text.png').write_text('no picture')
    ds = class_folders(tmp_path, 16)
    assert len(ds) == 8 and len(ds.skipped) == 3 and any('text.png' in s for s in ds.skipped)
    with pytest.raises(InputError, match='cut.png'): class_folders(tmp_path, 16, strict=True)

def test_an_image_without_a_class_is_named_or_refused(tmp_path, capsys):
    folder(tmp_path/'in')
    shutil.copy(tmp_path/'in'/'a'/'0.png', tmp_path/'in'/'stray.png')
    (tmp_path/'in'/'notes.txt').write_text('no image')
    ds = class_folders(tmp_path/'in', 16)
    assert len(ds) == 8 and len(ds.skipped) == 1 and 'stray.png lies in no class folder' in ds.skipped[0]
    with pytest.raises(InputError, match='stray.png'): class_folders(tmp_path/'in', 16, strict=True)
    assert 'stray.png' in refused(capsys, 'shard', tmp_path/'in', tmp_path/'out', '--strict')
    assert main(['shard', str(tmp_path/'in'), str(tmp_path/'out')]) == 0
    out, err = capsys.readouterr()
    assert '8 train' in out and '1 file left out' in err and 'stray.png' in err
    for part in 'train', 'test': shutil.copytree(tmp_path/'in', tmp_path/'parts'/part, ignore=shutil.ignore_patterns('stray*'))
    shutil.copy(tmp_path/'in'/'stray.png', tmp_path/'parts')
    (tmp_path/'parts'/'README.pdf').touch()                       # Pillow writes such files and reads none
    assert [s.split(' ')[0] for s in load(tmp_path/'parts', 16)[0].skipped] == [str(tmp_path/'parts'/'stray.png')]
    with pytest.raises(InputError, match='stray.png'): load(tmp_path/'parts', 16, strict=True)
    assert 'stray.png' in refused(capsys, 'shard', tmp_path/'parts', tmp_path/'out2', '--strict')

@pytest.mark.parametrize('name', ['a.heic', 'a.DNG', 'a.svg'])
def test_pictures_of_a_kind_that_cannot_be_read_are_named_or_refused(tmp_path, capsys, name):
    folder(tmp_path/'in')
    f = tmp_path/'in'/'a'/name
    if name == 'a.DNG': Image.new('L', (9, 9)).save(f, 'tiff')       # of a camera's raw file Pillow would read the thumbnail
    else: f.write_bytes(b'\0\0\0\x18ftypheic' + bytes(20) if name == 'a.heic' else b'<svg/>')
    (tmp_path/'in'/'a'/'notes.txt').write_text('no image')
    said = f'{name} cannot be read as an image .*convert it to PNG or JPEG'
    ds = class_folders(tmp_path/'in', 16)
    assert len(ds) == 8 and len(ds.skipped) == 1 and re.search(said, ds.skipped[0])
    with pytest.raises(InputError, match=said): class_folders(tmp_path/'in', 16, strict=True)
    assert re.search(said, refused(capsys, 'shard', tmp_path/'in', tmp_path/'out', '--strict'))
    assert main(['shard', str(tmp_path/'in'), str(tmp_path/'out')]) == 0 and re.search(said, capsys.readouterr().err)
    for f in (tmp_path/'in'/'a').glob('*.png'): f.unlink()
    with pytest.raises(InputError, match=f"class 'a'.*{said}"): load(tmp_path/'in', 16)

def test_a_picture_under_a_wrong_name_is_read(tmp_path):
    folder(tmp_path)
    (tmp_path/'a'/'0.png').rename(tmp_path/'a'/'0.heic')             # so is a true one where a plugin can
    assert len(class_folders(tmp_path, 16, strict=True)) == 8

def test_a_name_without_an_ending_is_asked_of_pillow(tmp_path):
    folder(tmp_path)
    (tmp_path/'a'/'0.png').rename(tmp_path/'a'/'0')
    (tmp_path/'a'/'README').write_text('no image'); (tmp_path/'a'/'empty').touch()
    ds = class_folders(tmp_path, 16, strict=True)
    assert len(ds) == 8 and not ds.skipped and ds.names[0] == str(tmp_path/'a'/'0')

def test_links_to_folders_are_followed_once(tmp_path):
    folder(tmp_path/'in'); folder(tmp_path/'away', 'xy', 2)
    (tmp_path/'in'/'a'/'ring').symlink_to(tmp_path/'in'/'a')
    (tmp_path/'in'/'a'/'up').symlink_to(tmp_path/'in')            # no second way to the images of b
    (tmp_path/'in'/'a'/'0').symlink_to(tmp_path/'away'/'x')
    (tmp_path/'away'/'x'/'more').symlink_to(tmp_path/'away'/'y')
    (tmp_path/'away'/'y'/'back').symlink_to(tmp_path/'in'/'a')
    folder(tmp_path/'in'/'a', 'z', 1); (tmp_path/'in'/'a'/'alias').symlink_to(tmp_path/'in'/'a'/'z')
    names = [str(f.relative_to(tmp_path/'in')) for f, c in image_files(tmp_path/'in') if c == 'a']
    assert names == ['a/0/0.png', 'a/0/1.png', 'a/0/more/0.png', 'a/0/more/1.png', *(f'a/{i}.png' for i in range(4)), 'a/z/0.png']
    assert len(class_folders(tmp_path/'in', 16)) == 13

def test_pictures_by_any_name(tmp_path):
    folder(tmp_path)
    for name in '7.jpg-large', 'n01.0042': shutil.copy(tmp_path/'a'/'0.png', tmp_path/'a'/name)
    for i, text in enumerate(('no picture', 'P1 Anna, left hand', 'BM')): (tmp_path/'a'/f'{i}.txt').write_text(text)   # some begin like one
    ds = class_folders(tmp_path, 16)
    assert len(ds) == 10 and not ds.skipped

def test_links_to_nothing_are_told(tmp_path, capsys):
    folder(tmp_path/'in')
    (tmp_path/'in'/'a'/'lost.png').symlink_to(tmp_path/'away.png')
    ds = class_folders(tmp_path/'in', 16)
    assert len(ds) == 8 and len(ds.skipped) == 1 and 'lost.png does not exist; check the name, and what it links to' in ds.skipped[0]
    with pytest.raises(InputError, match='lost.png'): class_folders(tmp_path/'in', 16, strict=True)
    assert main(['shard', str(tmp_path/'in'), str(tmp_path/'out')]) == 0 and '1 file left out' in capsys.readouterr().err
    (tmp_path/'in'/'c').symlink_to(tmp_path/'disk')                # a class, by the look of it
    assert 'c is a link to what is not there' in refused(capsys, 'run', '--data', tmp_path/'in', '--out', tmp_path/'o')

@pytest.mark.parametrize('code, lost', [(errno.EACCES, 1), (errno.EINVAL, 1), (errno.EIO, 0)])
def test_a_disk_that_fails_is_no_broken_picture(tmp_path, monkeypatch, code, lost):
    folder(tmp_path)
    def open_(f, *args, real=Image.open, **kwargs):
        if str(f) == str(tmp_path/'a'/'0.png'): raise OSError(code, os.strerror(code))
        return real(f, *args, **kwargs)
    monkeypatch.setattr(Image, 'open', open_)
    if lost: assert (len(ds := class_folders(tmp_path, 16)), len(ds.skipped)) == (7, 1) and ('permissions' in ds.skipped[0]) == (code == errno.EACCES)
    else:
        with pytest.raises(OSError, match='0.png'): class_folders(tmp_path, 16)

def test_a_folder_that_may_not_be_read(tmp_path, capsys, monkeypatch):
    folder(tmp_path/'in')
    (tmp_path/'in'/'a'/'closed').mkdir()
    def scan(path, real=os.scandir):
        if str(path).endswith('closed'): raise PermissionError(errno.EACCES, 'Permission denied', str(path))
        return real(path)
    monkeypatch.setattr(os, 'scandir', scan)
    assert 'closed cannot be read (Permission denied)' in refused(capsys, 'run', '--data', tmp_path/'in', '--out', tmp_path/'o')

def test_images_that_come_while_they_are_read(tmp_path, capsys, monkeypatch):
    folder(tmp_path/'in', n=10)
    def load(*args, real=pipeline.load):
        got = real(*args)
        shutil.copy(tmp_path/'in'/'a'/'0.png', tmp_path/'in'/'a'/'late.png')
        return got
    monkeypatch.setattr(pipeline, 'load', load)
    assert 'changed while they were read' in refused(capsys, 'run', '--data', tmp_path/'in', '--out', tmp_path/'o')

def test_a_run_is_no_class(tmp_path, capsys, monkeypatch):
    folder(tmp_path/'in')
    monkeypatch.chdir(tmp_path/'in')
    for out in [], ['--out', 'a/run'], ['--out', tmp_path/'in'/'run']: assert 'would count as a class' in refused(capsys, 'run', '--data', '.', *out)
    assert sorted(p.name for p in Path().iterdir()) == ['a', 'b']
    folder(tmp_path/'parts'/'train'), folder(tmp_path/'parts'/'test')
    pipeline.check_outside(pipeline.Config(data=tmp_path/'parts'), tmp_path/'parts'/'runs'/'r')
    with pytest.raises(InputError): pipeline.check_outside(pipeline.Config(data=tmp_path/'parts'), tmp_path/'parts'/'test'/'r')

def test_the_names_of_old_archives(tmp_path, capsys):
    old = os.fsdecode(b'caf\xe9')
    folder(tmp_path/'in')
    for f in tmp_path/'in'/'a'/f'{old}.png', tmp_path/'in'/f'{old}.png': shutil.copy(tmp_path/'in'/'a'/'0.png', f)
    (tmp_path/'in'/'b'/old).mkdir(); shutil.copy(tmp_path/'in'/'a'/'0.png', tmp_path/'in'/'b'/old)
    ds = class_folders(tmp_path/'in', 16)
    assert len(ds) == 8 and len(ds.skipped) == 3 and 'caf\\udce9.png' in ds.skipped[0] and 'rename' in ds.skipped[1]
    json.dumps(ds.skipped, ensure_ascii=False).encode()
    with pytest.raises(InputError, match='caf'): class_folders(tmp_path/'in', 16, strict=True)
    assert main(['shard', str(tmp_path/'in'), str(tmp_path/'out')]) == 0 and '3 files left out' in capsys.readouterr().err
    (tmp_path/'in'/'b').rename(tmp_path/'in'/f'b{old}')
    assert 'rename the folder' in refused(capsys, 'run', '--data', tmp_path/'in', '--out', tmp_path/'o')
    (tmp_path/'in').rename(tmp_path/old); (tmp_path/old/f'b{old}').rename(tmp_path/old/'b')
    assert 'rename the folder' in refused(capsys, 'run', '--data', tmp_path/old, '--out', tmp_path/'o')

@pytest.mark.parametrize('top', [1., 1000.])
def test_what_is_no_number_is_black(tmp_path, top):
    a = np.full((6, 6), top, np.float32); a[0, :3] = np.nan, np.inf, -np.inf
    Image.fromarray(a).save(f := tmp_path/'x.tif')
    x = read_image(f, 6)[0]
    assert (x[0, :3] == 0).all() and (x[1:] == (255 if top == 1 else round(top/257))).all()

# --- Folders

def test_folders_that_cannot_serve(tmp_path, capsys):
    (tmp_path/'empty').mkdir()
    assert 'no images' in refused(capsys, 'run', '--data', tmp_path/'empty', '--out', tmp_path/'o')
    assert 'single class' in refused(capsys, 'run', '--data', folder(tmp_path/'one', 'a'), '--out', tmp_path/'o')
    folder(tmp_path/'few')
    for f in list((tmp_path/'few'/'b').iterdir())[1:]: f.unlink()
    assert "class 'b'" in refused(capsys, 'run', '--data', tmp_path/'few', '--out', tmp_path/'o')
    assert 'nowhere' in refused(capsys, 'run', '--data', tmp_path/'nowhere', '--out', tmp_path/'o')
    assert not list(tmp_path.glob('o')) and not list(tmp_path.glob('o.*'))

def test_train_and_test_folders(tmp_path):
    folder(tmp_path/'train'); folder(tmp_path/'test', 'ab', 2)
    assert tuple(map(len, load(tmp_path, 16))) == (8, 4)
    folder(tmp_path/'test'/'c', 'x')
    with pytest.raises(InputError, match="'c'"): load(tmp_path, 16)

@pytest.mark.parametrize('parts', [('Train', 'Test'), ('training', 'testing'), ('TRAIN', 'val')])
def test_parts_by_another_name_are_no_classes(tmp_path, capsys, parts):
    for p in parts: folder(tmp_path/'in'/p)
    for argv in ('run', '--data', tmp_path/'in', '--out', tmp_path/'o'), ('shard', tmp_path/'in', tmp_path/'o'):
        assert 'call them train/ and test/' in refused(capsys, *argv)

def test_parts_without_classes(tmp_path):
    folder(tmp_path, ('train', 'test'))
    with pytest.raises(InputError, match='one folder a class in each'): load(tmp_path, 16)

def test_folders_beside_the_parts_are_named_or_refused(tmp_path, capsys):
    for p in 'train', 'test', 'val', '.cache': folder(tmp_path/'in'/p)
    (tmp_path/'in'/'notes').mkdir(); (tmp_path/'in'/'notes'/'a.txt').touch()
    assert [s.split(' ')[0] for s in load(tmp_path/'in', 16)[0].skipped] == [str(tmp_path/'in'/'val')]
    with pytest.raises(InputError, match='val holds images that are not read'): load(tmp_path/'in', 16, strict=True)
    assert 'val holds images' in refused(capsys, 'shard', tmp_path/'in', tmp_path/'out', '--strict')

def test_a_class_may_be_called_train(tmp_path):
    folder(tmp_path, ('car', 'plane', 'train'), 5)
    train, test = load(tmp_path, 16)
    assert train.vocab == ['car', 'plane', 'train'] and (len(train), len(test)) == (12, 3)
    assert write_shards(tmp_path, tmp_path.with_suffix('.shards'))[0] == {'train': 15}
    shutil.copytree(tmp_path/'train', tmp_path/'train'/'steam')
    assert not class_folders(tmp_path, 16, strict=True).skipped       # as in train/train/
    for c in 'car', 'plane': shutil.rmtree(tmp_path/c)
    assert len(class_folders(tmp_path, 16, vocab=train.vocab)) == 10   # and be all there is to evaluate

def test_idx_gzipped_or_not_and_damaged(tmp_path):
    x = np.arange(2*3*3, dtype=np.uint8)
    raw = bytes([0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 3]) + x.tobytes()
    (tmp_path/'x').write_bytes(raw); (tmp_path/'x.gz').write_bytes(gzip.compress(raw))
    assert (read_idx(tmp_path/'x') == x.reshape(2, 3, 3)).all() and (read_idx(tmp_path/'x.gz') == x.reshape(2, 3, 3)).all()
    for name, b in {'cut': raw[:-1], 'cut.gz': gzip.compress(raw)[:-9], 'not': b'hello', 'nil': b''}.items():
        (tmp_path/name).write_bytes(b)
        with pytest.raises(InputError, match=name): read_idx(tmp_path/name)

def test_split_is_stratified_seeded_and_disjoint():
    from sklearn.model_selection import train_test_split
    ds = mnist5k(8)
    rest, part = split(ds, .2)
    _, theirs = train_test_split(ds.y.numpy(), test_size=.2, stratify=ds.y.numpy(), random_state=0)
    assert (part.y.bincount() == torch.from_numpy(np.bincount(theirs))).all() and len(rest) + len(part) == len(ds)
    assert part.digest == split(ds, .2)[1].digest != split(ds, .2, seed=1)[1].digest

@pytest.mark.parametrize('train, test, word', [([0]*4, [0], 'single class'), ([0, 0, 1], [0, 1], "class '1'"), ([0, 0, 1, 1], [2], "class '2'")])
def test_idx_files_with_too_few_of_a_class(tmp_path, train, test, word):
    for part, y in ('train', train), ('t10k', test):
        (tmp_path/f'{part}-labels-idx1-ubyte').write_bytes(bytes([0, 0, 8, 1, 0, 0, 0, len(y), *y]))
        (tmp_path/f'{part}-images-idx3-ubyte').write_bytes(bytes([0, 0, 8, 3, 0, 0, 0, len(y), 0, 0, 0, 2, 0, 0, 0, 2, *[9]*4*len(y)]))
    with pytest.raises(InputError, match=word): load(tmp_path, 16)

def test_an_output_folder_is_never_taken_from_its_owner(tmp_path, capsys, monkeypatch):
    (tmp_path/'mine.partial').mkdir(); (tmp_path/'mine.partial'/'diary.txt').touch()
    assert 'diary.txt' in refused(capsys, 'run', '--out', tmp_path/'mine', '--force')
    assert 'text.png' in refused(capsys, 'run', '--out', (tmp_path/'text.png').write_text('x') and tmp_path/'text.png')
    monkeypatch.chdir(tmp_path)
    assert 'which no run wrote' in refused(capsys, 'run', '--out', '.')

# --- Weights

class Evil:
    def __reduce__(self): return os.mkdir, ('evil-was-here',)

def test_a_pickle_runs_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with open('w.pth', 'wb') as f: pickle.dump(Evil(), f)
    torch.save({'w': Evil()}, 'v.pth')
    for w in 'w.pth', 'v.pth': assert 'nothing in it was run' in refused(capsys, 'run', '--weights', w, '--out', 'o')
    assert not os.path.exists('evil-was-here') and not list(tmp_path.glob('o*'))

def test_weights_of_another_net_and_of_another_hash(tmp_path):
    save_file({'a': torch.zeros(3)}, tmp_path/'a.safetensors')
    with pytest.raises(InputError, match='same --arch'): backbone('resnet18', tmp_path/'a.safetensors')
    torch.save({'a': torch.zeros(3)}, tmp_path/'net-01234567.pth')
    with pytest.raises(InputError, match='sha256'): read_weights(tmp_path/'net-01234567.pth')
    with pytest.raises(InputError, match='does not exist'): read_weights(tmp_path/'none.pth')

# --- Options

@pytest.mark.parametrize('argv, word', [(('--prune', '1.5'), '1.5'), (('--prune', '-1'), '-1'), (('--size', '0'), '--size'), (('--epochs', '0'), '--epochs'),
                                        (('--arch', 'nope'), 'nope'), (('--compile', '--device', 'cpu'), '--compile'), (('--prune', 'nan'), 'nan'), (('--seed', '-1'), '--seed'),
                                        (('--arch', 'local-dir:x'), 'unknown'), (('--arch', 'plain_cnn'), '--weights random'), (('--arch', 'vgg16', '--weights', 'random', '--size', '16'), '16×16'),
                                        (('--arch', 'resnet18', '--weights', 'random', '--prune', '.99'), 'smaller prune ratio'), (('--target-bytes', 'much'), 'much'),
                                        (('--target-bytes', '9k', '--max-drop', '.1'), 'one target'), (('--target-latency', '-1'), '-1'), (('--max-drop', '5'), 'share of accuracy'), (('--small-size', '2'), '--small-size')])
def test_options_out_of_range(tmp_path, capsys, argv, word): assert word in refused(capsys, 'run', *argv, '--out', tmp_path/'o') and not list(tmp_path.iterdir())

def test_words_argparse_refuses(capsys):
    for argv in ['run', '--size', 'big'], ['fly'], ['run', '--device', 'abacus'], []:
        with pytest.raises(SystemExit) as e: main(argv)
        assert e.value.code == 2 and capsys.readouterr().err.count('\n') == 1

def test_lab_leaves_other_folders_alone(tmp_path, capsys):
    (tmp_path/'a.png').touch()
    assert main(['lab', '--copy-only', str(tmp_path)]) == 2 and 'other things than chapters' in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ['a.png']
    for _ in range(2): assert main(['lab', '--copy-only', str(tmp_path/'new')]) == 0   # the second time into its own copy
    assert (tmp_path/'new'/'nbs'/'01_data.ipynb').is_file()

def test_what_is_no_image_file_is_called_by_its_name(tmp_path):
    for path, text in (tmp_path, 'is a folder'), (tmp_path/'none.png', 'does not exist'):
        with pytest.raises(ValueError, match=text): read_image(path, 8)
