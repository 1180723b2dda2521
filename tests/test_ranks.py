"Several processes train one net."
import os, runpy, signal, subprocess, time
from pathlib import Path
import pytest, torch
from conftest import environ, report_of, start, tiny, torchrun

pytestmark = pytest.mark.slow

def two_ranks(script, *argv):
    subprocess.run([*torchrun, '--nproc-per-node', '2', script, *argv], env=environ, check=True)

def test_two_ranks_are_one_process_that_accumulates(tmp_path, monkeypatch):
    script = Path(__file__).with_name('ranks_worker.py')
    monkeypatch.setattr('sys.argv', [str(script), str(tmp_path/'one.pt')])
    runpy.run_path(str(script))
    two_ranks(script, tmp_path/'two.pt')
    one, two = (torch.load(tmp_path/f'{n}.pt', weights_only=True) for n in ('one', 'two'))
    for k in one: torch.testing.assert_close(one[k], two[k], rtol=1e-4, atol=1e-5)

def test_a_rank_ends_in_peace_while_its_threads_are_busy(tmp_path):
    (tmp_path/'w.py').write_text('''
import time, torch
from finetune_course.distribute import init_distributed
init_distributed(torch.device('cpu'))
torch.distributed.all_reduce(torch.ones(9), async_op=True).get_future().then(lambda f: time.sleep(.5))
''')
    two_ranks(tmp_path/'w.py')

def test_two_ranks_make_one_run(shards, tmp_path):
    p = start('run', '--data', shards, *tiny, '--baseline', '--out', tmp_path/'r', ranks=2)
    out, err = p.communicate(timeout=400)
    assert p.returncode == 0, err
    assert out.count('shipped:') == 1 and report_of(tmp_path/'r')['processes'] == 2
    assert [f.name for f in tmp_path.iterdir()] == ['r']

def test_a_rank_that_dies_ends_the_run(parts, tmp_path):
    long = [*tiny, '--epochs', '50', '--checkpoint-every', '.001']
    p = start('run', '--data', parts, *long, '--out', tmp_path/'r', ranks=2)
    while p.poll() is None and not list(tmp_path.glob('r.partial/checkpoint/fit0.pt')): time.sleep(.05)
    for d in Path('/proc').glob('[0-9]*'):
        try: env, cmd = (d/'environ').read_bytes().split(b'\0'), (d/'cmdline').read_bytes()
        except OSError: continue
        if b'RANK=1' in env and str(tmp_path).encode() in cmd: os.kill(int(d.name), signal.SIGKILL)
    _, err = p.communicate(timeout=120)
    assert p.returncode != 0 and ('SIGKILL' in err or 'another process' in err) and not (tmp_path/'r').exists()
