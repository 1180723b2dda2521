"Folders as people really have them: stray files, links, odd names, parts and IDX files."
import errno, gzip, json, os, re, shutil
from pathlib import Path
import numpy as np, pytest
from PIL import Image
from conftest import folder, idx, refused, write_idx
from finetune_course.app.cli import main
from finetune_course.base.errors import InputError
from finetune_course.base.digits import read_idx
from finetune_course.base.folders import image_files
from finetune_course.data import class_folders, load
from finetune_course.app.config import Config
from finetune_course.app.provenance import check_outside_data
from finetune_course.base.shards import write_shards

def test_a_mistyped_folder_is_not_looked_for_on_the_hub(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said = refused(capsys, 'run', '--data', 'data/digits', '--out', 'o')
    assert "Unknown data set 'data/digits'" in said and 'hf://owner/name' in said

def test_memory_that_ends_is_no_broken_picture(tmp_path, capsys, monkeypatch):
    def run_out(im): raise MemoryError
    folder(tmp_path/'in')
    monkeypatch.setattr('PIL.ImageOps.exif_transpose', run_out)
    assert 'does not fit into memory' in refused(capsys, 'run', '--data', tmp_path/'in', '--out', tmp_path/'o')

# --- Files

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

def test_an_image_beside_the_parts_is_named_or_refused(tmp_path, capsys):
    for part in 'train', 'test': folder(tmp_path/part)
    shutil.copy(tmp_path/'train'/'a'/'0.png', tmp_path/'stray.png')
    (tmp_path/'README.pdf').touch()                       # Pillow writes such files and reads none
    assert [s.split(' ')[0] for s in load(tmp_path, 16)[0].skipped] == [str(tmp_path/'stray.png')]
    with pytest.raises(InputError, match='stray.png'): load(tmp_path, 16, strict=True)
    assert 'stray.png' in refused(capsys, 'shard', tmp_path, tmp_path.with_suffix('.out'), '--strict')

@pytest.mark.parametrize('name', ['a.heic', 'a.DNG', 'a.svg'])
def test_pictures_of_a_kind_that_cannot_be_read_are_named_or_refused(tmp_path, capsys, name):
    folder(tmp_path/'in')
    f = tmp_path/'in'/'a'/name
    if name == 'a.DNG': Image.new('L', (9, 9)).save(f, 'tiff')   # of a camera's file Pillow would read the thumbnail
    else: f.write_bytes(b'\0\0\0\x18ftypheic' + bytes(20) if name == 'a.heic' else b'<svg/>')
    (tmp_path/'in'/'a'/'notes.txt').write_text('no image')
    said = f'{name} cannot be read as an image .*convert it to PNG or JPEG'
    ds = class_folders(tmp_path/'in', 16)
    assert len(ds) == 8 and len(ds.skipped) == 1 and re.search(said, ds.skipped[0])
    with pytest.raises(InputError, match=said): class_folders(tmp_path/'in', 16, strict=True)
    assert re.search(said, refused(capsys, 'shard', tmp_path/'in', tmp_path/'out', '--strict'))
    assert main(['shard', str(tmp_path/'in'), str(tmp_path/'out')]) == 0
    assert re.search(said, capsys.readouterr().err)
    for f in (tmp_path/'in'/'a').glob('*.png'): f.unlink()
    with pytest.raises(InputError, match=f"class 'a'.*{said}"): load(tmp_path/'in', 16)

def test_a_picture_under_a_wrong_name_is_read(tmp_path):
    folder(tmp_path)
    (tmp_path/'a'/'0.png').rename(tmp_path/'a'/'0.heic')             # so is a true one where a plugin can
    assert len(class_folders(tmp_path, 16, strict=True)) == 8

def test_a_name_without_an_ending_is_asked_of_pillow(tmp_path):
    folder(tmp_path)
    (tmp_path/'a'/'0.png').rename(tmp_path/'a'/'0')
    (tmp_path/'a'/'README').write_text('no image')
    (tmp_path/'a'/'empty').touch()
    ds = class_folders(tmp_path, 16, strict=True)
    assert len(ds) == 8 and not ds.skipped and ds.names[0] == str(tmp_path/'a'/'0')

def test_pictures_by_any_name(tmp_path):
    folder(tmp_path)
    for name in '7.jpg-large', 'n01.0042': shutil.copy(tmp_path/'a'/'0.png', tmp_path/'a'/name)
    for i, text in enumerate(('no picture', 'P1 Anna, left hand', 'BM')):   # some begin like one
        (tmp_path/'a'/f'{i}.txt').write_text(text)
    ds = class_folders(tmp_path, 16)
    assert len(ds) == 10 and not ds.skipped

def test_the_names_of_old_archives(tmp_path, capsys):
    old, data = os.fsdecode(b'caf\xe9'), folder(tmp_path/'in')
    (data/'b'/old).mkdir()
    for f in data/'a'/f'{old}.png', data/f'{old}.png', data/'b'/old: shutil.copy(data/'a'/'0.png', f)
    ds = class_folders(data, 16)
    assert len(ds) == 8 and len(ds.skipped) == 3 and 'caf\\udce9.png' in ds.skipped[0] and 'rename' in ds.skipped[1]
    json.dumps(ds.skipped, ensure_ascii=False).encode()
    with pytest.raises(InputError, match='caf'): class_folders(data, 16, strict=True)
    assert main(['shard', str(data), str(tmp_path/'out')]) == 0 and '3 files left out' in capsys.readouterr().err
    (data/'b').rename(data/f'b{old}')
    assert 'rename the folder' in refused(capsys, 'run', '--data', data, '--out', tmp_path/'o')
    data.rename(tmp_path/old)
    (tmp_path/old/f'b{old}').rename(tmp_path/old/'b')
    assert 'rename the folder' in refused(capsys, 'run', '--data', tmp_path/old, '--out', tmp_path/'o')

# --- Links, and folders that change or are closed

def test_links_to_folders_are_followed_once(tmp_path):
    data, away = folder(tmp_path/'in'), folder(tmp_path/'away', 'xy', 2)
    (data/'a'/'ring').symlink_to(data/'a')
    (data/'a'/'up').symlink_to(data)                      # no second way to the images of b
    (data/'a'/'0').symlink_to(away/'x')
    (away/'x'/'more').symlink_to(away/'y')
    (away/'y'/'back').symlink_to(data/'a')
    folder(data/'a', 'z', 1)
    (data/'a'/'alias').symlink_to(data/'a'/'z')
    names = [str(f.relative_to(data)) for f, c in image_files(data) if c == 'a']
    assert names == ['a/0/0.png', 'a/0/1.png', 'a/0/more/0.png', 'a/0/more/1.png',
                     *(f'a/{i}.png' for i in range(4)), 'a/z/0.png']
    assert len(class_folders(data, 16)) == 13

def test_links_to_nothing_are_told(tmp_path, capsys):
    data = folder(tmp_path/'in')
    (data/'a'/'lost.png').symlink_to(tmp_path/'away.png')
    ds = class_folders(data, 16)
    assert len(ds) == 8 and len(ds.skipped) == 1
    assert 'lost.png does not exist; check the name, and what it links to' in ds.skipped[0]
    with pytest.raises(InputError, match='lost.png'): class_folders(data, 16, strict=True)
    assert main(['shard', str(data), str(tmp_path/'out')]) == 0 and '1 file left out' in capsys.readouterr().err
    (data/'c').symlink_to(tmp_path/'disk')                # a class, by the look of it
    assert 'c is a link to what is not there' in refused(capsys, 'run', '--data', data, '--out', tmp_path/'o')

def test_a_folder_that_may_not_be_read(tmp_path, capsys, monkeypatch):
    folder(tmp_path/'in')
    (tmp_path/'in'/'a'/'closed').mkdir()
    def scan(path, real=os.scandir):
        if str(path).endswith('closed'): raise PermissionError(errno.EACCES, 'Permission denied', str(path))
        return real(path)
    monkeypatch.setattr(os, 'scandir', scan)
    said = refused(capsys, 'run', '--data', tmp_path/'in', '--out', tmp_path/'o')
    assert 'closed cannot be read (Permission denied)' in said

# --- Classes and parts

def test_folders_that_cannot_serve(tmp_path, capsys):
    def said(data): return refused(capsys, 'run', '--data', data, '--out', tmp_path/'o')
    (tmp_path/'empty').mkdir()
    assert 'no images' in said(tmp_path/'empty')
    assert 'single class' in said(folder(tmp_path/'one', 'a'))
    folder(tmp_path/'few')
    for f in list((tmp_path/'few'/'b').iterdir())[1:]: f.unlink()
    assert "class 'b'" in said(tmp_path/'few')
    assert 'nowhere' in said(tmp_path/'nowhere')
    assert not list(tmp_path.glob('o')) and not list(tmp_path.glob('o.*'))

def test_train_and_test_folders(tmp_path):
    folder(tmp_path/'train')
    folder(tmp_path/'test', 'ab', 2)
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
    (tmp_path/'in'/'notes').mkdir()
    (tmp_path/'in'/'notes'/'a.txt').touch()
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

def test_a_run_is_no_class(tmp_path, capsys, monkeypatch):
    folder(tmp_path/'in')
    monkeypatch.chdir(tmp_path/'in')
    for out in [], ['--out', 'a/run'], ['--out', tmp_path/'in'/'run']:
        assert 'would count as a class' in refused(capsys, 'run', '--data', '.', *out)
    assert sorted(p.name for p in Path().iterdir()) == ['a', 'b']
    for part in 'train', 'test': folder(tmp_path/'parts'/part)
    check_outside_data(Config(data=tmp_path/'parts'), tmp_path/'parts'/'runs'/'r')
    with pytest.raises(InputError): check_outside_data(Config(data=tmp_path/'parts'), tmp_path/'parts'/'test'/'r')

# --- IDX files

def test_idx_gzipped_or_not_and_damaged(tmp_path):
    x = np.arange(2*3*3, dtype=np.uint8).reshape(2, 3, 3)
    raw = idx(x)
    (tmp_path/'x').write_bytes(raw)
    (tmp_path/'x.gz').write_bytes(gzip.compress(raw))
    for name in 'x', 'x.gz': assert (read_idx(tmp_path/name) == x).all()
    for name, b in {'cut': raw[:-1], 'cut.gz': gzip.compress(raw)[:-9], 'not': b'hello', 'nil': b''}.items():
        (tmp_path/name).write_bytes(b)
        with pytest.raises(InputError, match=name): read_idx(tmp_path/name)

@pytest.mark.parametrize('train, test, word', [([0]*4, [0], 'single class'), ([0, 0, 1], [0, 1], "class '1'"),
                                               ([0, 0, 1, 1], [2], "class '2'")])
def test_idx_files_with_too_few_of_a_class(tmp_path, train, test, word):
    for part, y in ('train', train), ('t10k', test):
        write_idx(tmp_path, part, np.full((len(y), 2, 2), 9, np.uint8), np.array(y, np.uint8))
    with pytest.raises(InputError, match=word): load(tmp_path, 16)
