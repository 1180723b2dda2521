"For test_ranks.py: two epochs of a small net, alone or as one of several ranks; the weights go to a file."
import os, sys
import torch
from torch import nn
from fastai.callback.core import Callback
from fastai.callback.training import GradientAccumulation
from fastai.optimizer import SGD
from finetune_course.data import dataloaders, mnist5k, split
from finetune_course.finetune import learner
from finetune_course.distribute import distributed_callbacks, init_distributed

class Frozen(Callback):
    def before_train(self): self.model.apply(lambda m: m.eval() if isinstance(m, nn.BatchNorm2d) else None)

cpu = torch.device('cpu')
init_distributed(cpu)
torch.manual_seed(0)
train, valid = split(mnist5k(28).take(range(0, 5000, 10)), .1)   # 28 batches of 16
net = nn.Sequential(nn.Conv2d(1, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8*13*13, 10))
dls = dataloaders(train, valid, 16, (.5,), (.5,), aug=[])
learn = learner(dls, net, splitter=lambda m: [list(m.parameters())], opt_func=SGD)
alone = [] if 'RANK' in os.environ else [GradientAccumulation(32)]
dls.train.rng.seed(0)
with learn.no_bar(), learn.no_logging():
    # One rate: a schedule would count the small steps
    learn.fit(2, .05, cbs=[Frozen(), *distributed_callbacks(cpu), *alone])
if int(os.environ.get('RANK', 0)) == 0: torch.save(net.state_dict(), sys.argv[1])
