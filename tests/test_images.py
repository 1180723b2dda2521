"One picture of any kind, and what is no picture."
import errno, os
import numpy as np, pytest
from PIL import Image
from conftest import folder
from finetune_course.base.errors import InputError
from finetune_course.base.images import read_image
from finetune_course.data import class_folders

@pytest.mark.parametrize('mode, c', [('1', 1), ('L', 1), ('I;16', 1), ('P', 3), ('RGB', 3), ('RGBA', 3), ('LA', 1),
                                     ('CMYK', 3), ('LAB', 3)])
def test_every_mode_is_read(tmp_path, mode, c):
    im = Image.fromarray(np.full((9, 7), 30000, np.uint16)) if mode == 'I;16' else Image.new(mode, (7, 9))
    im.save(f := tmp_path/('x.tif' if mode in ('CMYK', 'LAB') else 'x.png'))
    x = read_image(f, 16)
    assert x.shape == (c, 16, 16) and x.dtype == np.uint8
    if mode == 'I;16': assert (x == round(30000/257)).all()

def test_transparent_is_white(tmp_path):
    Image.new('RGBA', (4, 4), (0, 0, 0, 0)).save(f := tmp_path/'x.png')
    assert (read_image(f, 8) == 255).all()

@pytest.mark.parametrize('size', [(1, 1), (10_000, 3), (3, 10_000)])
def test_extreme_sizes(tmp_path, size):
    Image.new('L', size, 7).save(f := tmp_path/'x.png')
    assert (read_image(f, 16) == 7).all()

@pytest.mark.parametrize('top', [1., 1000.])
def test_what_is_no_number_is_black(tmp_path, top):
    a = np.full((6, 6), top, np.float32)
    a[0, :3] = np.nan, np.inf, -np.inf
    Image.fromarray(a).save(f := tmp_path/'x.tif')
    x = read_image(f, 6)[0]
    assert (x[0, :3] == 0).all() and (x[1:] == (255 if top == 1 else round(top/257))).all()

def test_what_is_no_image_file_is_called_by_its_name(tmp_path):
    for path, text in (tmp_path, 'is a folder'), (tmp_path/'none.png', 'does not exist'):
        with pytest.raises(ValueError, match=text): read_image(path, 8)

@pytest.mark.parametrize('code, lost', [(errno.EACCES, 1), (errno.EINVAL, 1), (errno.EIO, 0)])
def test_a_disk_that_fails_is_no_broken_picture(tmp_path, monkeypatch, code, lost):
    folder(tmp_path)
    def open_(f, *args, real=Image.open, **kwargs):
        if str(f) == str(tmp_path/'a'/'0.png'): raise OSError(code, os.strerror(code))
        return real(f, *args, **kwargs)
    monkeypatch.setattr(Image, 'open', open_)
    if not lost:
        with pytest.raises(OSError, match='0.png'): class_folders(tmp_path, 16)
        return
    ds = class_folders(tmp_path, 16)
    assert (len(ds), len(ds.skipped)) == (7, 1) and ('permissions' in ds.skipped[0]) == (code == errno.EACCES)

def test_broken_files_are_named_and_counted_or_refused(tmp_path):
    folder(tmp_path)
    good = (tmp_path/'a'/'0.png').read_bytes()
    (tmp_path/'a'/'cut.png').write_bytes(good[:len(good)//2])
    (tmp_path/'a'/'empty.png').write_bytes(b'')
    (tmp_path/'b'/'text.png').write_text('no picture')
    ds = class_folders(tmp_path, 16)
    assert len(ds) == 8 and len(ds.skipped) == 3 and any('text.png' in s for s in ds.skipped)
    with pytest.raises(InputError, match='cut.png'): class_folders(tmp_path, 16, strict=True)
