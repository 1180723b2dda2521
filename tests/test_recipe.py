"What is chosen by a look at the images."
import signal, time
import pytest, torch
from conftest import all_files, report_of, start, tiny
from PIL import Image
from finetune_course.app.cli import main
from finetune_course.app.config import Config
from finetune_course.app.recipe import batch_size_for, complete, epochs_for
from finetune_course.base.folders import survey

@pytest.fixture
def squares(tmp_path):
    "A function that makes a folder of coloured or grey squares, 20 a class"
    def make(name, classes, mode='RGB', side=24):
        for i, c in enumerate(classes):
            (tmp_path/name/c).mkdir(parents=True)
            for j in range(20):
                color = (40*i, 5*j, 90) if mode == 'RGB' else 40*i + j
                Image.new(mode, (side, side - 4), color).save(tmp_path/name/c/f'{j}.png')
        return tmp_path/name
    return make

@pytest.mark.parametrize('classes, mode, kind', [
    (['rose', 'tulip'], 'RGB', 'photos'), (['rose', 'tulip'], 'L', 'digits'), (['3', '7'], 'RGB', 'digits')])
def test_digits_are_never_mirrored(squares, classes, mode, kind):
    cfg, reasons = complete(Config(data=str(squares('s', classes, mode))))
    assert cfg.augment == kind and 'augment' in reasons

def test_a_survey_counts_what_is_learned_from(squares, digits, parts):
    assert survey(squares('s', ['rose', 'tulip'], side=300)) == (32, 300, False, ['rose', 'tulip'])
    assert survey(parts) == (401, 28, True, list('0123'))   # one of them is broken: names alone do not tell
    assert survey('mnist5k') == (4000, 28, True, list('0123456789'))
    assert survey(digits).n == 58   # of 73 files, a fifth held out

def test_what_is_given_is_kept(squares):
    given = dict(augment='none', size=40, small_size=20, epochs=2, patience=3, batch_size=4, prune=.3, shorten='no')
    cfg, reasons = complete(Config(data=str(squares('s', ['rose', 'tulip'])), **given))
    assert {k: getattr(cfg, k) for k in given} == given and not reasons

def test_a_small_set_gets_smaller_batches_and_more_epochs():
    for n in 10, 100, 240, 2000, 60_000:
        bs = batch_size_for(n)
        assert 16 <= bs <= 64 and 8 <= epochs_for(n, bs, 'photos') <= 30
    assert epochs_for(480, batch_size_for(480), 'digits') == 30

@pytest.mark.slow
def test_photographs_learn_with_the_head_first_and_resume(squares, tmp_path, capsys):
    torch.set_num_threads(1)
    data = squares('s', ['rose', 'tulip'])
    args = ['run', '--data', data, *tiny, '--augment', 'auto', '--checkpoint-every', '.001']
    assert main([*map(str, args), '--out', str(tmp_path/'whole')]) == 0
    told = capsys.readouterr().err
    report = report_of(tmp_path/'whole')
    assert '--augment photos' in told and report['options']['augment'] == 'photos' and report['reasons']['augment']
    assert {r['image_size'] for r in report['rows']} == {16}   # photographs do not survive a smaller side
    p, seen = start(*args, '--out', tmp_path/'r'), tmp_path/'r.partial'/'checkpoint'/'fit1.pt'
    while p.poll() is None and not seen.exists(): time.sleep(.005)
    p.send_signal(signal.SIGKILL)
    p.communicate()
    assert not (tmp_path/'r').exists()
    assert main([*map(str, args), '--out', str(tmp_path/'r'), '--resume']) == 0
    whole, resumed = all_files(tmp_path/'whole'), all_files(tmp_path/'r')
    for name in 'model.onnx', 'whole.int8.onnx', 'short.onnx', 'pruned.onnx', 'history.csv':
        assert whole[name] == resumed[name], name
