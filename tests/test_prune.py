"Zeroed or cut: what is left of the file."
import copy
import pytest, torch
from torch import nn
from finetune_course.backbone import create_pretrained, replace_head_
from finetune_course.export import Candidate, Spec, export_onnx
from finetune_course.prune import n_channels
from finetune_course.shrink import prune

@pytest.mark.slow
def test_zeroing_keeps_the_file_and_cutting_does_not(tmp_path):
    net = replace_head_(create_pretrained('test_efficientnet', 'random'), 10)
    whole = Candidate(net, Spec('test_efficientnet', list('0123456789'), 32))
    zeroed = Candidate(copy.deepcopy(net), whole.spec)
    with torch.no_grad():
        for m in zeroed.net.modules():
            if isinstance(m, nn.Conv2d): m.weight *= m.weight.abs() > m.weight.abs().median()
    nets = dict(whole=whole, zeroed=zeroed, pruned=prune(whole, .5, round_to=4))
    size = {k: export_onnx(v, tmp_path/f'{k}.onnx').stat().st_size for k, v in nets.items()}
    assert abs(size['whole'] - size['zeroed']) < 1000 and size['pruned'] < size['whole']/2
    assert .5 <= 1 - n_channels(nets['pruned'].net)/n_channels(net) < .55
