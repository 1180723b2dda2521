"The command: what it prints, and how it ends."
import json, shutil
import pytest
from conftest import refused, report_of, tiny
from finetune_course.app import run as run_module
from finetune_course.app.cli import main
from finetune_course.base.images import read_image
from finetune_course.predict import Predictor

@pytest.fixture
def pictures(digits, tmp_path):
    "A nought, a one, and a nought by another name"
    found = [str(next((digits/c).glob('[1-9]*.png'))) for c in '01']
    return [*found, shutil.copy(found[0], str(tmp_path/'été.png'))]

def test_evaluate_repeats_the_report(done, capsys, quick_clock):
    assert main(['evaluate', str(done), '--json']) == 0
    again = json.loads(capsys.readouterr().out)
    assert [r['accuracy'] for r in again['rows']] == [r['accuracy'] for r in report_of(done)['rows']]

def test_predict_prints_file_and_answer(done, pictures, capsys):
    assert main(['predict', str(done), *pictures, '--stage', 'int8']) == 0
    reader = Predictor(done/'model.int8.onnx')
    want = [str(reader.answers(read_image(p, reader.px)[None])[0]) for p in pictures]
    assert capsys.readouterr().out.splitlines() == [f'{p}\t{w}' for p, w in zip(pictures, want)]

@pytest.mark.parametrize('stage, file', [('fine-tuned', 'model.onnx'), ('whole int8', 'whole.int8.onnx'),
                                         ('pruned', 'pruned.onnx'), ('int8', 'model.int8.onnx')])
def test_predict_reads_with_the_stage_that_is_named(done, pictures, capsys, stage, file):
    assert main(['predict', str(done), *pictures, '--stage', stage, '--json']) == 0
    reader = Predictor(done/file)
    want = [reader.answers(read_image(p, reader.px)[None])[0] for p in pictures]
    assert (out := capsys.readouterr().out).isascii()           # whatever the terminal can write
    found = [(r['file'], r['label'], r['probability']) for r in json.loads(out)]
    assert found == [(p, w.label, w.probability) for p, w in zip(pictures, want)]

def test_predict_names_what_is_wrong(done, pictures, capsys, tmp_path):
    said = refused(capsys, 'predict', done, *pictures, '--stage', 'tiny')
    assert "'tiny'; choose one of fine-tuned, whole int8, pruned, int8" in said
    (tmp_path/'no.png').write_text('no')
    assert main(['predict', str(done), pictures[0], str(tmp_path/'no.png'), '--json']) == 2
    out, err = capsys.readouterr()
    assert json.loads(out)[0]['file'] == pictures[0] and 'no.png' in err

def test_interrupted_runs_say_so(digits, capsys, tmp_path, monkeypatch):
    def stop(*a, **k): raise KeyboardInterrupt
    monkeypatch.setattr(run_module, 'train_stages', stop)
    assert main(['run', '--data', str(digits), *tiny, '--out', str(tmp_path/'r')]) == 130
    assert 'deleted safely' in capsys.readouterr().err and [p.name for p in tmp_path.iterdir()] == ['r.partial']

def test_lab_leaves_other_folders_alone(tmp_path, capsys):
    (tmp_path/'a.png').touch()
    assert 'other things than chapters' in refused(capsys, 'lab', '--copy-only', tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ['a.png']
    for _ in range(2):                                              # the second time into its own copy
        assert main(['lab', '--copy-only', str(tmp_path/'new')]) == 0
    assert (tmp_path/'new'/'nbs'/'01_data.ipynb').is_file()
