"""When does a pretrained net pay, and how much of it?

    python -m bench.transfer labels [WAY ...] [--photos FOLDER]
    python -m bench.transfer depth [WAY ...] [--photos FOLDER]
    python -m bench.transfer probe [--photos FOLDER]

On digits, or with --photos on a folder of photographs that has train/ and test/.

labels: accuracy against labels a class. All ways see the same pixels. The net with random weights is trained for
as many steps as the pretrained one, the plain CNN, whose steps are cheap, for six times as many.
depth: the whole net, and one that ends after its fifth stage, each with one rate and with rates by layer group.
probe: what a linear reader makes of each part of the frozen net, cross-validated on 1,000 images.
Each way tries its learning rates, for each number of labels, on images that are neither learned from nor
reported and on a seed of its own, and keeps the best. The pretrained net is not given 1e-2, which went well
on some seeds and badly on others."""
import math
from functools import cache, partial
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np
from fastai.torch_core import set_seed
from bench.harness import main
from finetune_course.app.recipe import augmentation
from finetune_course.backbone import create_pretrained, pixel_stats, plain_cnn, predict_tensor, replace_head_
from finetune_course.base.modules import drop_modules_, headless
from finetune_course.data import dataloaders, load, split
from finetune_course.finetune import fit_, learner
from finetune_course.prune import accuracy_of
from finetune_course.transfer import linear_reader, probe_depths

arch, bs, every = 'tf_efficientnet_lite0', 32, 0   # 0 labels a class: all there are
labels, rate_seed = (1, 3, 10, 30, 100, every), 100
fifth = ['bn2', 'conv_head', 'blocks.6', 'blocks.5']   # what comes after the fifth stage
ways = {
    'pretrained':     dict(rates=(1e-3, 3e-3)),
    'random weights': dict(rates=(3e-3, 1e-2), weights='random'),
    'plain CNN':      dict(rates=(3e-3, 1e-2), plain=True, longer=6),
    'linear probe':   dict(rates=(None,)),
    'linear probe, stage 5': dict(rates=(None,), drop=fifth),
}
depths = {
    'whole, one rate':               dict(rates=(1e-3, 3e-3)),
    'whole, rates by layer group':   dict(rates=(3e-3, 1e-2), groups=True),
    'to stage 5, one rate':          dict(rates=(1e-3, 3e-3), drop=fifth),
    'to stage 5, rates by layer group': dict(rates=(3e-3, 1e-2), drop=fifth, groups=True),
}

# ---- images

class Data(NamedTuple):
    "What is learned; `kind` as `augmentation` has it"
    name: str
    source: str
    px: int
    kind: str

digits = Data('digits', 'mnist5k', 32, 'digits')

def data_set(photos): return Data(photos.name, str(photos), 48, 'photos') if photos else digits

@cache
def images(data):
    "To learn from, to choose by, to report on"
    pool, test = load(data.source, data.px)
    return *split(pool, 300/len(pool), 0), test

def labelled(pool, n, seed):
    "`n` images of each class"
    rng, y = np.random.default_rng(seed), pool.y.numpy()
    return pool.take(sorted(i for c in np.unique(y) for i in rng.permutation(np.flatnonzero(y == c))[:n or None]))

def batches(ds): return dataloaders(ds, ds, 64, *pixel_stats(arch), []).valid

# ---- ways

def start(c, plain=False, weights=None, drop=()):
    "A net under a new head"
    if plain: return plain_cnn(n_out=c)
    net = create_pretrained(arch, weights)
    drop_modules_(net, drop)
    return replace_head_(net, c)

def n_epochs(n, longer):
    "120 steps for few images, as many as four epochs for more, 250 at most"
    return math.ceil(longer*min(250, max(120, 4*n/bs))/max(1, n//bs))

def train(part, kind, lr, seed, longer=1, groups=False, **net_options):
    "A trained net"
    dls = dataloaders(part, part.take(range(2)), min(bs, len(part)), *pixel_stats(arch), augmentation(kind))
    set_seed(seed)
    learn = learner(dls, start(dls.c, **net_options))
    fit_(learn, n_epochs(len(part), longer), slice(lr/10, lr) if groups else lr, seed=seed)
    return learn.model

def probe(part, ds, **net_options):
    "Accuracy of a linear reader of the frozen net's features"
    def features(images):
        with headless(net): return [t.numpy() for t in predict_tensor(net, batches(images))]
    net = start(2, **net_options)
    return float(linear_reader().fit(*features(part)).score(*features(ds)))

def accuracy(data, way, n, lr, seed):
    "On the images to choose by, for the seed that rates are found with; else on those to report"
    pool, valid, test = images(data)
    part, ds = labelled(pool, n, seed), valid if seed == rate_seed else test
    options = {k: v for k, v in all_ways[way].items() if k != 'rates'}
    if lr is None: return dict(accuracy=probe(part, ds, **options))
    return dict(accuracy=accuracy_of(train(part, data.kind, lr, seed, **options), batches(ds)))

# ---- experiments

def best_rate(results, data, way, n):
    rates = all_ways[way]['rates']
    def tried(lr):
        about = settings(data, way, n, lr)
        return results.once('rate', about, rate_seed, partial(accuracy, data, way, n, lr, rate_seed))['accuracy']
    return max(rates, key=tried) if len(rates) > 1 else rates[0]

def settings(data, way, n, lr): return dict(data=data.name, px=data.px, arch=arch, way=way, labels=n, lr=lr)

def compare(experiment, labels, results, a, names):
    data = data_set(a.photos)
    for way, n in product(names, labels):
        lr = best_rate(results, data, way, n)
        for seed in a.seeds:
            measure = partial(accuracy, data, way, n, lr, seed)
            results.once(experiment, settings(data, way, n, lr), seed, measure, same=())

def probe_parts(results, a, names):
    data = data_set(a.photos)
    pool, _, _ = images(data)
    some = pool.take(range(0, len(pool), max(1, len(pool)//1000)))
    about = dict(data=data.name, px=data.px, arch=arch, n=len(some))
    def measure(): return probe_depths(create_pretrained(arch), batches(some)).to_dict()
    results.once('probe', about, 0, measure, same=())

all_ways = ways | depths
experiments = dict(labels=(partial(compare, 'labels', labels), ways),
                   depth=(partial(compare, 'depth', [every]), depths), probe=(probe_parts, ()))
seeds = dict(type=int, nargs='+', default=[0, 1, 2, 3, 4], help='default: 0 1 2 3 4')
photos = dict(type=Path, metavar='FOLDER', help='photographs, as train/ and test/ with a folder a class')
command = partial(main, 'transfer', __doc__, experiments, seeds=seeds, photos=photos)

if __name__ == '__main__': command()
