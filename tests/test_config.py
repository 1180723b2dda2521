"Options that are wrong: one sentence, before anything is loaded or written."
import pytest
from conftest import refused
from finetune_course.app.cli import main

@pytest.mark.parametrize('argv, word', [
    ('--prune 1.5', '1.5'), ('--prune -1', '-1'), ('--prune nan', 'nan'), ('--size 0', '--size'),
    ('--small-size 2', '--small-size'), ('--epochs 0', '--epochs'), ('--seed -1', '--seed'),
    ('--compile --device cpu', '--compile'),
    ('--target-bytes much', 'much'), ('--target-bytes 9k --max-drop .1', 'one target'), ('--target-latency -1', '-1'),
    ('--max-drop 5', 'share of accuracy'), ('--arch nope', 'nope'), ('--arch local-dir:x', 'unknown'),
    ('--arch plain_cnn', '--weights random'), ('--arch test_convnext --weights random --size 16', '16×16'),
    ('--arch resnet18 --weights random --prune .99', 'smaller prune ratio')])
def test_options_out_of_range(tmp_path, capsys, argv, word):
    assert word in refused(capsys, 'run', *argv.split(), '--out', tmp_path/'o') and not list(tmp_path.iterdir())

@pytest.mark.parametrize('argv', ['run --size big', 'fly', 'run --device abacus', ''])
def test_words_argparse_refuses(capsys, argv):
    with pytest.raises(SystemExit) as e: main(argv.split())
    assert e.value.code == 2 and capsys.readouterr().err.count('\n') == 1

@pytest.mark.parametrize('arch', ['botnet26t_256', 'levit_128s', 'tresnet_m'])
def test_nets_that_cannot_be_used_are_named(arch, tmp_path, capsys):
    said = refused(capsys, 'run', '--arch', arch, '--weights', 'random', '--out', tmp_path/'r')
    assert said.startswith(f'finetune-course: {arch} cannot be given a new head (') and not list(tmp_path.iterdir())
