"Images are known again: what a run learned from does not judge it."
import json, shutil
from dataclasses import replace
import numpy as np, pytest, torch
from PIL import Image
from conftest import folder, folder_of_digits, random_images, refused, report_of, tiny, write_idx
from finetune_course.app.cli import main
from finetune_course.app import search
from finetune_course.app.provenance import folder_fingerprint, image_fingerprints, training_overlap
from finetune_course.base.errors import InputError
from finetune_course.data import load

pytestmark = pytest.mark.usefixtures('quick_clock')

def with_blank(ds, n=1): return replace(ds, x=torch.cat([ds.x[n:], torch.zeros_like(ds.x[:n])]))

@pytest.mark.parametrize('n, blanks, train, of', [
    pytest.param(60, 1, 54_000, 60_000, id='one of few'),
    pytest.param(100, 60, 54_000, 60_000, id='most, but all the same'),
    pytest.param(600, 1, 1_200_000, 2048, id='of a stream')])
def test_an_empty_picture_on_both_sides_is_only_told(n, blanks, train, of):
    learned = image_fingerprints(with_blank(random_images(1000)))
    own = dict(train=train, valid=of - min(of, train), learned=learned, learned_of=of)
    told = training_overlap(own, with_blank(random_images(n, 1), blanks), 'x')
    assert [str(f)[:20] for f in told] == [f'{blanks} of the {n} images in'[:20]]
    with pytest.raises(InputError, match='most images in x'):
        training_overlap(own, random_images(1000).take(range(0, 1000, 2)), 'x')

def test_colours_count_among_what_images_are_known_by():
    blue, grey = random_images(4, c=3), random_images(4)
    blue.x[:, 0] = 0
    as_colour = replace(grey, x=grey.x.expand(-1, 3, -1, -1))
    assert len({*image_fingerprints(blue)}) == 4
    assert image_fingerprints(grey) == image_fingerprints(as_colour)

def test_a_class_called_test_is_no_test_part(tmp_path):
    folder(tmp_path, '01')
    folder(tmp_path, ['test'])
    assert folder_fingerprint(tmp_path)
    (tmp_path/'test'/'2').mkdir()
    assert folder_fingerprint(tmp_path) is None

def test_images_that_come_while_they_are_read(tmp_path, capsys, monkeypatch):
    folder(tmp_path/'in', n=10)
    def load_splits(*args, real=search.load_splits):
        got = real(*args)
        shutil.copy(tmp_path/'in'/'a'/'0.png', tmp_path/'in'/'a'/'late.png')
        return got
    monkeypatch.setattr(search, 'load_splits', load_splits)
    said = refused(capsys, 'run', '--data', tmp_path/'in', '--out', tmp_path/'o')
    assert 'changed while they were read' in said

@pytest.mark.slow
def test_images_on_both_sides_are_told(tmp_path, capsys):
    for part in 'train', 'test': folder_of_digits(tmp_path/'d'/part)
    assert main(['run', '--data', str(tmp_path/'d'), *tiny, '--out', str(tmp_path/'r')]) == 0
    said = capsys.readouterr().err
    assert 'warning: 72 of the 72 held-out images are also among the training or validation images' in said

# --- A finished run on other images

def evaluate(capsys, run, *argv):
    "The rows that `evaluate --json` prints, and what it says beside"
    capsys.readouterr()
    assert main(['evaluate', str(run), *map(str, argv), '--json']) == 0
    out, err = capsys.readouterr()
    return json.loads(out)['rows'], err

@pytest.mark.slow
def test_evaluate_measures_the_test_part_of_other_data(done, digits, capsys, tmp_path):
    for name in 'plain', 'parts/test': folder_of_digits(tmp_path/name, first=24)   # others than the run's
    (tmp_path/'idx').mkdir()                                       # no training files: they are not needed
    write_idx(tmp_path/'idx', 't10k', np.zeros((5, 28, 28), np.uint8), np.array([0, 1, 2, 0, 1], np.uint8))
    for name, n in ('plain', 72), ('parts', 72), ('idx', 5):
        rows, said = evaluate(capsys, done, '--data', tmp_path/name)
        assert {r['n'] for r in rows} == {n} and ('broken.png' in said) == (name != 'idx')
    (tmp_path/'plain'/'9').mkdir()
    shutil.copy(next((digits/'1').glob('*.png')), tmp_path/'plain'/'9')
    assert "'9'" in refused(capsys, 'evaluate', done, '--data', tmp_path/'plain')

@pytest.mark.slow
def test_images_that_a_run_learned_from_do_not_judge_it(done, digits, capsys, tmp_path):
    mixed = folder_of_digits(tmp_path/'others', first=24)
    assert 'learned from' not in evaluate(capsys, done, '--data', mixed)[1]
    train = load(digits, 28)[0]
    for i in range(4): Image.fromarray(train.x[i, 0].numpy()).save(mixed/train.vocab[train.y[i]]/f'known{i}.png')
    assert '4 of the 76 images' in evaluate(capsys, done, '--data', mixed)[1]
    moved = shutil.copytree(digits, tmp_path/'moved')
    next((moved/'2').glob('[1-9]*.png')).unlink()                  # no longer the run's own folder
    assert 'learned from' in refused(capsys, 'evaluate', done, '--data', moved)

@pytest.mark.slow
def test_held_out_images_stay_held_out(done, digits, capsys, tmp_path):
    n = report_of(done)['rows'][0]['n']
    moved = shutil.copytree(digits, tmp_path/'moved')
    assert {r['n'] for r in evaluate(capsys, done, '--data', moved)[0]} == {n}            # not those it has learned
    run, rep = shutil.copytree(done, tmp_path/'run'), report_of(done)
    rep['data']['source'] = str(moved)
    (run/'report.json').write_text(json.dumps(rep))
    evaluate(capsys, run)
    next((moved/'2').glob('[1-9]*.png')).unlink()
    assert 'changed since the run' in refused(capsys, 'evaluate', run)
