"A run that was killed goes on to the very same files."
import json, re, shutil, signal, time
import pytest, torch
from conftest import all_files, refused, report_of, start, tiny
from finetune_course.app.cli import main

pytestmark = pytest.mark.slow
# mlp: its dropout draws random numbers
options = [*tiny, '--head', 'mlp', '--baseline', '--batch-size', '16', '--checkpoint-every', '.001']
same = ('model.onnx', 'pruned.onnx', 'model.int8.onnx', 'model.safetensors', 'model.json', 'baseline.int8.onnx',
        'baseline.safetensors', 'history.csv')

@pytest.fixture(autouse=True, scope='module')
def one_thread():
    "As in the processes that are killed: other numbers of threads add in another order"
    n = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n)

@pytest.fixture(scope='module')
def args(parts): return ['run', '--data', str(parts), *options]

@pytest.fixture(scope='module')
def whole(args, tmp_path_factory):
    "An uninterrupted run"
    out = tmp_path_factory.mktemp('runs')/'whole'
    assert main([*args, '--out', str(out)]) == 0
    return out

trainings = ['fine-tuning', 'recovering', 'baseline']

@pytest.fixture(scope='module')
def killed(args, tmp_path_factory):
    "What `kill -9` leaves behind in each training: one process is halted and its folder copied, and killed in the last"
    out = tmp_path_factory.mktemp('killed')/'r'
    partial, left = out.with_name('r.partial'), {}
    p = start(*args, '--out', out)
    for i, name in enumerate(trainings):
        seen = partial/'checkpoint'/f'fit{i}.previous'
        while p.poll() is None and not seen.exists(): time.sleep(.005)
        assert p.poll() is None, p.communicate()[1]
        p.send_signal(signal.SIGKILL if name == trainings[-1] else signal.SIGSTOP)
        left[name] = shutil.copytree(partial, out.with_name(name)/'r.partial')
        p.send_signal(signal.SIGCONT)
    p.communicate()
    assert p.returncode == -signal.SIGKILL and not out.exists()
    return left

def numbers(out):
    "The report's rows without times"
    return [{k: v for k, v in r.items() if not re.search('ms_|faster', k)} for r in report_of(out)['rows']]

@pytest.mark.parametrize('state', ['whole', 'torn'])
@pytest.mark.parametrize('training', trainings)
def test_killed_and_resumed(whole, killed, args, tmp_path, capsys, training, state):
    partial = shutil.copytree(killed[training], tmp_path/'r.partial')
    last = partial/'checkpoint'/f'fit{trainings.index(training)}.pt'
    if state == 'torn': last.write_bytes(last.read_bytes()[:1000] if last.exists() else b'')
    assert main([*args, '--out', str(tmp_path/'r'), '--resume']) == 0
    assert 'resumed from step' in capsys.readouterr().err
    rep = report_of(tmp_path/'r')
    assert rep['resumed_from_step'] > 0 and rep['seconds_count'] == 'since the run was resumed'
    for f in same: assert (tmp_path/'r'/f).read_bytes() == (whole/f).read_bytes(), f
    assert numbers(tmp_path/'r') == numbers(whole)

@pytest.mark.parametrize('left', ['as it was', 'the state before the last'])
@pytest.mark.parametrize('training', trainings)
def test_a_stopped_run_is_not_thrown_away(killed, capsys, tmp_path, training, left):
    partial = shutil.copytree(killed[training], tmp_path/'r.partial')
    if left != 'as it was':                             # killed between the two steps of writing
        for f in (partial/'checkpoint').glob('fit*.pt'): f.unlink()
    before = all_files(tmp_path)
    assert '--resume to go on' in refused(capsys, 'run', *tiny, '--out', tmp_path/'r')
    assert all_files(tmp_path) == before

def test_resuming_without_a_checkpoint_starts_afresh(whole, args, tmp_path, capsys):
    assert main([*args, '--out', str(tmp_path/'r'), '--resume']) == 0
    assert 'started afresh' in capsys.readouterr().err
    for f in same: assert (tmp_path/'r'/f).read_bytes() == (whole/f).read_bytes(), f      # and two whole runs are equal

def test_resuming_with_other_options_is_refused(args, tmp_path, capsys):
    (tmp_path/'x.partial'/'checkpoint').mkdir(parents=True)
    (tmp_path/'x.partial'/'checkpoint'/'run.json').write_text(json.dumps(dict(seed=7)))
    assert main([*args, '--out', str(tmp_path/'x'), '--resume']) == 2
    assert 'give the same options' in capsys.readouterr().err
    assert (tmp_path/'x.partial'/'checkpoint'/'run.json').exists()
