"What a finished run says about itself."
import shutil
import pytest
from conftest import refused, report_of
from finetune_course.data import load
from finetune_course.export import load_model
from finetune_course.predict import Predictor

def test_the_report_tells_what_the_files_say(done, digits):
    rep = report_of(done)
    assert {p.name for p in done.iterdir()} == {'report.json', 'report.html', 'model.safetensors', 'model.json',
                                                'model.onnx', 'whole.int8.onnx', 'pruned.onnx', 'model.int8.onnx',
                                                'history.csv'}
    assert rep['schema'] == 2 and len(rep['data']['skipped']) == 1
    assert [r['stage'] for r in rep['rows']] == ['fine-tuned', 'whole int8', 'pruned', 'int8']
    tests = {px: load(digits, px)[1] for px in (32, 20)}           # 20: seven twelfths of 32, in steps of four
    assert tests[32].digest == rep['data']['test_digest']
    assert [r['image_size'] for r in rep['rows']] == [32, 32, 20, 20]
    for r in rep['rows']:
        test = tests[r['image_size']]
        right = Predictor(done/r['file']).logits(test.x).argmax(1) == test.y.numpy()
        assert r['bytes'] == (done/r['file']).stat().st_size and r['latency_ms_b1'] > 0
        assert r['accuracy'] == right.mean() and r['n'] == len(right)
        assert r['accuracy_low'] <= r['accuracy'] <= r['accuracy_high']

def test_damaged_runs_are_refused(done, capsys, tmp_path):
    copy = shutil.copytree(done, tmp_path/'c')
    (copy/'model.json').write_text((copy/'model.json').read_text()[:50])
    with pytest.raises(ValueError, match='model.json is damaged'): load_model(copy/'model')
    (copy/'report.json').write_text('{')
    assert 'damaged' in refused(capsys, 'evaluate', copy)
    assert 'no finished run' in refused(capsys, 'evaluate', tmp_path)
