"""How a recipe of bench.recipes is trained, taught and asked. Teachers and answers stay in bench/teachers."""
import hashlib, math, os
from dataclasses import dataclass, field, replace
from functools import cache, partial
from itertools import islice
from typing import Callable

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, update_bn
from fastai.callback.core import Callback
from fastai.losses import LabelSmoothingCrossEntropyFlat
from fastai.torch_core import TensorImage, params, set_seed
from bench.harness import nets_folder, refuse
from finetune_course.backbone import create_pretrained, layer_groups, replace_head_
from finetune_course.data import Images, Pose, dataloaders, idx_folder
from finetune_course.export import Candidate, Spec
from finetune_course.finetune import fit_, learner
from finetune_course.base.resizing import ResizingTeacher
from finetune_course.teacher import DistillationCallback, distillation_loss
from finetune_course.base.memory import Compile

@dataclass(frozen=True, eq=False)
class Recipe:
    name: str
    train: str = '4,000'          # images: the embedded ones, or '60,000'
    net: Callable | None = None   # makes the net; default: the pretrained one
    px: int = 48
    epochs: int = 26
    batch_size: int = 64
    lr: tuple = (1e-3, 1e-2)      # of the first layers and of the head
    aug: dict = field(default_factory=dict)   # to `Drawn`
    smooth: float = .1
    teachers: tuple = ()          # pairs of recipe and seed; their mean answer takes the place of labels
    temperature: float = 2.
    copies: int = 0               # of each image, moved and answered once for all; 0: answered at each step
    finish: int = 0               # epochs more, images moved less, teachers with clean statistics

    @property
    def spec(self):
        "What the net reads"
        arch, half = ('plain_cnn', (.5,)) if self.net else ('tf_efficientnet_lite0', (.5,)*3)
        return Spec(arch, [str(i) for i in range(10)], self.px, half, half)

# ---- images

affine = dict(degrees=15, zoom=1.15, shear=.25, shift=.08, stretch=1.15)
gentle = dict(degrees=7, zoom=1.07, warp=.05, shear=.12, shift=.04, stretch=1.07)   # half of it

class Drawn(Pose):
    "`Pose`, and what else differs between two hands: slant, place, width, wobble, thickness of the pen"
    def __init__(self, degrees=12., zoom=1.1, warp=.1, shear=0., shift=0., stretch=1., bend=0., thick=0.):
        super().__init__(degrees, zoom, warp)
        self.shear, self.shift, self.stretch, self.bend, self.thick = shear, shift, stretch, bend, thick

    def pen(self, x):
        k = 2*max(1, round(x.shape[-1]/56)) + 1
        by = (torch.rand(len(x), 1, 1, 1, device=x.device)*2 - 1)*self.thick
        thicker, thinner = F.max_pool2d(x, k, 1, k//2), -F.max_pool2d(-x, k, 1, k//2)
        return torch.where(by > 0, x.lerp(thicker, by.clamp(min=0)), x.lerp(thinner, (-by).clamp(min=0)))

    def grid(self, n, h, w, device):
        "Where each pixel comes from, n×h×w×2"
        turn, size, tx, ty, px, py, slant, dx, dy, wide = torch.rand(10, n, 1, 1, device=device)*2 - 1
        a, s, stretch = turn*math.radians(self.degrees), self.zoom**size, self.stretch**wide
        gx = torch.linspace(1/w-1, 1-1/w, w, device=device)
        gy = torch.linspace(1/h-1, 1-1/h, h, device=device)[:, None]
        tilt, u, v = 1 + self.warp*(px*gx + py*gy), stretch*gx + self.shear*slant*gy, gy/stretch
        x = (s*a.cos()*u + (s*a.sin()*v + (1-s)*tx))/tilt + self.shift*dx
        y = ((s*a.cos()*v + (1-s)*ty) - s*a.sin()*u)/tilt + self.shift*dy
        return torch.stack((x, y), -1)

    def encodes(self, x: TensorImage):
        (n, _, h, w), x = x.shape, x.as_subclass(Tensor)
        grid = self.grid(n, h, w, x.device)
        if self.thick: x = self.pen(x)
        if self.bend:
            wobble = self.bend*torch.randn(n, 2, 5, 5, device=x.device)
            wobble = F.interpolate(wobble, (h, w), mode='bicubic', align_corners=True)
            grid = grid + wobble.permute(0, 2, 3, 1)
        return TensorImage(F.grid_sample(x, grid, padding_mode='border', align_corners=False))

def batches(recipe, ds: Images, device, aug=None, lesson=None):
    "Of `ds`, moved by `aug` (options of `Drawn`; None: as they are), or of a `lesson`"
    moved, some = [] if aug is None else [Drawn(**aug)], ds.take(range(64))
    mean, std = recipe.spec.mean, recipe.spec.std
    return dataloaders(lesson or ds, some, recipe.batch_size, mean, std, aug=moved, device=device)

# ---- training

class Average(Callback):
    "An exponential moving average of the weights, over about the last 5 % of the steps"
    def before_fit(self):
        decay = 1 - 20/max(40, self.n_epoch*len(self.dls.train))
        self.net = AveragedModel(self.model, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)

    def after_step(self): self.net.update_parameters(self.model)

class BFloat16(Callback):
    "Convolutions in 16 bits on a CPU that can multiply them, faster if they are not depthwise"
    def before_batch(self):
        self.cast = torch.autocast('cpu', torch.bfloat16)
        self.cast.__enter__()

    def after_pred(self):
        self.cast.__exit__(None, None, None)
        self.learn.pred = self.pred.float()

def faster(recipe, device):
    "Callbacks that this machine can use"
    if device.type == 'cuda': return [Compile()]
    if not recipe.net: return []
    return [Compile(mode='default')] + [BFloat16()]*bool(torch.cpu.get_capabilities().get('avx512_bf16'))

def fresh_net(recipe, seed):
    set_seed(seed)
    return recipe.net() if recipe.net else replace_head_(create_pretrained(), 10)

def towards(pred, y, temperature):
    "The loss towards written answers of teachers; towards labels the cross entropy"
    return F.cross_entropy(pred, y) if y.ndim == 1 else distillation_loss(pred, y, temperature)

def fit(recipe, net, dls, seed, cbs, epochs, lr):
    loss = LabelSmoothingCrossEntropyFlat(eps=recipe.smooth)
    if recipe.copies: loss = partial(towards, temperature=recipe.temperature)
    splitter = params if recipe.net else layer_groups
    fit_(learner(dls, net, splitter=splitter, loss_func=loss, cbs=cbs), epochs, lr, seed=seed)

def train(recipe, ds, seed, device, folder, head=None, lesson=None):
    "The trained net, and that of its averaged weights; a `lesson` are copies that teachers answered"
    net, average = fresh_net(recipe, seed if head is None else head), Average()
    cbs, dls = [average, *faster(recipe, device)], batches(recipe, ds, device, recipe.aug)
    def teach(**kwargs): return [DistillationCallback(Committee(recipe, device, folder, **kwargs), recipe.temperature)]
    if recipe.copies: dls = batches(recipe, ds, device, lesson=lesson or answered(recipe, folder, device))
    at_each_step = teach() if recipe.teachers and not recipe.copies else []
    fit(recipe, net, dls, seed, [*cbs, *at_each_step], recipe.epochs, slice(*recipe.lr))
    if recipe.finish:
        clean, gently = batches(recipe, ds, device).train, batches(recipe, ds, device, gentle)
        fit(recipe, net, gently, seed, [*cbs, *teach(clean=clean)], recipe.finish, 2e-3)
    return net, average.net.module

def recalibrate_clean_(net, dl):
    "BatchNorm's statistics from 20,000 images that nobody moved, in place"
    update_bn(islice(dl, 20_000//dl.bs), net)
    return net.eval()

# ---- teachers

def kept(name: str, make) -> dict:
    "The tensors of a file in bench/teachers, made where it is not there"
    file = nets_folder/f'{name}.safetensors'
    if not file.is_file():
        nets_folder.mkdir(exist_ok=True)
        tensors = {k: v.detach().cpu().contiguous() for k, v in make().items()}
        save_file(tensors, part := file.with_suffix(f'.{os.getpid()}.part'))
        part.rename(file)
    return load_file(file)

def teacher(recipe, seed, device, folder):
    "A trained net, which nobody trains twice"
    def make():
        print(f'training a teacher: {recipe.name}, seed {seed}', flush=True)
        ds, = idx_folder(folder, recipe.px, ['train'])
        return train(recipe, ds, seed, device, folder)[0].state_dict()
    net = fresh_net(recipe, 0)
    net.load_state_dict(kept(f'{recipe.name}-{seed}', make))
    return net

class Committee(nn.Module):
    "The mean answer (logits) of a pupil's teachers to its batches; BatchNorm's statistics from `clean` ones"
    def __init__(self, pupil, device, folder, clean=None):
        super().__init__()
        nets = [Candidate(teacher(r, seed, device, folder), r.spec) for r, seed in pupil.teachers]
        self.nets = nn.ModuleList(ResizingTeacher(net, pupil.spec).eval() for net in nets)
        self.to(device, memory_format=torch.channels_last).requires_grad_(False)
        for net in self.nets if clean else (): recalibrate_clean_(net, clean)
        options = {} if torch.cuda.is_available() else dict(freezing=True)
        self.batch_size, self.fast = pupil.batch_size, torch.compile(self.ask, options=options)

    def ask(self, x): return sum(net(x) for net in self.nets)/len(self.nets)

    @torch.no_grad()
    def forward(self, x):   # other sizes would be compiled anew
        ask = self.fast if len(x) == self.batch_size else self.ask
        with torch.autocast(x.device.type, torch.bfloat16): return ask(x).float()

def lesson_name(pupil):
    "The same for all pupils of the same teachers that see images moved alike"
    what = [(r.name, seed) for r, seed in pupil.teachers], pupil.aug, pupil.px
    return 'lesson-' + hashlib.sha256(repr(what).encode()).hexdigest()[:8]

def answered(pupil, folder, device):
    "Copies of MNIST's training images, each moved by its own seed, with the teachers' answers as labels"
    (ds,), spec = idx_folder(folder, pupil.px, ['train']), pupil.spec
    committee, some = cache(lambda: Committee(pupil, device, folder)), ds.take(range(64))
    def copy_of_all(i):
        moved = dataloaders(ds, some, 500, (0.,), (1.,), aug=[Drawn(**pupil.aug)], device=device).train
        set_seed(i)
        moved.shuffle = moved.drop_last = False
        x = torch.cat([(x.as_subclass(Tensor)*255).round().byte() for x, _ in moved])
        parts = x.split(128 if device.type == 'cpu' else 500)   # what a CPU's cache holds
        y = [committee()(((b/255 - spec.mean[0])/spec.std[0]).to(device)) for b in parts]
        return dict(x=x, y=torch.cat(y).half())
    parts = [kept(f'{lesson_name(pupil)}-{i}', partial(copy_of_all, i)) for i in range(pupil.copies)]
    if {len(p['x']) for p in parts} != {len(ds)}:
        refuse(f'the copies in {nets_folder} are not of these {len(ds):,} images; remove them.')
    return replace(ds, **{k: torch.cat([p[k] for p in parts]) for k in 'xy'}, names=[])

# ---- answers

@torch.no_grad()
def answer(model, dls, x, moved=False):
    "Classes of the images `x`; moved: of the image, counted twice, and eight copies, moved as `dls` does"
    set_seed(0)
    model.eval()
    for dl in dls: dl.before_iter()   # else the pipelines do not know which of them moves images
    def ask(pipeline):
        parts = [pipeline((TensorImage(b),))[0].as_subclass(Tensor) for b in x.split(500)]
        return torch.cat([model(b).float().softmax(1) for b in parts])
    out = ask(dls.valid.after_batch)
    if moved: out = 2*out + sum(ask(dls.train.after_batch) for _ in range(8))
    return out.argmax(1).cpu()

def vote(pupil, dls, x, device, folder):
    "What a pupil's teachers answer to the images `x`"
    def make():
        ask = partial(answer, Committee(pupil, device, folder), dls, x)
        return {'teachers': ask(), 'teachers, moved copies': ask(moved=True)}
    return kept(f'{lesson_name(pupil)}-vote-{len(x)}', make)
