"""Pictures of digits: what is found and how it is prepared, and pictures that are none.

`python tests/test_digits.py` writes vectors/digits.json anew: pictures and what `find_digits` makes of them, also for
whoever writes it again in another language."""
import base64, io, json
from pathlib import Path
import cv2, numpy as np, pytest
from PIL import Image, ImageDraw
from conftest import refused
from finetune_course.app.cli import main
from finetune_course.base.images import decode_image
from finetune_course.base.strokes import is_prepared
from finetune_course.digits import find_digits
from finetune_course.predict import Predictor

file = Path(__file__).parent/'vectors'/'digits.json'

def as_png(x):
    buffer = io.BytesIO()
    Image.fromarray(x).save(buffer, 'PNG')
    return base64.b64encode(buffer.getvalue()).decode()

def from_png(text): return decode_image(io.BytesIO(base64.b64decode(text)), 'a vector')
def vectors(): return json.loads(file.read_text())

@pytest.mark.parametrize('v', vectors() if file.is_file() else [], ids=lambda v: v['name'])
def test_vectors(v):
    "Some pixels may differ with the version of OpenCV"
    found, n = find_digits(from_png(v['picture']))
    assert n == len(found) == len(v['digits'])
    for d, want in zip(found, v['digits']):
        assert np.abs(np.subtract(d.box, want['box'])).max() <= 2
        assert np.abs(d.image.astype(int) - from_png(want['image'])).mean() < 6

def test_there_are_vectors_of_every_kind():
    assert {v['name'] for v in vectors()} >= {'shadow', 'squared paper', 'chalk', 'three in a row', 'blank', 'noise'}

def paper(h=300, w=240, ink=(), grey=225):
    "A page with digits of OpenCV's font: text, left, bottom"
    x = np.full((h, w), grey, np.uint8)
    for text, left, bottom in ink: cv2.putText(x, text, (left, bottom), cv2.FONT_HERSHEY_SIMPLEX, 2, 60, 5, cv2.LINE_AA)
    return x

def test_reading_order_and_boxes():
    found, n = find_digits(paper(ink=[('2', 150, 100), ('1', 60, 105), ('3', 70, 240)])[None])
    assert n == 3 and [d.box[0] < 120 for d in found] == [True, False, True] and found[2].box[1] > 150
    assert all(d.image.shape == (1, 28, 28) and d.image.max() > 200 for d in found)
    for d in found:   # centred by mass, 20 pixels long
        y, x = np.argwhere(d.image[0] > 100).T
        middle = np.average(np.arange(28), weights=d.image[0].sum(1))
        assert 18 <= max(np.ptp(y), np.ptp(x)) + 1 <= 22 and abs(middle - 13.5) < 1

@pytest.mark.parametrize('shape', [(1, 1, 1), (3, 50, 80), (1, 400, 300), (1, 3, 900)])
@pytest.mark.parametrize('grey', [0, 200, 255])
def test_nothing_is_found_in_nothing(shape, grey): assert find_digits(np.full(shape, grey, np.uint8)) == ([], 0)

def test_the_shade_of_the_paper_and_of_the_ink_do_not_matter():
    p = paper(ink=[('5', 80, 160)])
    dark, light = (find_digits(x[None])[0][0].image.astype(int) for x in (p, 255 - p))
    assert np.abs(dark - light).mean() < 12
    lamp = p*np.linspace(.4, 1, 240)
    assert np.abs(find_digits(lamp.astype(np.uint8)[None])[0][0].image - dark).mean() < 12

def test_what_looks_prepared_is_left_alone(mnist_like):
    assert is_prepared(mnist_like) and not is_prepared(255 - mnist_like)
    assert not is_prepared(np.repeat(mnist_like, 5, 1).repeat(5, 2))       # too large
    assert not is_prepared(np.concatenate([mnist_like]*2 + [mnist_like//2]))   # in colour

@pytest.fixture
def mnist_like():
    x = np.zeros((1, 28, 28), np.uint8)
    cv2.putText(x[0], '7', (6, 22), cv2.FONT_HERSHEY_SIMPLEX, .7, 255, 2)
    return x

# --- The command

@pytest.fixture(scope='module')
def run_on_paper(done, tmp_path_factory):
    "A run of three digits, whose file asks for preparation"
    predictor = Predictor(next(done.glob('model.int8.onnx')))
    assert predictor.reading['preparation'] == 'digits' and predictor.reading['temperature'] > 0
    return done

def rows(capsys, *argv):
    code = main(['predict', *map(str, argv), '--json'])
    return code, json.loads(capsys.readouterr().out)

def test_a_row_for_each_digit(run_on_paper, tmp_path, capsys):
    Image.fromarray(paper(ink=[('1', 60, 105), ('2', 150, 100)])).save(tmp_path/'page.png')
    code, found = rows(capsys, run_on_paper, tmp_path/'page.png', '--show', tmp_path/'shown.png')
    assert code == 0 and len(found) == 2 and found[0]['box'][0] < found[1]['box'][0]
    keys = 'file box label probability second second_probability status preparation'
    assert [*found[0]] == keys.split()
    assert Image.open(tmp_path/'shown.png').size == (520, 220)
    _, (whole,) = rows(capsys, run_on_paper, tmp_path/'page.png', '--as-is')
    assert whole['box'] == [0, 0, 240, 300] and whole['preparation'] == 'none'

def test_odd_pictures(run_on_paper, tmp_path, capsys):
    page = Image.fromarray(paper(ink=[('1', 100, 150)]))
    clear = Image.new('LA', (90, 90), (0, 0))
    wide = Image.new('L', (12_000, 60), 230)
    wide.paste(page.crop((60, 90, 160, 150)), (6_000, 0))
    exif = Image.Exif()
    exif[0x0112] = 3                                                       # upside down
    page.rotate(180).save(tmp_path/'turned.jpg', exif=exif, quality=95)
    page.save(tmp_path/'page.png')
    page.save(tmp_path/'moves.gif', save_all=True, append_images=[Image.new('L', page.size, 255)])
    clear.save(tmp_path/'clear.png')
    wide.save(tmp_path/'wide.png')
    Image.new('L', (1, 1)).save(tmp_path/'one.png')
    (tmp_path/'cut.jpg').write_bytes((tmp_path/'turned.jpg').read_bytes()[:900])
    files = [tmp_path/n for n in ('page.png', 'turned.jpg', 'moves.gif', 'wide.png', 'clear.png', 'one.png', 'cut.jpg')]
    assert main(['predict', str(run_on_paper), *map(str, files), '--json']) == 2
    out, err = capsys.readouterr()
    found = {Path(r['file']).stem: r for r in json.loads(out)}
    assert 'cut.jpg cannot be read' in err and err.count('\n') == 1
    upright = np.array(found['page']['box'])
    assert all(np.abs(upright - found[k]['box']).max() <= 3 for k in ('turned', 'moves'))
    assert 6_000 < found['wide']['box'][0] < 6_100
    assert all(found[k]['status'] == 'nothing found' and found[k]['label'] is None for k in ('clear', 'one'))

def test_a_page_of_text_has_an_end(run_on_paper, tmp_path, capsys):
    page = Image.new('L', (1600, 1200), 235)
    ink = ImageDraw.Draw(page)
    for y in range(40, 1150, 60): ink.text((40, y), '3 1 4 1 5 9 2 6 5 3 5 8 9 7 9 3 2 3 8 4 6 2 6 4', 40, font_size=42)
    page.save(tmp_path/'text.png')
    assert main(['predict', str(run_on_paper), str(tmp_path/'text.png')]) == 0
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 200 and 'digits found, the first 200 read' in err

def test_a_picture_that_cannot_be_written_is_said(run_on_paper, tmp_path, capsys):
    Image.fromarray(paper(ink=[('1', 60, 105)])).save(tmp_path/'page.png')
    assert '.png' in refused(capsys, 'predict', run_on_paper, tmp_path/'page.png', '--show', tmp_path/'a.odd')

if __name__ == '__main__':
    from bench.pictures import drawn_digit, lamplight, noise
    from finetune_course.data import mnist5k
    digits, rng = mnist5k().x[:, 0].numpy(), np.random.default_rng(0)
    def written(i, grey=228, side=90, rule=0):
        x = np.full((150, 130), float(grey))
        if rule: x[::rule] = x[:, ::rule] = grey - 40
        x[30:30+side, 20:20+side] *= 1 - .75*cv2.resize(digits[i], (side, side), interpolation=cv2.INTER_CUBIC)/255.
        return x.clip(0, 255)
    made = {
        'plain': written(3700), 'shadow': written(2200)*(1 - .5*(np.arange(130) > 60)),
        'lamp': written(1200)*lamplight(rng, 150, 130), 'squared paper': written(2700, rule=14),
        'chalk': 255 - written(4600), 'small': written(1600, side=34),
        'three in a row': np.hstack([written(i) for i in (520, 1720, 3320)]), 'drawing': drawn_digit(rng, digits[2100]),
        'blank': np.full((150, 130), 228.), 'noise': noise(rng, 130)[..., 0],
    }
    def vector(name, picture):
        picture = picture.astype(np.uint8)
        found = [dict(box=d.box, image=as_png(d.image[0])) for d in find_digits(picture[None])[0]]
        return dict(name=name, picture=as_png(picture), digits=found)
    file.write_text(json.dumps([vector(*item) for item in made.items()], indent=1) + '\n')
