"""Training on a CUDA GPU: our loader and recipe against the ordinary fastai recipe, with the same body, on the same GPU in the same run.

    python -m bench.gpu --idx FOLDER [PART ...]     # FOLDER: MNIST's four files; parts: rates schedule; default: both

rates: images a second at 64 px, by turns, after the first 40 steps, so that compiling and what workers have prefetched are not counted; compiling is given beside it. The peak is that of a large bf16 matrix product.
schedule: the shortest one-cycle schedule whose mean over three seeds reaches 99.5 % on 6,000 training images that are held out, reported on the 10,000 test images."""
import statistics, tempfile, time
from functools import partial
from pathlib import Path

import torch
from fastai.callback.core import Callback, CancelFitException, CancelValidException
from fastai.optimizer import Adam
from fastai.vision.augment import Resize, aug_transforms
from fastai.vision.data import ImageDataLoaders
from fastai.vision.learner import vision_learner
from fastai.torch_core import set_seed
from bench.compress import macs
from bench.shared import arguments, as_pngs, command, keep, known, read_here, unmixed
from finetune_course.backbone import backbone, replace_head_
from finetune_course.data import InputError, dataloaders, idx_folder, split
from finetune_course.evaluate import environment
from finetune_course.finetune import fit_, learner
from finetune_course.prune import accuracy_of
from finetune_course.scale import Compile

arch = 'tf_efficientnet_lite0'

def timed(f):
    torch.cuda.synchronize(); t = time.perf_counter()
    f()
    torch.cuda.synchronize(); return time.perf_counter() - t

def start(seed):
    set_seed(seed)
    return replace_head_(backbone(arch), 10)

def ours(train, valid, bs=512, cbs=(), **kwargs): return learner(dataloaders(train, valid, bs, device='cuda'), start(0), cbs=cbs, **kwargs)

def theirs(folder, bs=64, half=False):
    dls = ImageDataLoaders.from_folder(folder, valid_pct=.01, item_tfms=Resize(64), bs=bs, num_workers=15, batch_tfms=aug_transforms(do_flip=False))
    learn = vision_learner(dls, arch, pretrained=False)
    learn.unfreeze()
    return learn.to_fp16() if half else learn

class Clock(Callback):
    "Images a second, after `skip` steps, for `seconds`"
    order = 99
    def __init__(self, skip=40, seconds=5.): self.skip, self.seconds, self.n = skip, seconds, 0
    def before_validate(self): raise CancelValidException
    def after_batch(self):
        self.n += 1
        if self.n == self.skip: torch.cuda.synchronize(); self.t = time.perf_counter()
        if self.n > self.skip and time.perf_counter() - self.t > self.seconds:
            torch.cuda.synchronize()
            self.rate = (self.n - self.skip)*self.dls.train.bs/(time.perf_counter() - self.t)
            raise CancelFitException

def rate(learn):
    clock = Clock()
    with learn.no_bar(), learn.no_logging(): learn.fit(1000, 1e-3, cbs=[clock])
    return clock.rate

def rates(train, valid, save):
    with tempfile.TemporaryDirectory() as tmp:
        as_pngs(train, Path(tmp))
        ways = {'ours': partial(ours, train, valid, opt_func=Adam), 'ours, fused optimizer': partial(ours, train, valid), 'ours, fused, compiled': partial(ours, train, valid, cbs=[Compile(mode='default')]),
                'ours, fused, compiled to a CUDA graph': partial(ours, train, valid, cbs=[Compile()]), 'ours, fused, batches of 2048': partial(ours, train, valid, 2048),
                'fastai, fp32, batches of 64': partial(theirs, tmp), 'fastai, fp16, batches of 64': partial(theirs, tmp, half=True), 'fastai, fp16, batches of 512': partial(theirs, tmp, 512, True)}
        res, broken, first = {k: [] for k in ways}, {}, {}
        learners = {k: f() for k, f in ways.items()}
        for turn in range(3):   # the first one warms up
            for k, learn in learners.items():
                if k in broken: continue
                t = time.perf_counter()
                try: r = rate(learn)
                except Exception as e: broken[k] = f'{type(e).__name__}: {e}'[:300]
                else:
                    if turn: res[k].append(round(r))
                    else: first[k] = round(time.perf_counter() - t - 5, 1)
                print(k, broken.get(k) or r, flush=True)
    x = torch.randn(8192, 8192, device='cuda', dtype=torch.bfloat16)
    for _ in range(3): x @ x
    peak = 20*2*8192**3/timed(lambda: [x @ x for _ in range(20)])
    best = max(statistics.median(r) for k, r in res.items() if k.startswith('ours') and r)
    save(dict(images_s=res, seconds_before_the_clock=first, broken=broken, peak_tflops=round(peak/1e12), share_of_peak=round(6*macs(start(0), 3, 64)*best/peak, 4)))

def schedule(train, valid, test, save, was):
    reported, net, graph, res = dataloaders(test, test, 512, device='cuda').valid, start(0), Compile(), was or dict(schedules=[])
    def run(epochs, seed):
        net.load_state_dict(start(seed).state_dict())
        learn = learner(dataloaders(train, valid, 512, device='cuda'), net, cbs=[graph])
        seconds = timed(lambda: fit_(learn, epochs, slice(2e-3, 2e-2), seed=seed))
        return dict(seed=seed, seconds=round(seconds, 2), valid=accuracy_of(net, learn.dls.valid), test=accuracy_of(net, reported))
    res.setdefault('first epoch, with compiling', run(1, 0)['seconds'])   # later it may come from a cache
    for epochs in (2, 3, 4, 6, 8, 12):
        runs = next((s['runs'] for s in res['schedules'] if s['epochs'] == epochs), None)
        if runs is None:
            res['schedules'].append(dict(epochs=epochs, runs=(runs := [run(epochs, seed) for seed in range(3)])))
            save(res)
            print(epochs, runs, flush=True)
        if statistics.mean(r['valid'] for r in runs) >= .995: break

def main():
    a = arguments(__doc__, 'gpu.json')
    a.add_argument('part', nargs='*', help='rates schedule')
    a.add_argument('--idx', type=Path, required=True)
    a = a.parse_args()
    known(a.part, ('rates', 'schedule'))
    if not torch.cuda.is_available(): raise InputError('there is no CUDA GPU here, and this benchmark needs one; run it where there is.')
    rest, test = idx_folder(a.idx, 64)
    train, valid = split(rest, .1)
    res = read_here(a.out, device=torch.cuda.get_device_name(), px=64)
    unmixed(a.out, 'the GPU', [res['device']], torch.cuda.get_device_name())
    def save(name, value):
        res.update({name: value, 'environment': environment()})
        keep(a.out, res)
    parts = dict(rates=partial(rates, train, valid), schedule=partial(schedule, train, valid, test, was=res.get('schedule')))
    for name in a.part or parts: parts[name](save=partial(save, name))

if __name__ == '__main__': command(main)
