"Training on a CUDA GPU: half precision, batches that do not fit, memory that runs out, a run that goes on."
import copy
import pytest, torch
from torch import nn
from finetune_course.base.loader import TensorDL
from finetune_course.data import dataloaders, mnist5k, split
from finetune_course.finetune import fit_, learner
from finetune_course.prune import accuracy_of
from finetune_course.base.checkpoint import Checkpoint
from finetune_course.base.memory import Compile, fit_in_memory

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason='this machine has no CUDA GPU')

def net():
    torch.manual_seed(0)
    body = nn.Conv2d(1, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU()
    return nn.Sequential(*body, nn.Flatten(), nn.Linear(32*49, 10))

def batches(bs=64, **kwargs): return dataloaders(*split(mnist5k(28), .2), bs, (.5,), (.5,), device='cuda', **kwargs)
def one_group(m): return [list(m.parameters())]

@pytest.mark.parametrize('cbs', [[], [Compile()]], ids=['plain', 'compiled'])
def test_learns_in_half_precision(cbs):
    learn, kinds = learner(batches(), net(), splitter=one_group, cbs=cbs), set()
    if not cbs: learn.model[0].register_forward_hook(lambda m, i, o: kinds.add((m.training, o.dtype)))
    fit_(learn, 2)
    assert accuracy_of(learn.model, learn.dls.valid) > .8
    assert learn.model[0].weight.dtype == torch.float32 and learn.model[0].weight.is_cuda   # master weights stay whole
    half = torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    assert cbs or (True, half) in kinds
    assert 'forward' not in vars(learn.model)

def test_batches_from_pinned_memory_equal_resident_ones():
    near, far = (TensorDL(mnist5k(28).to(d), 64, device='cuda') for d in ('cuda', 'cpu'))
    for (a, la), (b, lb) in zip(near, far):
        assert a.is_cuda and b.is_cuda and (a == b).all() and (la == lb).all()

def test_out_of_memory_halves_the_batch(caplog):
    caplog.set_level('INFO', 'finetune_course')
    seen = []
    def fit(bs, cbs):
        seen.append(bs)
        learn = learner(batches(bs), net(), splitter=one_group, cbs=cbs)
        if bs > 1000: torch.empty(2**38, device='cuda')   # a terabyte
        return fit_(learn, 1)
    fit_in_memory(fit, 4000)
    assert seen == [4000, 2000, 1000] and len(caplog.messages) == 2

def test_resumed_on_the_gpu(tmp_path):
    class Stop(Exception): pass
    def train(folder, resume=False, stop=None):
        ckpt = Checkpoint(folder, every=0, resume=resume)
        if stop:
            plain = ckpt.after_batch
            def after_batch():
                plain()
                if ckpt.training and ckpt.train_iter == stop: raise Stop('here')
            ckpt.after_batch = after_batch
        learn = learner(batches(), net(), splitter=one_group)
        fit_(learn, 2, cbs=[ckpt])
        return ckpt, copy.deepcopy(learn.model).cpu()
    _, whole = train(tmp_path/'a')
    with pytest.raises(Stop): train(tmp_path/'b', stop=70)
    ckpt, resumed = train(tmp_path/'b', resume=True)
    assert ckpt.resumed and ckpt.resumed >= 69
    for a, b in zip(whole.parameters(), resumed.parameters()):
        assert torch.allclose(a, b, atol=2e-2)   # a GPU's sums come in any order
