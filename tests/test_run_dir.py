"A run's folder: nobody else's is touched, two runs never share one, and a name without .partial is whole."
import os
from pathlib import Path
import pytest
from filelock import FileLock
from conftest import all_files, refused
from finetune_course.base.errors import InputError
from finetune_course.app.run_dir import RunDir

def names(folder): return [p.name for p in folder.rglob('*')]

def test_an_output_folder_is_never_taken_from_its_owner(tmp_path, capsys, monkeypatch):
    (tmp_path/'mine.partial').mkdir()
    (tmp_path/'mine.partial'/'diary.txt').touch()
    assert 'diary.txt' in refused(capsys, 'run', '--out', tmp_path/'mine', '--force')
    (tmp_path/'text.png').write_text('x')
    assert 'text.png' in refused(capsys, 'run', '--out', tmp_path/'text.png')
    monkeypatch.chdir(tmp_path)
    assert 'which no run wrote' in refused(capsys, 'run', '--out', '.')

def test_a_finished_run_is_never_lost(done, digits, capsys):
    before = all_files(done)
    assert '--force' in refused(capsys, 'run', '--data', digits, '--out', done)
    assert all_files(done) == before

def test_runs_that_start_in_the_same_second(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr('time.strftime', lambda _: 'now')
    first, second = RunDir(None), RunDir(None)               # both named before a folder is made
    with first as a, second as b, RunDir(None) as c:
        for d in a, b, c: (d/'report.json').write_text(d.name)
    assert all_files(Path('runs')) == {'now/report.json': b'now.partial', 'now-2/report.json': b'now-2.partial',
                                       'now-3/report.json': b'now-3.partial'}

def test_a_second_run_into_the_same_folder(tmp_path, capsys):
    late = RunDir(tmp_path/'r', force=True)                     # looks while nobody is there
    with RunDir(tmp_path/'r') as d:
        (d/'report.json').touch()
        for how in [], ['--force'], ['--resume']:
            said = refused(capsys, 'run', '--data', 'nowhere', '--out', tmp_path/'r', *how)
            assert 'Another run holds the lock' in said
        with pytest.raises(InputError, match='Another run holds the lock'): late.__enter__()
        assert (d/'report.json').exists()
    assert names(tmp_path) == ['r', 'report.json']

def test_a_run_that_began_before_another_had_finished(tmp_path):
    late = RunDir(tmp_path/'r')
    with RunDir(tmp_path/'r') as d: (d/'report.json').touch()
    with pytest.raises(InputError, match='already holds a run'): late.__enter__()
    assert names(tmp_path) == ['r', 'report.json']

def test_what_stands_beside_the_folder_is_left_alone(tmp_path):
    (tmp_path/'r.old').mkdir()
    (tmp_path/'r.old'/'report.json').write_text('mine')
    for i in range(2):
        with RunDir(tmp_path/'r', force=True) as d: (d/'report.json').write_text(str(i))
    assert all_files(tmp_path) == {'r.old/report.json': b'mine', 'r/report.json': b'1'}

def test_killed_while_the_old_run_makes_room(tmp_path, monkeypatch):
    "Between the two renames nothing is lost, and --resume goes on"
    (tmp_path/'r').mkdir()
    (tmp_path/'r'/'report.json').write_text('old')
    def stop(a, b, real=os.replace):
        real(a, b)
        raise KeyboardInterrupt
    with monkeypatch.context() as m, pytest.raises(KeyboardInterrupt):
        with RunDir(tmp_path/'r', force=True) as d:
            (d/'report.json').write_text('new')
            m.setattr(os, 'replace', stop)
    assert (tmp_path/'r.partial'/'replaced'/'report.json').read_text() == 'old'
    with RunDir(tmp_path/'r', resume=True): pass
    assert all_files(tmp_path) == {'r/report.json': b'new'}

def test_folders_that_cannot_be_renamed(tmp_path, capsys, monkeypatch):
    (tmp_path/'disk').mkdir()
    monkeypatch.setattr(os.path, 'ismount', lambda p, real=os.path.ismount: Path(p) == tmp_path/'disk' or real(p))
    for out in tmp_path/'disk', '/':
        assert 'is a mount point' in refused(capsys, 'run', '--data', 'nowhere', '--out', out)

def test_resume_takes_the_run_that_wrote_last(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, written, made in ('older', 100, 150), ('newer', 200, 50):   # the folders' own times tell the opposite
        (folder := tmp_path/'runs'/f'{name}.partial'/'checkpoint').mkdir(parents=True)
        (folder/'fit.pt').write_bytes(b'')
        os.utime(folder/'fit.pt', (written, written))
        for p in folder, folder.parent: os.utime(p, (made, made))
    assert RunDir(None, resume=True).path.name == 'newer'
    with FileLock('runs/newer.partial/run.lock'):                  # it is being written
        assert RunDir(None, resume=True).path.name == 'older'
