"""What one choice in training is worth, all else alike.

    python -m bench.ablation training [WAY ...] [--mnist FOLDER]
    python -m bench.ablation activations [NET ...]

training: what do pretrained weights buy, and what do rates that differ by layer? Five ways on 4,000 digits,
of which a tenth chooses. First each way climbs the same ladder of learning rates, on a seed of its own, until
two steps in a row bring nothing; it keeps the best. Images that are reported take no part in that.
activations: one small net with and without squeeze-and-excitation (SE), with swish and with ReLU6, trained
from scratch; quantized carelessly in two ways, and as the course does."""
import tempfile
from functools import partial
from pathlib import Path

import timm
from torch import nn
from fastai.callback.training import BnFreeze
from fastai.torch_core import set_seed
from bench.harness import main, mnist, seeds, test_images
from finetune_course.backbone import create_pretrained, pixel_stats, replace_head_
from finetune_course.data import dataloaders, load, split
from finetune_course.export import Candidate, Spec, export_onnx
from finetune_course.predict import Predictor
from finetune_course.finetune import fit_, learner
from finetune_course.prune import accuracy_of, recover_
from finetune_course.quantize import quantize_onnx

arch, px, common = 'tf_efficientnet_lite0', 32, ('test', 'epochs')

# ---- ways to train

ladder = 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.   # of the head; with layer groups the first have a tenth
ways = {
    'from scratch':            dict(weights='random'),
    'frozen body':             dict(freeze=True),
    'frozen, BatchNorm moves': dict(freeze=True, train_bn=True),
    'one rate for all':        dict(),
    'rates by layer group':    dict(groups=True),
}

def fit_way(dls, lr, seed, epochs, weights=None, freeze=False, train_bn=False, groups=False):
    "The trained learner and its history"
    set_seed(seed)
    model, still = replace_head_(create_pretrained(arch, weights), dls.c), freeze and not train_bn
    learn = learner(dls, model, train_bn=not still, cbs=[BnFreeze()] if still else [])
    if freeze: learn.freeze()
    return learn, fit_(learn, epochs, slice(lr/10, lr) if groups else lr, seed=seed)

def train(way, lr, seed, epochs, tests):
    "Validation accuracy and loss, and the accuracy on each of `tests`"
    mean, std = pixel_stats(arch)
    part, valid = split(load('mnist5k', px)[0], .1, seed)
    batches = partial(dataloaders, part, mean=mean, std=std)
    learn, hist = fit_way(batches(valid), lr, seed, epochs, **ways[way])
    sets = {'valid': valid, **tests}
    found = {name: accuracy_of(learn.model, batches(ds).valid) for name, ds in sets.items()}
    return dict(found, valid_loss=float(hist.valid_loss.iloc[-1]))

def best_rate(results, way, settings):
    "Climb the ladder"
    tried = {}
    for lr in ladder:
        measure = partial(train, way, lr, 100, settings['epochs'], {})
        tried[lr] = results.once('learning rate', dict(settings, way=way, lr=lr), 100, measure, same=common)
        accuracies = [t['valid'] for t in tried.values()]
        if max(accuracies) > max(accuracies[-2:]): break
    return max(tried, key=lambda lr: (tried[lr]['valid'], -tried[lr]['valid_loss']))

def training(results, a, names):
    settings, tests = dict(arch=arch, px=px, epochs=a.epochs or 3), {'held_out': load('mnist5k', px)[1]}
    name, images = test_images(a.mnist, px)
    if a.mnist: tests['mnist_test'] = images
    best = {way: best_rate(results, way, settings) for way in names}
    for seed in a.seeds:
        for way, lr in best.items():
            measure = partial(train, way, lr, seed, settings['epochs'], tests)
            results.once('training', dict(settings, way=way, lr=lr, test=name), seed, measure, same=common)

# ---- nets to quantize

small_arch = 'tinynet_e'
no_se = dict(se_layer=nn.Identity)
nets = {'swish, with SE': dict(act_layer=nn.SiLU), 'swish, without SE': dict(act_layer=nn.SiLU, **no_se),
        'ReLU6, with SE': dict(act_layer=nn.ReLU6), 'ReLU6, without SE': dict(act_layer=nn.ReLU6, **no_se)}

def quantized(src, spec, train, folder):
    "The three int8 files of a net, by how they were made"
    some = train.take(range(0, len(train), len(train)//256))
    ways = {'one scale a tensor': dict(calib=some, per_channel=False),
            'one image': dict(calib=train.take([0])), 'ours': dict(calib=some)}
    return {how: quantize_onnx(src, folder/f'{how}.onnx', spec, **options) for how, options in ways.items()}

def quantize_ways(net_options, seed, epochs):
    "Accuracy of every file; of the int8 ones the mean error of the logits, as a share of their mean size"
    rest, test = load('mnist5k', px)
    part, valid = split(rest, .1, seed)
    spec = Spec(small_arch, part.vocab, px, *pixel_stats(small_arch))
    set_seed(seed)
    net = timm.create_model(small_arch, num_classes=10, **net_options)
    recover_(net, dataloaders(part, valid, mean=spec.mean, std=spec.std), epochs, seed=seed)
    with tempfile.TemporaryDirectory() as tmp:
        src = export_onnx(Candidate(net, spec), Path(tmp)/'fp32.onnx')
        files = {'fp32': src, **quantized(src, spec, part, Path(tmp))}
        logits = {how: Predictor(f).logits(test.x) for how, f in files.items()}
    accuracy = {how: float((out.argmax(1) == test.y.numpy()).mean()) for how, out in logits.items()}
    exact = logits.pop('fp32')
    error = {how: float(abs(out - exact).mean()/abs(exact).mean()) for how, out in logits.items()}
    return dict(n=len(test), accuracy=accuracy, error=error)

def activations(results, a, names):
    for seed in a.seeds:
        for net in names:
            settings = dict(net=net, arch=small_arch, px=px, epochs=a.epochs or 12)
            measure = partial(quantize_ways, nets[net], seed, settings['epochs'])
            results.once('activations', settings, seed, measure, same=common)

experiments = dict(training=(training, ways), activations=(activations, nets))
epochs = dict(type=int, help='default: 3 of training, 12 of activations')
command = partial(main, 'ablation', __doc__, experiments, seeds=seeds, epochs=epochs, mnist=mnist)

if __name__ == '__main__': command()
