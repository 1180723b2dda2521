"Whole runs with options that change the chain."
import numpy as np, pandas as pd, pytest, torch
from safetensors.torch import save_file
from conftest import report_of, tiny
from finetune_course.backbone import create_model
from finetune_course.app.cli import main
from finetune_course.data import load
from finetune_course.export import load_model
from finetune_course.predict import Predictor

pytestmark = pytest.mark.usefixtures('quick_clock')

@pytest.mark.slow
def test_a_baseline_stands_in_the_ledger(digits, tmp_path, capsys):
    out, options = tmp_path/'r', ['--size', '32', '--patience', '40', '--baseline', '--target-bytes', '60k']
    assert main(['run', '--data', str(digits), *tiny, *options, '--out', str(out)]) == 0
    rows = {r['stage']: r for r in report_of(out)['rows']}
    assert list(rows) == ['fine-tuned', 'whole int8', 'pruned', 'int8', 'baseline', 'baseline int8']
    assert .9*60_000 < rows['baseline int8']['bytes'] <= 60_000    # as wide as the target allows
    assert rows['baseline']['accuracy'] > .6                       # and trained
    hist = pd.read_csv(out/'history.csv').groupby('stage').epoch
    assert hist.min().eq(1).all() and hist.max()['pruned'] == hist.max()['baseline'] == 40
    model, spec = load_model(out/'baseline')
    x = load(digits, 20)[1].x
    with torch.no_grad(): want = model((x.float()/255 - spec.mean[0])/spec.std[0]).numpy()
    assert np.abs(Predictor(out/'baseline.onnx').logits(x) - want).max() < 1e-3
    assert main(['evaluate', str(out)]) == 0 and 'baseline int8' in capsys.readouterr().out

@pytest.mark.slow
def test_vgg16_with_a_dense_head(digits, tmp_path):
    torch.manual_seed(0)
    save_file(create_model('vgg16').state_dict(), tmp_path/'vgg16.safetensors')
    vgg = '--arch vgg16 --head mlp --size 32 --small-size 32 --weights'.split() + [str(tmp_path/'vgg16.safetensors')]
    assert main(['run', '--data', str(digits), *tiny, *vgg, '--out', str(tmp_path/'r')]) == 0
    whole, _, pruned, _ = report_of(tmp_path/'r')['rows']
    assert 15e6 < whole['params'] < 16e6 and pruned['params'] < .4*whole['params']
