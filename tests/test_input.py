"Input as people really have it: odd pictures, broken files, wrong options. One sentence, exit code 2, nothing half-written."
from importlib import import_module
import pytest
from bench import shared
from finetune_course.data import InputError

# --- Benchmarks

@pytest.mark.parametrize('argv', ['ablation --idx nowhere', 'compress typo', 'gpu --idx nowhere', 'peers typo', 'pipeline --idx nowhere', 'recipes typo', 'recipes --report', 'recipes --idx nowhere', 'scale typo'])
def test_benchmarks_say_what_is_wrong(argv, tmp_path, monkeypatch, capsys):
    name, *argv = argv.split()
    monkeypatch.setattr('sys.argv', [name, *argv, '--out', str(tmp_path/'new'/'r.json')])
    with pytest.raises(SystemExit) as e: shared.command(import_module(f'bench.{name}').main)
    err = capsys.readouterr().err
    assert e.value.code == 2 and err.startswith('error: ') and err.count('\n') == 1 and not (tmp_path/'new').exists()

def test_pupils_and_other_nets_are_not_judged_by_one_ruler(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr('sys.argv', ['recipes', 'large: strided CNN', 'large: strided CNN, pupil of nine', '--idx', 'nowhere', '--out', str(tmp_path/'r')])
    with pytest.raises(SystemExit) as e: shared.command(import_module('bench.recipes').main)
    assert e.value.code == 2 and 'name them in two commands' in capsys.readouterr().err

def test_results_of_two_machines_are_not_mixed(tmp_path, monkeypatch):
    shared.keep(path := tmp_path/'new'/'r.json', shared.read_here(path, rows=[1]))
    assert shared.read_here(path)['rows'] == [1]
    monkeypatch.setattr(shared, 'environment', lambda real=shared.environment: real() | dict(cpu='another'))
    with pytest.raises(InputError, match='r.json holds results of the machine .*, not another'): shared.read_here(path)
