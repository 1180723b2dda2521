"Zeroed or cut: what is left of the file."
import pytest
from finetune_course.backbone import create_pretrained, replace_head_
from finetune_course.export import Spec, export_onnx
from finetune_course.prune import n_channels, prune, zero_smallest

@pytest.mark.slow
def test_zeroing_keeps_the_file_and_cutting_does_not(tmp_path):
    spec = Spec('test_efficientnet', list('0123456789'), 32)
    net = replace_head_(create_pretrained('test_efficientnet', 'random'), 10)
    small, cut = prune(net, spec, .5, round_to=4)
    nets = dict(whole=(net, spec), zeroed=(zero_smallest(net, .5), spec), pruned=(small, cut))
    size = {k: export_onnx(*v, tmp_path/f'{k}.onnx').stat().st_size for k, v in nets.items()}
    assert abs(size['whole'] - size['zeroed']) < 1000 and size['pruned'] < size['whole']/2
    assert .5 <= 1 - n_channels(small)/n_channels(net) < .55
