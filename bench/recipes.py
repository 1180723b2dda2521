"""Which recipe reads digits best? Nets, augmentation, teachers; told by the mistakes that each net makes.

    python -m bench.recipes cross-validation [RECIPE ...]          # on parts of the embedded 4,000
    python -m bench.recipes test [RECIPE ...] --mnist FOLDER       # trained on all, asked about the 10,000
    python -m bench.recipes agreement [PUPIL ...] --mnist FOLDER   # does a pupil do as its teachers do, on
                                                                   # images that only they have learned?
    python -m bench.recipes report                                 # writes bench/recipes.md

A result lists the places of the mistakes, by way to ask: the net as trained, its weights averaged over the
last steps, or with BatchNorm's statistics from images that nobody moved ("clean"); and with moved copies.
A pupil's teachers are trained first, if they were not yet, and kept in bench/teachers."""
import copy
from dataclasses import replace
from functools import partial

import torch
from torch import nn
from torchvision.ops import Conv2dNormActivation
from bench.harness import device, main, mnist, refuse, seeds
from bench.training import Recipe, affine, answer, answered, batches, gentle, recalibrate_clean_, train, vote
from finetune_course.data import idx_folder, load
from finetune_course.base.device import pick_device

# ---- nets

convolution = partial(Conv2dNormActivation, padding=0)   # with BatchNorm and ReLU

def deep_cnn(growth=16, kernel=3):
    "Convolutions without padding or strides from 28 pixels to 8 or fewer, after An et al., arXiv 2008.10400"
    layers, c, px = [], 1, 28
    while px > 8:
        layers += convolution(c, c := 32 + growth*((28-px)//4), kernel)
        px -= kernel - 1
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(c*px**2, 10, bias=False), nn.BatchNorm1d(10))

def strided_cnn(width=32):
    "Twice two 3×3 convolutions and a 5×5 with stride 2, after C. Deotte's notebook on Kaggle"
    w, v = width, 2*width
    first = *convolution(1, w, 3), *convolution(w, w, 3), *convolution(w, w, 5, stride=2)
    second = *convolution(w, v, 3), *convolution(v, v, 3), *convolution(v, v, 5, stride=2, padding=2)
    return nn.Sequential(*first, *second, nn.Flatten(), nn.Linear(9*v, 10, bias=False), nn.BatchNorm1d(10))

wide = partial(strided_cnn, width=64)

# ---- recipes

bent = dict(affine, bend=.05)
drawn = dict(bent, thick=.5)
small = [   # of about five minutes on two cores, but for the first
    Recipe('8 epochs', epochs=8), Recipe('26 epochs'), Recipe('affine', aug=affine), Recipe('bent', aug=bent),
    Recipe('drawn, twice the rate', aug=drawn, lr=(2e-3, 2e-2)),
    Recipe('drawn, no smoothing', aug=drawn, smooth=0.), Recipe('drawn, 64 px', aug=drawn, px=64, epochs=14),
]
full = partial(Recipe, train='60,000')
pretrained = full('pretrained', aug=drawn, batch_size=256, px=64, epochs=15)
pretrained_hard = replace(pretrained, name='pretrained, hard labels', smooth=0.)
pretrained_48 = replace(pretrained_hard, name=f'{pretrained_hard.name}, 48 px', px=48, epochs=8,
                        batch_size=128)
deep = full('deep CNN', aug=drawn, batch_size=256, px=28, net=deep_cnn)
deep_wide = replace(deep, name='deep CNN, wider and longer', epochs=30, net=partial(deep_cnn, growth=32))
deep_3 = replace(deep, name='deep CNN, hard labels', batch_size=128, smooth=0.)
deep_5 = replace(deep_3, name='deep CNN 5×5, hard labels', aug=bent, net=partial(deep_cnn, kernel=5))
deep_7 = replace(deep_3, name='deep CNN 7×7, hard labels', aug=affine, net=partial(deep_cnn, kernel=7))
strided = full('strided CNN', aug=affine, batch_size=128, px=28, epochs=20, net=strided_cnn, smooth=0.)

three_deep = (deep_3, 0), (deep_5, 0), (deep_7, 0)   # nets that differ make different mistakes
three_strided, three_pretrained = (tuple((r, seed) for seed in range(3)) for r in (strided, pretrained_hard))
nine, two_kinds = three_strided + three_pretrained + three_deep, three_strided[:2] + ((pretrained_48, 0),)
pupil_of_five = replace(strided, name='strided CNN, pupil of five', teachers=three_strided + three_deep[1:])
pupil_of_nine = replace(strided, name='strided CNN, pupil of nine', epochs=2, teachers=nine, copies=10)
wide_pupil = replace(pupil_of_nine, name='wide strided CNN, pupil of nine', net=wide, epochs=3)
fresh_pupil = replace(wide_pupil, name='wide strided CNN, pupil of nine, fresh copies', epochs=1, copies=25)
large = [
    pretrained, pretrained_hard, pretrained_48, deep, deep_wide, deep_3, deep_5, deep_7, strided,
    replace(deep_3, name='deep CNN, pupil of three', epochs=30, teachers=three_deep),
    replace(strided, name='strided CNN, pupil of two kinds', teachers=two_kinds),
    pupil_of_five, replace(pupil_of_five, name='strided CNN, pupil of five, finished', finish=6),
    pupil_of_nine, wide_pupil, fresh_pupil,   # seeds 0 to 2 to be asked with clean statistics, 3 to 5 not
    replace(fresh_pupil, name=f'{fresh_pupil.name}, temperature 4', temperature=4.),   # as trained
]
five_copies = replace(pupil_of_nine, name=f'{pupil_of_nine.name}, five copies', epochs=1, copies=5)
trials = [replace(five_copies, name=f'{five_copies.name}, temperature {t:.0f}', temperature=t)
          for t in (1., 2., 4., 8.)]

# ---- experiments

def mistakes(answers: dict, y):
    "Places of the answers that are not `y`, by way to ask"
    return {way: (classes != y.cpu()).nonzero()[:, 0].tolist() for way, classes in answers.items()}

def ask_all(recipe, net, averaged, ds, x, device):
    "Classes of the images `x`, in all ways; `ds` are those that the net learned from"
    moved, gently = (batches(recipe, ds, device, aug) for aug in (recipe.aug, gentle))
    clean = recalibrate_clean_(copy.deepcopy(net), batches(recipe, ds, device).train)
    return {'as trained': answer(net, moved, x), 'moved copies': answer(net, moved, x, True),
            'averaged weights': answer(averaged, moved, x),
            'averaged weights, moved copies': answer(averaged, moved, x, True),
            'clean statistics': answer(clean, gently, x),
            'clean, and moved less': answer(clean, gently, x, True)}

def judge(recipe, ds, valid, seed, device, folder, head=None):
    "Train on `ds`, ask about `valid`"
    net, averaged = train(recipe, ds, seed, device, folder, head)
    x = valid.x.to(device)
    answers = ask_all(recipe, net, averaged, ds, x, device)
    if recipe.teachers: answers |= vote(recipe, batches(recipe, ds, device, recipe.aug), x, device, folder)
    return dict(n=len(valid), wrong=mistakes(answers, valid.y))

def one_fold(recipe, fold, folds, device):
    ds, _ = load('mnist5k', recipe.px)
    parts = torch.randperm(len(ds), generator=torch.Generator().manual_seed(0)).chunk(folds)
    rest = torch.cat([p for i, p in enumerate(parts) if i != fold])
    return judge(recipe, ds.take(rest), ds.take(parts[fold]), fold, device, None, head=0)

def one_test(recipe, seed, device, folder):
    ds, test = idx_folder(folder, recipe.px)
    if recipe.train == '4,000': ds, _ = load('mnist5k', recipe.px)
    return judge(recipe, ds, test, seed, device, folder)

def one_agreement(recipe, seed, device, folder):
    "Train on the answers to copies of the first 50,000 of 60,000 images; ask about those of the others"
    (ds,), copies = idx_folder(folder, recipe.px, ['train']), answered(recipe, folder, device)
    learned = torch.arange(len(copies)) % len(ds) < 5*len(ds)//6
    held = copies.take(~learned)
    nets = train(recipe, ds, seed, device, folder, lesson=copies.take(learned))
    dls, x = batches(recipe, ds, device), held.x.to(device)
    answers = {way: answer(net, dls, x) for way, net in zip(('as trained', 'averaged weights'), nets)}
    return dict(n=len(held), differs=mistakes(answers, held.y.argmax(1)))

recipes = {r.name: r for r in (*small, *large, *trials)}

def each(results, a, names, experiment, one, seeds, **settings):
    device = pick_device(a.device)
    gpu = torch.cuda.get_device_name() if device.type == 'cuda' else None
    for seed in seeds:
        for name in names:
            measure = partial(one, recipes[name], seed, device=device, **settings)
            results.once(experiment, dict(recipe=name, **settings), seed, measure, gpu=gpu)

def cross_validation(results, a, names):
    each(results, a, names, 'cross-validation', one_fold, range(4), folds=4)

def on_mnist(experiment, one, results, a, names):
    if not a.mnist: refuse(f'{experiment} reads MNIST: add --mnist FOLDER, with its four files.')
    idx_folder(a.mnist, 28, ['test'])   # is it there?
    each(results, a, names, experiment, partial(one, folder=a.mnist), a.seeds)

def report(results, a, names):
    from bench.report import write
    write(results.path)

experiments = {'cross-validation': (cross_validation, [r.name for r in small]),
               'test': (partial(on_mnist, 'test', one_test), [r.name for r in (*small, *large)]),
               'agreement': (partial(on_mnist, 'agreement', one_agreement), [r.name for r in trials]),
               'report': (report, ())}

command = partial(main, 'recipes', __doc__, experiments, seeds=seeds, device=device, mnist=mnist)

if __name__ == '__main__': command()
