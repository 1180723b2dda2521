"Folders as people have them: few pictures, unequal classes, all shapes, many classes."
import numpy as np, pytest
from PIL import Image
from conftest import refused, report_of, tiny
from finetune_course.app.cli import main

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures('quick_clock')]

def save(path, size, mode, seed):
    shape = (size[1], size[0], *[{'L': 1, 'RGB': 3, 'RGBA': 4}[mode]][:mode != 'L'])
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, np.uint8), mode).save(path)

def codes(out): return [w['code'] for w in report_of(out)['warnings']]

def test_three_pictures_a_class_of_all_shapes(tmp_path, capsys):
    kinds = ((30, 40), 'L'), ((12_000, 31), 'RGB'), ((5, 300), 'RGBA')
    for c in 'cat', 'dog':
        for i, (size, mode) in enumerate(kinds): save(tmp_path/'d'/c/f'{i}.png', size, mode, i)
    assert main(['run', '--data', str(tmp_path/'d'), *tiny, '--out', str(tmp_path/'r')]) == 0
    assert 'more images there will help' in capsys.readouterr().err and 'few-in-class' in codes(tmp_path/'r')

def test_classes_of_unequal_size_and_two_hundred_of_them(tmp_path):
    for c in range(200):
        for i in range(40 if c == 7 else 4): save(tmp_path/'d'/f'kind {c}'/f'{i}.png', (8, 8), 'RGB', 50*c + i)
    assert main(['run', '--data', str(tmp_path/'d'), *tiny, '--out', str(tmp_path/'r')]) == 0
    report = report_of(tmp_path/'r')
    assert len(report['data']['classes']) == 200 and 'unequal-classes' in codes(tmp_path/'r')
    assert all(0 <= r['class_mean'] <= 1 for r in report['rows'])
    assert 'averaged over classes' in (tmp_path/'r'/'report.html').read_text(encoding='utf-8')

def test_a_class_that_only_test_has(tmp_path, capsys):
    for part, classes in ('train', 'ab'), ('test', 'abc'):
        for c in classes:
            for i in range(3): save(tmp_path/'d'/part/c/f'{i}.png', (8, 8), 'L', i)
    said = refused(capsys, 'run', '--data', tmp_path/'d', *tiny, '--out', tmp_path/'r')
    assert "class 'c' that the model does not know" in said and not (tmp_path/'r').exists()

def test_minutes_are_kept_by_size_and_epochs(tmp_path, digits, shards, capsys):
    alone = ['--arch', 'plain_cnn', '--weights', 'random', '--patience', '1', '--device', 'cpu', '--prune', '.5']
    given = ['run', '--data', str(digits), *alone, '--minutes', '.0001', '--out', str(tmp_path/'r')]
    assert main(given) == 0
    options, reasons = (report_of(tmp_path/'r')[k] for k in ('options', 'reasons'))
    assert options['epochs'] == 2 and '--minutes' in reasons['epochs']
    assert '--minutes' in refused(capsys, 'run', '--data', shards, *tiny, '--minutes', '1', '--out', tmp_path/'s')
