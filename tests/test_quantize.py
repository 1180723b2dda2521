"Oracles for int8."
import numpy as np, onnx, pytest, torch
from finetune_course.backbone import create_pretrained, replace_head_
from finetune_course.data import load
from finetune_course.export import Spec, export_onnx
from finetune_course.predict import Predictor
from finetune_course.prune import prune
from finetune_course.quantize import quantize_onnx, round_weight

@pytest.mark.parametrize('bits', [8, 4, 2])
def test_round_weight_is_torchs(bits):
    w, q = torch.randn(6, 3, 3, 3, generator=torch.Generator().manual_seed(0)), 2**(bits-1) - 1
    scale = w.flatten(1).abs().amax(1)/q
    want = torch.fake_quantize_per_channel_affine(w, scale, torch.zeros(6, dtype=torch.int32), 0, -q, q)
    assert torch.allclose(round_weight(w, bits), want, atol=1e-6)

@pytest.mark.slow
def test_pixels_folded_into_int8_change_no_answer(tmp_path):
    test, spec = load('mnist5k', 28)[1], Spec('tf_efficientnet_lite0', list('0123456789'), 28)
    net = prune(replace_head_(create_pretrained(), 10), spec, .86)[0]
    whole = export_onnx(net, spec, tmp_path/'a.onnx')
    small = quantize_onnx(whole, tmp_path/'b.onnx', spec, test.take(range(64)))
    graph = onnx.load(small).graph
    assert not {'Cast', 'Mul'} & {n.op_type for n in graph.node}
    assert not any(t.data_type == onnx.TensorProto.INT32 for t in graph.initializer)
    a, b = (Predictor(f).logits(test.x[:200]) for f in (whole, small))
    assert np.corrcoef(a.ravel(), b.ravel())[0, 1] > .98
