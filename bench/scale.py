"""What streaming, ranks and checkpoints cost, on the CPU.

    python -m bench.scale [PART ...]     # memory loading training ranks checkpoints; default: those that are missing

Peak memory of training from streams of 10,000, 100,000 and 1,000,000 images (the same shards under many names); images a second of the stream against
fastai's ImageDataLoaders and against batches in memory; two processes of one thread and 64 images a step each against one; the time that a checkpoint takes of the 20 s between two."""
import argparse, json, os, re, statistics, subprocess, sys, tempfile, time, warnings
from pathlib import Path

import torch
from torch import nn
from fastai.torch_core import rank_distrib
from bench.loading import fastai_dls, px
from bench.shared import arguments, as_pngs, command, epoch, keep, known, read_here
from finetune_course.backbone import backbone, replace_head_
from finetune_course.data import dataloaders, mnist5k, split
from finetune_course.evaluate import environment
from finetune_course.finetune import fit_, learner
from finetune_course.scale import Checkpoint, load_shards, rank_callbacks, start_ranks, stream_dataloaders, write_shards

def shards(tmp, rows):
    "A folder of shards of the embedded 5,000, and the PNG files they were made of"
    as_pngs(mnist5k(), tmp/'f'/'train')
    write_shards(tmp/'f', tmp/'s', rows=rows)
    return tmp/'s', tmp/'f'

def by_turns(ways, rounds=3):
    "Medians of A B A B, after one round of warm-up"
    runs = [[f() for f in ways.values()] for _ in range(rounds+1)][1:]
    return {k: round(statistics.median(r[i] for r in runs), 1) for i, k in enumerate(ways)}

def child(*argv, ranks=0):
    cmd = [sys.executable, *(['-m', 'torch.distributed.run', '--nproc-per-node', str(ranks)] if ranks else []), '-m', 'bench.scale', '--one', *map(str, argv)]
    out = subprocess.run(cmd, check=True, capture_output=True, text=True, env=os.environ | dict(OMP_NUM_THREADS='1')).stdout
    return json.loads(out.strip().splitlines()[-1])

def memory(tmp):
    "The shards are written here, and read by processes that do nothing else"
    source, _ = shards(tmp, 5000)
    def one(n):
        (many := tmp/f'{n}').mkdir()
        for k in range(n//5000): os.link(next(source.glob('*.parquet')), many/f'train-{k:05}.parquet')
        return child('memory', n, many)
    return [one(n) for n in (10_000, 100_000, 1_000_000)]

def peak_mb():   # Linux; `getrusage` would tell the parent's, from before this program started
    return int(re.search(r'VmHWM:\s+(\d+)', Path('/proc/self/status').read_text())[1])/1024

def train_once(n, folder):
    "Peak memory and speed of one epoch of a tiny net over `n` images"
    train, valid, _ = load_shards(folder, 28, most=500)
    net = nn.Sequential(nn.Conv2d(1, 8, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(128, 10))
    learn = learner(stream_dataloaders(train, valid, 256, (.5,), (.5,), aug=[]), net, splitter=lambda m: [list(m.parameters())])
    t = time.perf_counter()
    fit_(learn, 1)
    return dict(images=n, peak_mb=round(peak_mb()), images_s=round(n/(time.perf_counter() - t)))

def loading(tmp):
    source, files = shards(tmp, 1000)
    def stream(w): return stream_dataloaders(*load_shards(source, px, most=64)[:2], aug=[], num_workers=w).train
    def fastai(w): return fastai_dls(files, [], w, valid_pct=.01).train
    return by_turns({f'{k}, {w} workers': (lambda f=f, w=w: epoch(f(w))) for w in (0, 2) for k, f in dict(stream=stream, fastai=fastai).items()})

def training(tmp):
    train, valid, _ = load_shards(shards(tmp, 1000)[0], px, most=64)
    within = mnist5k(px).take(range(0, 5000, 4))
    def speed(dls):
        learn = learner(dls, replace_head_(backbone(), 10))
        t = time.perf_counter()
        fit_(learn, 1)
        return 64*len(dls.train)/(time.perf_counter() - t)
    train.shards.rows = 1250*5000//len(train.shards)      # as many batches as in memory
    dls = stream_dataloaders(train, valid, 64)
    return by_turns({'in memory': lambda: speed(dataloaders(within, valid)), 'stream': lambda: speed(dls)}, 2)

def ranks(world):
    "Images a second of all ranks together, in the second epoch"
    start_ranks(torch.device('cpu'))
    train, valid = split(mnist5k(48), .1)
    learn = learner(dataloaders(train, valid.take(range(8)), 64), replace_head_(backbone(), 10), cbs=rank_callbacks(torch.device('cpu')))
    fit_(learn, 1)
    t = time.perf_counter()
    fit_(learn, 1)
    return len(learn.dls.train)*world*64/(time.perf_counter() - t)

def checkpoints(tmp):
    learn, ckpt = learner(dataloaders(*split(mnist5k(48).take(range(0, 5000, 20)), .2)), replace_head_(backbone(), 10)), Checkpoint(tmp)
    times = []
    def write(self, over=False, plain=Checkpoint.write):
        t = time.perf_counter(); plain(self, over); times.append(time.perf_counter() - t)
    Checkpoint.write, ckpt.every = write, 0
    fit_(learn, 2, cbs=[ckpt])
    return dict(seconds=round(statistics.median(times[:-1]), 3), mb=round(sum(f.stat().st_size for f in tmp.glob('*.previous'))/1e6, 1), share_of_20_s=round(statistics.median(times[:-1])/20, 4))

def main():
    a = arguments(__doc__, 'scale.json')
    a.add_argument('part', nargs='*')
    a.add_argument('--one', nargs='+', help=argparse.SUPPRESS)   # in a process of its own
    a = a.parse_args()
    warnings.filterwarnings('ignore')
    with tempfile.TemporaryDirectory() as tmp:
        tmp = Path(tmp)
        if a.one and a.one[0] == 'memory': return print(json.dumps(train_once(int(a.one[1]), Path(a.one[2]))))
        if a.one:
            rate = ranks(int(a.one[1]))
            return print(json.dumps(rate)) if rank_distrib() == 0 else None
        parts = dict(memory=memory, loading=loading, training=training, checkpoints=checkpoints,
                     ranks=lambda t: by_turns({'1 process': lambda: child('ranks', 1), '2 processes': lambda: child('ranks', 2, ranks=2)}, 2))
        known(a.part, parts)
        there = read_here(a.out)
        for name in a.part or [p for p in parts if p not in there]:
            (folder := tmp/name).mkdir()
            res = parts[name](folder)
            keep(a.out, read_here(a.out) | {name: res, 'environment': environment()})
            print(name, res, flush=True)

if __name__ == '__main__': command(main)
