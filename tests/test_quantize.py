"Oracles for int8."
import numpy as np, onnx, pytest, torch
from finetune_course.backbone import create_pretrained, replace_head_
from finetune_course.data import load
from finetune_course.export import Candidate, Spec, export_onnx
from finetune_course.predict import Predictor
from finetune_course.shrink import prune
from finetune_course.quantize import quantize_onnx

@pytest.mark.slow
def test_pixels_folded_into_int8_change_no_answer(tmp_path):
    torch.manual_seed(0)   # of the new head
    test, spec = load('mnist5k', 28)[1], Spec('tf_efficientnet_lite0', list('0123456789'), 28)
    small = prune(Candidate(replace_head_(create_pretrained(), 10), spec), .86)
    whole = export_onnx(small, tmp_path/'a.onnx')
    int8 = quantize_onnx(whole, tmp_path/'b.onnx', spec, test.take(range(64)))
    graph = onnx.load(int8).graph
    assert not {'Cast', 'Mul'} & {n.op_type for n in graph.node}
    assert not any(t.data_type == onnx.TensorProto.INT32 for t in graph.initializer)
    a, b = (Predictor(f).logits(test.x[:200]) for f in (whole, int8))
    assert np.corrcoef(a.ravel(), b.ravel())[0, 1] > .98
