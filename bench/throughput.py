"""Images a second, memory and seconds: loaders, streams, processes, checkpoints, a GPU.

    python -m bench.throughput EXPERIMENT           # one of those below
    python -m bench.throughput gpu --mnist FOLDER   # needs a CUDA GPU

loading          batches cut out of memory, against fastai's ImageDataLoaders over the same files
stream-memory    peak memory of training from streams of 10,000 to 1,000,000 images
stream-loading   the stream against fastai's ImageDataLoaders
stream-training  the stream against batches in memory
processes        two processes of one thread and 64 images a step each, against one
checkpoint       the time that one takes of the 20 s between two
gpu              our loader and recipe against fastai's ordinary one, with the same body; then the shortest
                 schedule whose mean over three seeds reaches 99.5 % on 6,000 held-out training images"""
import json, os, re, statistics, subprocess, sys, tempfile, time
from functools import partial
from pathlib import Path

import torch
from torch import nn
from fastai.callback.core import Callback, CancelFitException, CancelValidException
from fastai.data.transforms import Normalize
from fastai.optimizer import Adam
from fastai.torch_core import params, rank_distrib, set_seed
from fastai.vision.augment import Resize, aug_transforms
from fastai.vision.data import ImageDataLoaders
from fastai.vision.learner import vision_learner
from bench.harness import flops, main, mnist, refuse, save_png
from finetune_course.backbone import create_pretrained, replace_head_
from finetune_course.data import class_folders, dataloaders, idx_folder, mnist5k, split
from finetune_course.finetune import fit_, learner
from finetune_course.prune import accuracy_of
from finetune_course.base.checkpoint import Checkpoint
from finetune_course.base.memory import Compile
from finetune_course.base.shards import write_shards
from finetune_course.stream import load_shards, stream_dataloaders
from finetune_course.distribute import distributed_callbacks, init_distributed

arch = 'tf_efficientnet_lite0'
batches = dict(px=48, batch_size=64)

def by_turns(ways: dict, rounds: int) -> dict:
    "Medians of A B A B, after one round of warm-up"
    rates = [[measure() for measure in ways.values()] for _ in range(rounds+1)][1:]
    return {k: round(statistics.median(r[i] for r in rates), 1) for i, k in enumerate(ways)}

def epoch(dl) -> float:
    "Images a second over one epoch of batches"
    start = time.perf_counter()
    n = sum(len(xb) for xb, _ in dl)
    return n/(time.perf_counter() - start)

def train_epoch(learn, n: int) -> float:
    "Images a second over one epoch of training, which has `n` images"
    start = time.perf_counter()
    fit_(learn, 1)
    return n/(time.perf_counter() - start)

def pretrained(): return replace_head_(create_pretrained(arch), 10)

# ---- files, memory, streams

aug = dict(do_flip=False, max_rotate=12., min_zoom=1/1.1, max_zoom=1.1, max_warp=.1, max_lighting=0.,
           p_affine=1., pad_mode='border')   # as `augment`, in fastai's words

def fastai_dls(path, px, batch_size, workers, augmented=False, **kwargs):
    tfms = [*(aug_transforms(**aug) if augmented else []), Normalize.from_stats([.5]*3, [.5]*3, cuda=False)]
    return ImageDataLoaders.from_folder(path, item_tfms=Resize(px, method='squish'), batch_tfms=tfms,
                                        bs=batch_size, num_workers=workers, device='cpu', **kwargs)

def loading(px, batch_size, augmented, rounds, tmp):
    "fastai with the better number of workers"
    for ds, name in zip(split(mnist5k(), .1), ('train', 'valid')): save_png(ds, tmp/name)
    sets = [class_folders(tmp/name, px) for name in ('train', 'valid')]
    dls = {w: fastai_dls(tmp, px, batch_size, w, augmented) for w in (0, 2)}
    dls['ours'] = dataloaders(*sets, bs=batch_size, aug=None if augmented else [])
    rates = by_turns({k: partial(epoch, d.train) for k, d in dls.items()}, rounds)
    best, ours = max((0, 2), key=rates.get), rates['ours']
    return dict(fastai=round(rates[best]), workers=best, ours=round(ours), times=round(ours/rates[best], 1))

def shards(tmp, rows):
    "A folder of shards of the embedded 5,000, and the PNG files they were made of"
    save_png(mnist5k(), tmp/'files'/'train')
    write_shards(tmp/'files', tmp/'shards', rows=rows)
    return tmp/'shards', tmp/'files'

def child(call: str, processes: int = 0):
    "What a function of this file returns in a process of its own, or in several that train together"
    code = f'import json, bench.throughput as t; r = t.{call}; print("" if r is None else json.dumps(r))'
    ranks = ['-m', 'torch.distributed.run', '--nproc-per-node', str(processes), '--no-python', sys.executable]
    cmd = [sys.executable, *(ranks if processes else []), '-c', code]
    env = os.environ | dict(OMP_NUM_THREADS='1')
    out = subprocess.run(cmd, check=True, capture_output=True, text=True, env=env).stdout
    return json.loads(next(line for line in out.splitlines() if line))

def peak_mb():   # Linux; `getrusage` would tell the parent's, from before this program started
    return int(re.search(r'VmHWM:\s+(\d+)', Path('/proc/self/status').read_text())[1])/1024

def stream_epoch(folder, n, px):
    "Peak memory and speed of one epoch of a tiny net over `n` images"
    train, valid, _ = load_shards(folder, px, most=500)
    net = nn.Sequential(nn.Conv2d(1, 8, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten(),
                        nn.Linear(128, 10))
    dls = stream_dataloaders(train, valid, 256, (.5,), (.5,), aug=[])
    rate = train_epoch(learner(dls, net, splitter=params), n)
    return dict(peak_mb=round(peak_mb()), images_s=round(rate))

def stream_memory(images, px, tmp):
    "One file under many names, read by a process that does nothing else"
    source, _ = shards(tmp, 5000)
    (many := tmp/'many').mkdir()
    for k in range(images//5000): os.link(next(source.glob('*.parquet')), many/f'train-{k:05}.parquet')
    return child(f'stream_epoch({str(many)!r}, {images}, {px})')

def stream_loading(px, batch_size, tmp):
    source, files = shards(tmp, 1000)
    def stream(w):
        train, valid, _ = load_shards(source, px, most=64)
        return epoch(stream_dataloaders(train, valid, batch_size, aug=[], num_workers=w).train)
    def fastai(w): return epoch(fastai_dls(files, px, batch_size, w, valid_pct=.01).train)
    ways = {f'{f.__name__}, {w} workers': partial(f, w) for w in (0, 2) for f in (stream, fastai)}
    return dict(images_s=by_turns(ways, 3))

def stream_training(px, batch_size, tmp):
    train, valid, _ = load_shards(shards(tmp, 1000)[0], px, most=64)
    train.shards.rows = 1250*5000//len(train.shards)      # as many batches as in memory
    within = mnist5k(px).take(range(0, 5000, 4))
    dls = {'in memory': dataloaders(within, valid, batch_size),
           'stream': stream_dataloaders(train, valid, batch_size)}
    def rate(dls): return train_epoch(learner(dls, pretrained()), batch_size*len(dls.train))
    return dict(images_s=by_turns({k: partial(rate, d) for k, d in dls.items()}, 2))

# ---- processes and checkpoints

def rate_of_all(processes, px, batch_size):
    "Images a second of all processes together, in the second epoch; None in all but the first of them"
    init_distributed(torch.device('cpu'))
    train, valid = split(mnist5k(px), .1)
    dls = dataloaders(train, valid.take(range(8)), batch_size)
    learn = learner(dls, pretrained(), cbs=distributed_callbacks(torch.device('cpu')))
    fit_(learn, 1)
    rate = train_epoch(learn, len(learn.dls.train)*processes*batch_size)
    return None if rank_distrib() else rate

def processes(px, batch_size, tmp):
    def rate(n): return child(f'rate_of_all({n}, {px}, {batch_size})', n if n > 1 else 0)
    return dict(images_s=by_turns({'1 process': partial(rate, 1), '2 processes': partial(rate, 2)}, 2))

class TimedCheckpoint(Checkpoint):
    "Written after every step; notes the seconds of each"
    def __init__(self, folder):
        super().__init__(folder, every=0)
        self.seconds = []

    def write(self, over=False):
        start = time.perf_counter()
        super().write(over)
        self.seconds.append(time.perf_counter() - start)

def checkpoint(arch, px, tmp):
    ckpt, dls = TimedCheckpoint(tmp), dataloaders(*split(mnist5k(px).take(range(0, 5000, 20)), .2))
    fit_(learner(dls, pretrained()), 2, cbs=[ckpt])
    mb = sum(f.stat().st_size for f in tmp.glob('*.previous'))/1e6
    seconds = statistics.median(ckpt.seconds[:-1])
    return dict(seconds=round(seconds, 3), mb=round(mb, 1), share_of_20_s=round(seconds/20, 4))

def on_cpu(experiment, measure, *settings):
    "An experiment that measures with each of `settings`"
    def run(results, a, names):
        for s in settings:
            with tempfile.TemporaryDirectory() as tmp:
                results.once(experiment, s, None, partial(measure, **s, tmp=Path(tmp)), timed=True)
    return {experiment: (run, ())}

# ---- on a GPU

gpu_px = 64

def seconds_on_gpu(f):
    torch.cuda.synchronize()
    start = time.perf_counter()
    f()
    torch.cuda.synchronize()
    return time.perf_counter() - start

def start(seed):
    set_seed(seed)
    return pretrained()

def ours(train, valid, batch_size=512, cbs=(), **kwargs):
    return learner(dataloaders(train, valid, batch_size, device='cuda'), start(0), cbs=cbs, **kwargs)

def theirs(folder, batch_size=64, half=False):
    dls = ImageDataLoaders.from_folder(folder, valid_pct=.01, item_tfms=Resize(gpu_px), bs=batch_size,
                                       num_workers=15, batch_tfms=aug_transforms(do_flip=False))
    learn = vision_learner(dls, arch, pretrained=False)
    learn.unfreeze()
    return learn.to_fp16() if half else learn

class Clock(Callback):
    "Images a second over 5 s, after 40 steps: compiling and what workers have prefetched do not count"
    order = 99
    def before_fit(self): self.steps = 0
    def before_validate(self): raise CancelValidException

    def after_batch(self):
        self.steps += 1
        if self.steps == 40:
            torch.cuda.synchronize()
            self.start = time.perf_counter()
        if self.steps > 40 and time.perf_counter() - self.start > 5:
            torch.cuda.synchronize()
            self.rate = (self.steps - 40)*self.dls.train.bs/(time.perf_counter() - self.start)
            raise CancelFitException

def gpu_rate(learn):
    clock = Clock()
    with learn.no_bar(), learn.no_logging(): learn.fit(1000, 1e-3, cbs=[clock])
    return round(clock.rate)

def rates_by_turns(learners: dict) -> tuple[dict, dict]:
    "Two rates of each, by turns after a round of warm-up; and what failed, with its error"
    rates, failed = {k: [] for k in learners}, {}
    for turn in range(3):
        for k, learn in learners.items():
            if k in failed: continue
            try: rates[k].append(gpu_rate(learn))
            except Exception as e: failed[k] = f'{type(e).__name__}: {e}'[:300]
    return {k: r[1:] for k, r in rates.items()}, failed

def peak_flops():
    "Of a large bf16 matrix product"
    x = torch.randn(8192, 8192, device='cuda', dtype=torch.bfloat16)
    def products(n):
        for _ in range(n): x @ x
    products(3)
    return 20*2*8192**3/seconds_on_gpu(partial(products, 20))

def gpu_training(train, valid):
    with tempfile.TemporaryDirectory() as tmp:
        save_png(train, Path(tmp))
        learners = {'ours': ours(train, valid, opt_func=Adam), 'ours, fused optimizer': ours(train, valid),
                    'ours, fused, compiled': ours(train, valid, cbs=[Compile(mode='default')]),
                    'ours, fused, compiled to a CUDA graph': ours(train, valid, cbs=[Compile()]),
                    'ours, fused, batches of 2048': ours(train, valid, 2048),
                    'fastai, fp32, batches of 64': theirs(tmp),
                    'fastai, fp16, batches of 64': theirs(tmp, half=True),
                    'fastai, fp16, batches of 512': theirs(tmp, 512, half=True)}
        rates, failed = rates_by_turns(learners)
    best = max(statistics.median(r) for k, r in rates.items() if k.startswith('ours') and r)
    used, top = 3*flops(start(0), 3, gpu_px)*best, peak_flops()   # backwards is about twice forwards
    return dict(images_s=rates, failed=failed, peak_tflops=round(top/1e12), share_of_peak=round(used/top, 4))

def gpu_schedule(once, settings, train, valid, test):
    "One net, compiled once, trained by longer and longer schedules"
    net, graph, reported = start(0), Compile(), dataloaders(test, test, 512, device='cuda').valid
    def fit(epochs, seed):
        net.load_state_dict(start(seed).state_dict())
        learn = learner(dataloaders(train, valid, 512, device='cuda'), net, cbs=[graph])
        seconds = round(seconds_on_gpu(lambda: fit_(learn, epochs, slice(2e-3, 2e-2), seed=seed)), 2)
        return dict(seconds=seconds, valid=accuracy_of(net, learn.dls.valid), test=accuracy_of(net, reported))
    first = fit(1, 0)['seconds']   # compiles
    once('gpu-first-epoch', settings, None, lambda: dict(seconds=first))
    for epochs in (2, 3, 4, 6, 8, 12):
        longer = dict(settings, epochs=epochs)
        runs = [once('gpu-schedule', longer, seed, partial(fit, epochs, seed)) for seed in range(3)]
        if statistics.mean(r['valid'] for r in runs) >= .995: break

def gpu(results, a, names):
    if not a.mnist: refuse('gpu trains on MNIST: add --mnist FOLDER, with its four files.')
    rest, test = idx_folder(a.mnist, gpu_px)
    if not torch.cuda.is_available(): refuse('there is no CUDA GPU here; run this where there is one.')
    train, valid = split(rest, .1)
    settings = dict(arch=arch, px=gpu_px)
    once = partial(results.once, timed=True, gpu=torch.cuda.get_device_name())
    once('gpu-training', settings, None, partial(gpu_training, train, valid))
    gpu_schedule(once, settings, train, valid, test)

experiments = {
    **on_cpu('loading', loading, *(dict(batches, augmented=a, rounds=5) for a in (False, True))),
    **on_cpu('stream-memory', stream_memory, *(dict(images=n, px=28) for n in (10_000, 100_000, 1_000_000))),
    **on_cpu('stream-loading', stream_loading, batches),
    **on_cpu('stream-training', stream_training, batches),
    **on_cpu('processes', processes, batches),
    **on_cpu('checkpoint', checkpoint, dict(arch=arch, px=48)),
    'gpu': (gpu, ()),
}

command = partial(main, 'throughput', __doc__, experiments, mnist=mnist)

if __name__ == '__main__': command()
