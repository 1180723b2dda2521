"The files of a finished run are what they promise to be."
import logging
import numpy as np, onnx, torch
from conftest import report_of
from finetune_course.base.onnxfile import quiet_logger
from finetune_course.data import load
from finetune_course.export import load_model
from finetune_course.predict import Predictor

def test_onnx_is_what_was_promised(done):
    m = onnx.load(done/'model.onnx')
    i = m.graph.input[0]
    assert i.name == 'images' and i.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert i.type.tensor_type.shape.dim[0].dim_param
    assert not any(n.op_type == 'BatchNormalization' for n in m.graph.node)
    assert {p.key: p.value for p in m.metadata_props}['labels'] == '["0", "1", "2"]'
    model = report_of(done)['rows'][0]
    assert model['bytes'] <= 4.2*model['params']

def test_pruned_weights_load_and_agree_with_their_onnx(done, digits):
    model, spec = load_model(done/'model')
    assert (spec.px, len(spec.mean)) == (20, 1)                    # grey images: the pruned net reads one channel
    x = load(digits, 20)[1].x
    xb = (x.float()/255 - spec.mean[0])/spec.std[0]
    with torch.no_grad(): want = model(xb).numpy()
    assert np.abs(Predictor(done/'pruned.onnx').logits(x) - want).max() < 1e-3

def test_a_quiet_logger_leaves_no_handler_behind(monkeypatch):
    root = logging.getLogger()
    monkeypatch.setattr(root, 'handlers', [])
    with quiet_logger(): logging.info('advice')   # as ONNX Runtime's quantizer does it
    assert root.handlers == []
