"A training that was stopped goes on as if nothing had been."
import pandas as pd, pytest, torch
from torch import nn
from fastai.callback.core import Callback
from fastai.callback.training import GradientAccumulation
from finetune_course.data import dataloaders, load
from finetune_course.finetune import fit_, learner
from finetune_course.base.checkpoint import Checkpoint
from finetune_course.app.tracking import tracking_callbacks

def toy(epochs, *cbs, seed=0):
    "Train a small net on a few digits, 8 batches an epoch"
    train, valid = load('digits8', 8)
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4*36, 10))
    dls = dataloaders(train.take(range(0, 1400, 10)), valid.take(range(20)), 16, (.5,), (.5,))
    fit_(learner(dls, net, splitter=lambda m: [list(m.parameters())]), epochs, 1e-2, cbs=cbs)
    return net.state_dict()

def test_no_gradient_is_lost_between_two_steps(tmp_path):
    "Killed at any batch while gradients are added up, a training goes on to the same weights"
    class Kill(Callback):
        order = 101
        def __init__(self, at): self.at, self.n = at, 0
        def after_batch(self):
            self.n += self.training
            if self.n == self.at: raise RuntimeError('killed')
    def fit(*cbs): return toy(2, GradientAccumulation(48), *cbs)
    want = fit()
    for at in 1, 2, 4, 8, 11:
        with pytest.raises(RuntimeError, match='killed'): fit(Checkpoint(tmp_path/str(at), every=0), Kill(at))
        resumed = fit(Checkpoint(tmp_path/str(at), every=0, resume=True))
        for a, b in zip(want.values(), resumed.values()): assert torch.equal(a, b)

def test_the_log_of_a_stopped_training_is_that_of_a_whole_one(tmp_path):
    "Stopped an epoch and a half after its last checkpoint, so that one epoch is trained twice"
    class Kill(Callback):
        order = 101
        def after_batch(self):
            if not self.training: return
            if self.train_iter == 12: self.learn.checkpoint.every = 1e9   # none after the second epoch's middle
            if self.train_iter == 28: raise RuntimeError('killed')
    def fits(name, *cbs, resume=False):
        ckpt = Checkpoint(tmp_path/name/'ckpt', every=0, resume=resume)
        for seed in 0, 1: toy(5, ckpt, *tracking_callbacks(tmp_path/name, resume), *cbs, seed=seed)
    fits('whole')
    with pytest.raises(RuntimeError, match='killed'): fits('cut', Kill())
    fits('cut', resume=True)
    whole, cut = (pd.read_csv(tmp_path/n/'log.csv').drop(columns='time') for n in ('whole', 'cut'))
    assert whole.epoch.tolist() == [0, 1, 2, 3, 4]*2 and cut.equals(whole)
