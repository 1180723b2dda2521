"""Which recipe fine-tunes best? Judged on images that were taken out of the training images, never on the reported ones.

    python -m bench.recipes [RECIPE ...] [--folds 4] [--jobs 1]     # cross-validation on the embedded 4,000: every recipe and fold that is missing
    python -m bench.recipes LARGE ... --idx FOLDER                  # a "large" recipe, trained on MNIST's first 50,000 training images, judged on the other 10,000
    python -m bench.recipes PUPIL ... --idx FOLDER                  # a pupil of written answers, trained with those for the first 50,000: how often does it answer the copies of the other 10,000 otherwise than its teachers?
    python -m bench.recipes RECIPE ... --report --idx FOLDER        # trained on all of them (or, a "large" recipe, on the 60,000), reported on the 10,000 test images

Each row tells the mistakes of six ways to answer: the net, the average of its weights over the last steps, the net with BatchNorm's statistics from images
that were not augmented ("clean"), and the three with the mean answer over eight moved copies of each image and, counted twice, the image itself: moved as in
training, for the clean net half as far. A pupil needs its teachers first, reported with their seeds (where their rows are there but the nets are not, they are trained anew, and the rows stay); its row tells their mean answers too. Where a pupil is judged by its teachers, its row tells which of all copies of the held-out images the net and the average answer otherwise. `--jobs` trains so many nets at a time (on a GPU, which one small net does not fill)."""
import argparse, copy, json, math, os, subprocess, sys, time, warnings
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torchvision.ops import Conv2dNormActivation
from fastai.callback.core import Callback
from fastai.losses import LabelSmoothingCrossEntropyFlat
from fastai.torch_core import TensorImage, params, set_seed
from bench.shared import arguments, command, here, known
from finetune_course.backbone import backbone, layer_groups, replace_head_
from finetune_course.data import InputError, Pose, dataloaders, idx_folder, load
from finetune_course.evaluate import environment
from finetune_course.export import Spec
from finetune_course.finetune import fit_, learner, pick_device
from finetune_course.prune import Teach, Tutor, distillation_loss, drop_blind, recalibrate_bn_
from finetune_course.scale import Compile

convolution = partial(Conv2dNormActivation, padding=0)   # with BatchNorm and ReLU

def deep_cnn(n_out, growth=16, kernel=3):
    "Convolutions without padding or strides from 28 pixels to 8 or fewer, after the three nets of An et al., arXiv 2008.10400; those grow from 32 to 176 channels"
    layers, c, px = [], 1, 28
    while px > 8:
        layers += convolution(c, c := 32 + growth*((28-px)//4), kernel)
        px -= kernel - 1
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(c*px**2, n_out, bias=False), nn.BatchNorm1d(n_out))

def strided_cnn(n_out, width=32):
    "Twice two 3×3 convolutions and a 5×5 with stride 2, from 28 pixels to 3, after kaggle.com/cdeotte/how-to-choose-cnn-architecture-mnist; that one pads, drops out and has a hidden layer"
    return nn.Sequential(*convolution(1, width, 3), *convolution(width, width, 3), *convolution(width, width, 5, stride=2),
                         *convolution(width, 2*width, 3), *convolution(2*width, 2*width, 3), *convolution(2*width, 2*width, 5, stride=2, padding=2),
                         nn.Flatten(), nn.Linear(2*width*9, n_out, bias=False), nn.BatchNorm1d(n_out))

affine = dict(degrees=15, zoom=1.15, shear=.25, shift=.08, stretch=1.15)
bent = dict(affine, bend=.05)
drawn = dict(bent, thick=.5)
gentle = dict(degrees=7, zoom=1.07, warp=.05, shear=.12, shift=.04, stretch=1.07)   # half of `affine`, to answer with
default = dict(px=48, epochs=26, bs=64, lr=slice(1e-3, 1e-2), aug={}, drop=False, net=None, smooth=.1, teachers=(), finish=0, copies=0, temperature=2.)   # without a net: the pretrained one
recipes = {   # of about five minutes on two cores, but for the first
    '8 epochs': dict(epochs=8), '26 epochs': {}, 'affine': dict(aug=affine), 'bent': dict(aug=bent), 'drawn': dict(aug=drawn),
    'drawn, twice the rate': dict(aug=drawn, lr=slice(2e-3, 2e-2)), 'drawn, no smoothing': dict(aug=drawn, smooth=0.),
    'bent, 64 px': dict(aug=bent, px=64, epochs=14), 'drawn, 64 px': dict(aug=drawn, px=64, epochs=14),
    'drawn, no blind end': dict(aug=drawn, epochs=36, drop=True), 'drawn, no blind end, 64 px': dict(aug=drawn, epochs=20, px=64, drop=True),
}
large = {'large: pretrained': dict(aug=drawn, bs=256, px=64, epochs=15), 'large: deep CNN': dict(aug=drawn, bs=256, px=28, net=deep_cnn),
         'large: deep CNN, wider and longer': dict(aug=drawn, bs=256, epochs=30, px=28, net=partial(deep_cnn, growth=32))}   # its channels are multiples of 32, which AMX likes
member = dict(aug=drawn, bs=128, px=28, net=deep_cnn, smooth=0.)   # nets that differ make different mistakes
members = {'large: deep CNN, hard labels': member, 'large: deep CNN 5×5, hard labels': dict(member, aug=bent, net=partial(deep_cnn, kernel=5)), 'large: deep CNN 7×7, hard labels': dict(member, aug=affine, net=partial(deep_cnn, kernel=7))}
strided = dict(aug=affine, bs=128, px=28, epochs=20, net=strided_cnn, smooth=0.)
pupil = dict(strided, teachers=(*(('large: strided CNN', seed) for seed in range(3)), ('large: deep CNN 5×5, hard labels', 0), ('large: deep CNN 7×7, hard labels', 0)))
nine = (*((f'large: {name}', seed) for name in ('strided CNN', 'pretrained, hard labels') for seed in range(3)), *((name, 0) for name in members))
large |= members | {
    'large: deep CNN, pupil of three': dict(member, epochs=30, teachers=tuple((name, 0) for name in members)),
    'large: strided CNN': strided, 'large: strided CNN, pupil of five': pupil,
    'large: pretrained, hard labels': dict(large['large: pretrained'], smooth=0.),
    'large: pretrained, hard labels, 48 px': dict(aug=drawn, bs=128, epochs=8, smooth=0.),   # 36 minutes with one thread
    'large: strided CNN, pupil of two kinds': dict(strided, teachers=(('large: strided CNN', 0), ('large: strided CNN', 1), ('large: pretrained, hard labels, 48 px', 0))),
    'large: strided CNN, pupil of nine': dict(strided, epochs=2, teachers=nine, copies=10),   # moved copies of each image, answered once for every pupil of these teachers; 20 times 60,000 images in all
    'large: wide strided CNN, pupil of nine': dict(strided, net=partial(strided_cnn, width=64), epochs=3, teachers=nine, copies=10),
    'large: wide strided CNN, pupil of nine, fresh copies': dict(strided, net=partial(strided_cnn, width=64), epochs=1, teachers=nine, copies=25),   # each seen once; seeds 0 to 2 were to be asked with clean statistics, 3 to 5 as trained
    'large: wide strided CNN, pupil of nine, fresh copies, temperature 4': dict(strided, net=partial(strided_cnn, width=64), epochs=1, teachers=nine, copies=25, temperature=4.),   # to be asked as trained
    **{f'large: strided CNN, pupil of nine, five copies, temperature {t}': dict(strided, epochs=1, teachers=nine, copies=5, temperature=float(t)) for t in (1, 2, 4, 8)},
    'large: strided CNN, pupil of five, finished': dict(pupil, finish=6),   # epochs more, at a fifth of the rate: images moved half as far, teachers with clean statistics
}

class Drawn(Pose):
    "`Pose`, and what else differs between two hands: slant, place, width, wobble, thickness of the pen."
    def __init__(self, degrees=12., zoom=1.1, warp=.1, shear=0., shift=0., stretch=1., bend=0., thick=0.):
        super().__init__(degrees, zoom, warp)
        self.shear, self.shift, self.stretch, self.bend, self.thick = shear, shift, stretch, bend, thick

    def encodes(self, x: TensorImage):
        (n, _, h, w), x = x.shape, x.as_subclass(Tensor)
        turn, size, tx, ty, px, py, slant, dx, dy, wide = torch.rand(10, n, 1, 1, device=x.device)*2 - 1
        if self.thick:
            k, u = 2*max(1, round(w/56))+1, (torch.rand(n, 1, 1, 1, device=x.device)*2 - 1)*self.thick
            x = torch.where(u > 0, x.lerp(F.max_pool2d(x, k, 1, k//2), u.clamp(min=0)), x.lerp(-F.max_pool2d(-x, k, 1, k//2), (-u).clamp(min=0)))
        a, s, st = turn*math.radians(self.degrees), self.zoom**size, self.stretch**wide
        gx = torch.linspace(1/w-1, 1-1/w, w, device=x.device)
        gy = torch.linspace(1/h-1, 1-1/h, h, device=x.device)[:, None]
        tilt, u = 1 + self.warp*(px*gx + py*gy), st*gx + self.shear*slant*gy
        v = gy/st
        grid = torch.stack(((s*a.cos()*u + (s*a.sin()*v + (1-s)*tx))/tilt + self.shift*dx, ((s*a.cos()*v + (1-s)*ty) - s*a.sin()*u)/tilt + self.shift*dy), -1)
        if self.bend: grid = grid + F.interpolate(self.bend*torch.randn(n, 2, 5, 5, device=x.device), (h, w), mode='bicubic', align_corners=True).permute(0, 2, 3, 1)
        return TensorImage(F.grid_sample(x, grid, padding_mode='border', align_corners=False))

class Average(Callback):
    "An exponential moving average of the weights, over about the last 5 % of the steps"
    def before_fit(self):
        self.net = AveragedModel(self.model, multi_avg_fn=get_ema_multi_avg_fn(1 - 20/max(40, self.n_epoch*len(self.dls.train))), use_buffers=True)
    def after_step(self): self.net.update_parameters(self.model)

class BFloat16(Callback):
    "Convolutions in 16 bits on a CPU that can multiply them: three times as fast with AMX, 1.6 times without, where they are not depthwise; those get slower"
    def before_batch(self): self.cast = torch.autocast('cpu', torch.bfloat16); self.cast.__enter__()
    def after_pred(self): self.cast.__exit__(None, None, None); self.learn.pred = self.pred.float()

class Committee(nn.Module):
    "The mean answer (logits) of trained nets, which are kept in bench/teachers, to the pupil's batches; with `clean` ones, of nets with BatchNorm's statistics from those"
    def __init__(self, pupil, n_out, device, clean=None):
        super().__init__()
        def trained(name, seed):
            net = copy.deepcopy(fresh_net(name, n_out, 0)[0])
            net.load_state_dict(load_file(kept(name, seed)))
            return Tutor(net, seen(name, n_out), seen(pupil, n_out)).eval()
        self.nets = nn.ModuleList(trained(*member) for member in options(pupil)['teachers'])
        self.to(device, memory_format=torch.channels_last).requires_grad_(False)
        for net in self.nets if clean else (): recalibrate_clean_(net, clean)
        self.bs, self.fast = options(pupil)['bs'], torch.compile(self.ask, options={} if torch.cuda.is_available() else dict(freezing=True))

    def ask(self, x): return sum(net(x) for net in self.nets)/len(self.nets)

    @torch.no_grad()
    def forward(self, x):
        with torch.autocast(x.device.type, torch.bfloat16): return (self.fast if len(x) == self.bs else self.ask)(x).float()   # other sizes would be compiled anew

def written(name, what, i, make):
    "The tensors that `make` returns from the answers of a pupil's teachers: kept for all pupils of theirs, and made anew for new teachers"
    same = next(r for r in large if all(options(r)[k] == options(name)[k] for k in ('teachers', 'aug', 'px')))
    file, newest = kept(f'{same}, {what}', i), max(kept(*member).stat().st_mtime for member in options(name)['teachers'])
    if not file.is_file() or file.stat().st_mtime < newest:
        save_file(make(i), part := file.with_suffix(f'.{os.getpid()}.part'))
        part.rename(file)
    return load_file(file)

def answered(name, train, device):
    "The copies of the images that a pupil learns from, each moved with a seed of its own, with its teachers' answers as labels"
    spec, committee = seen(name, len(train.vocab)), cache(lambda: Committee(name, len(train.vocab), device))
    def moved(i):
        dl = dataloaders(train, train.take(range(64)), 500, (0.,), (1.,), aug=[Drawn(**options(name)['aug'])], device=device).train
        set_seed(i)
        dl.shuffle = dl.drop_last = False
        x = torch.cat([(x.as_subclass(Tensor)*255).round().byte() for x, _ in dl])
        y = torch.cat([committee()(((b/255 - spec.mean[0])/spec.std[0]).to(device)) for b in x.split(128 if device.type == 'cpu' else 500)])   # what a CPU's cache holds
        return dict(x=x.cpu(), y=y.half().cpu())
    parts = [written(name, 'copy', i, moved) for i in range(options(name)['copies'])]
    if {len(p['x']) for p in parts} != {len(train)}: raise InputError(f'the copies in {here/"teachers"} are not of {len(train):,} images; remove them, or give their --idx.')
    return replace(train, **{k: torch.cat([p[k] for p in parts]) for k in 'xy'}, names=[])

def voted(name, dls, x):
    "The classes that a pupil's teachers give the images `x`, as they are and with moved copies"
    def vote(n):
        committee = Committee(name, dls.c, dls.device)
        return {f'teachers{", moved" if n else ""}': answers(committee, dls, x, n).argmax(1).cpu() for n in (0, 8)}
    return written(name, 'vote', len(x), vote)

def towards(pred, y, temperature):
    "The loss towards the written answers of teachers; towards labels the cross entropy"
    return F.cross_entropy(pred, y) if y.ndim == 1 else distillation_loss(pred, y, temperature)

def recalibrate_clean_(net, dl): return recalibrate_bn_(net, dl, 20_000//dl.bs)

def kept(name, seed): return here/'teachers'/f'{name.replace("large: ", "large-")}-{seed}.safetensors'

def teaches(name, seed): return any((name, seed) in r.get('teachers', ()) for r in large.values())

def lacking(name):
    "Raise `InputError` where a pupil's teachers are not there"
    if names := [f'"{n}" with seed {i}' for n, i in options(name)['teachers'] if not kept(n, i).is_file()]:
        raise InputError(f'the pupil "{name}" needs its teachers, which nobody trained here yet: run python -m bench.recipes --report --idx FOLDER with {", ".join(names)} first.')

@torch.no_grad()
def answers(model, dls, x, n_moved):
    "Class probabilities for the images `x`: as they are, or the mean over copies that are moved as the training batches of `dls`"
    set_seed(0)
    model.eval()
    for dl in dls: dl.before_iter()   # else the pipelines of batches that nobody asked for do not know which of them augments
    def once(pipeline): return torch.cat([model(pipeline((TensorImage(b), ))[0].as_subclass(Tensor)).float().softmax(1) for b in x.split(500)])
    out = once(dls.valid.after_batch)
    return out if not n_moved else 2*out + sum(once(dls.train.after_batch) for _ in range(n_moved))

def options(name): return default | (recipes | large)[name]

def seen(name, n_out):
    "What the net of a recipe reads"
    p = options(name)
    grey = (.5,)*(1 if p['net'] else 3)
    return Spec('plain_cnn' if p['net'] else 'tf_efficientnet_lite0', [str(i) for i in range(n_out)], p['px'], grey, grey)

@cache
def fresh_net(name, n_out, seed):
    "The net of a recipe before it is trained, its weights, and a callback that compiles it once"
    set_seed(seed)
    p = options(name)
    net = p['net'](n_out) if p['net'] else replace_head_(backbone(), n_out)
    if p['drop']: net = drop_blind(net, seen(name, n_out), .9)[0]
    return net, copy.deepcopy(net.state_dict()), Compile() if torch.cuda.is_available() else Compile(mode='default')

def batched(name, train, device, aug, lesson=None):
    spec = seen(name, len(train.vocab))
    return dataloaders(lesson or train, train.take(range(64)), options(name)['bs'], spec.mean, spec.std, aug=aug, device=device)

def train(name, batches, seed, head, lesson=None):
    "Train the net of a recipe, from the images of `batches` or answers that were written for their copies; returns the learner, the averaged net and the seconds."
    p, dls = options(name), batches([Drawn(**options(name)['aug'])])
    net, start, compiled = fresh_net(name, dls.c, head)
    net.load_state_dict(start)
    average, t, cuda = Average(), time.perf_counter(), torch.device(dls.device).type == 'cuda'
    extra = [compiled]*(cuda or bool(p['net'])) + [BFloat16()]*(bool(p['net']) and not cuda and torch.cpu.get_capabilities().get('avx512_bf16', False))
    def fit(dls, cbs, *args):
        learn = learner(dls, net, splitter=params if p['net'] or p['drop'] else layer_groups, cbs=[average, *extra, *cbs],
                        loss_func=partial(towards, temperature=p['temperature']) if p['copies'] else LabelSmoothingCrossEntropyFlat(eps=p['smooth']))
        fit_(learn, *args, seed=seed)
        return learn
    learn = fit(batches([], lesson) if lesson else dls, [Teach(Committee(name, dls.c, dls.device), p['temperature'])] if p['teachers'] and not p['copies'] else [], p['epochs'], p['lr'])
    if p['finish']: learn = fit(batches([Drawn(**gentle)]), [Teach(Committee(name, dls.c, dls.device, batches([]).train), p['temperature'])], p['finish'], 2e-3)
    return learn, average.net.module, time.perf_counter() - t

def line(name, seed, seconds, y, ways):
    "A line of results: `ways` are classes, to be compared with `y`"
    y = y.cpu()
    return dict(recipe=name, seed=seed, n=len(y), seconds=round(seconds, 1), wrong={k: (o.cpu() != y).nonzero()[:, 0].tolist() for k, o in ways.items()})

def judged(name, ds, valid, seed, device, head):
    "Train on `ds`, and ask for the classes of `valid` in all ways"
    p, batches = options(name), partial(batched, name, ds, device)
    learn, averaged, seconds = train(name, batches, seed, head, answered(name, ds, device) if p['copies'] else None)
    if teaches(name, seed) and len(ds) == 60_000:
        kept(name, seed).parent.mkdir(exist_ok=True)
        save_file({k: v.contiguous() for k, v in learn.model.state_dict().items()}, kept(name, seed))
    plain, dls, gently = batches([]).train, batches([Drawn(**p['aug'])]), batches([Drawn(**gentle)])
    clean, x = recalibrate_clean_(copy.deepcopy(learn.model), plain), valid.x.to(dls.device)
    nets = {'net': (learn.model, dls), 'average': (averaged, dls), 'clean': (clean, gently)}
    ways = {f'{k}{", moved" if n else ""}': answers(*v, x, n).argmax(1) for k, v in nets.items() for n in (0, 8)}
    if p['teachers']: ways |= voted(name, dls, x)
    return line(name, seed, seconds, valid.y, ways)

def followed(name, ds, seed, device):
    "Train on the answers for copies of the first 50,000 images; the answers for those of the others, that teachers learned from but the pupil did not, are to be met"
    copies = answered(name, ds, device)
    learned = torch.arange(len(copies)) % len(ds) < 50_000
    lesson, held = copies.take(learned), copies.take(~learned)
    batches = partial(batched, name, ds, device)
    learn, averaged, seconds = train(name, batches, seed, seed, lesson)
    dls = batches([])
    return line(name, seed, seconds, held.y.argmax(1), {k: answers(net, dls, held.x.to(dls.device), 0).argmax(1) for k, net in (('net', learn.model), ('average', averaged))})

def prepare(name, kind, train, valid, device):
    "Have a pupil's teachers answer, where they have not"
    if options(name)['copies']: answered(name, train, device)
    if kind == 'follow': return
    dls = batched(name, train, device, [Drawn(**options(name)['aug'])])
    voted(name, dls, valid.x.to(dls.device))

def one(name, kind, seed, folder, folds, device):
    px = options(name)['px']
    if kind == 'fold':
        ds, _ = load('mnist5k', px)
        part = torch.randperm(len(ds), generator=torch.Generator().manual_seed(0)).chunk(folds)
        a, b = ds.take(torch.cat([p for i, p in enumerate(part) if i != seed])), ds.take(part[seed])
    else:
        a, b = idx_folder(folder, px)
        if kind == 'follow': return dict(kind=kind, **followed(name, a, seed, device))
        if kind == 'held': a, b = a.take(range(50_000)), a.take(range(50_000, len(a)))
        if name not in large: a, _ = load('mnist5k', px)
    return dict(kind=kind, **judged(name, a, b, seed, device, head=0 if kind == 'fold' else seed))

def main():
    a = arguments(__doc__, 'recipes.jsonl')
    a.add_argument('recipe', nargs='*', help=f'one or more of: {"; ".join(recipes | large)}')
    a.add_argument('--folds', type=int, default=4)
    a.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2])
    a.add_argument('--idx', type=Path, help="folder with MNIST's four files")
    a.add_argument('--report', action='store_true')
    a.add_argument('--jobs', type=int, default=1)
    a.add_argument('--job', type=int, default=0, help=argparse.SUPPRESS)
    a.add_argument('--device', default='auto')
    a = a.parse_args()
    known(a.recipe, recipes | large)
    warnings.filterwarnings('ignore')
    by_answers = [options(r)['copies'] > 0 for r in a.recipe]
    kind, device = 'report' if a.report else 'fold' if not a.idx else 'follow' if any(by_answers) else 'held', pick_device(a.device)
    if a.report and not a.idx: raise InputError("--report reads MNIST's test images: add --idx FOLDER.")
    if kind == 'held' and not (a.recipe and {*a.recipe} <= {*large}): raise InputError('the embedded images may be among those that --idx holds out; add --report, or name "large" recipes.')
    if kind == 'follow' and not all(by_answers): raise InputError('pupils of written answers are judged by those, other nets by labels: name them in two commands, or add --report.')
    if kind in ('fold', 'held') and any(options(r)['teachers'] for r in a.recipe): raise InputError('the teachers of a pupil may have learned from the images that are held out; add --report.')
    done = {(r['kind'], r['recipe'], r['seed'], r['folds']) for r in map(json.loads, a.out.read_text().splitlines())} if a.out.is_file() else ()
    todo = [(r, s) for r in a.recipe or recipes for s in (range(a.folds) if kind == 'fold' else a.seeds)]
    if kind == 'report': todo.sort(key=lambda t: t[1])
    share = math.ceil(len(todo)/max(1, a.jobs))
    def wanted(name, seed): return (kind, name, seed, a.folds) not in done or kind == 'report' and teaches(name, seed) and not kept(name, seed).is_file()
    pupils = {r for r, s in todo if options(r)['teachers'] and wanted(r, s)}
    for name in pupils: lacking(name)
    for name in pupils if a.job == 0 else (): prepare(name, kind, *idx_folder(a.idx, options(name)['px']), device)   # before several jobs ask for it
    others = [subprocess.Popen([sys.executable, '-m', 'bench.recipes', *sys.argv[1:], '--job', str(i)]) for i in range(1, a.jobs)] if a.job == 0 else []
    for name, seed in todo[a.job*share:(a.job+1)*share]:
        if not wanted(name, seed): continue
        row = one(name, kind, seed, a.idx, a.folds, device) | dict(folds=a.folds, device=torch.cuda.get_device_name() if device.type == 'cuda' else environment()['cpu'])
        a.out.parent.mkdir(parents=True, exist_ok=True)
        if (kind, name, seed, a.folds) not in done:
            with open(a.out, 'a') as f: f.write(json.dumps(row) + '\n')
        print(row['kind'], row['recipe'], row['seed'], f'{row["seconds"]} s, {"otherwise than the teachers" if kind == "follow" else "mistakes"}, of {row["n"]}:', {k: len(v) for k, v in row['wrong'].items()}, flush=True)
    if any([p.wait() for p in others]): raise SystemExit('a job failed: see above; start again for what is missing.')

if __name__ == '__main__': command(main)
