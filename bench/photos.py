"""The default run on photographs, and ordinary fastai beside it.

    python -m bench.photos run --photos FOLDER [--seeds 0 1 2]
    python -m bench.photos fastai --photos FOLDER [--epochs 5]
    python -m bench.photos pairs --photos FOLDER

FOLDER holds train/ and test/ with a folder a class. fastai gets the same pretrained weights and as many pixels;
three learning rates, of which a fifth of the training images chooses one; `seconds` are those of one training.
pairs: 240 photographs, 120 of each of two classes, by the default run and by fastai."""
import tempfile, time
from functools import partial
from itertools import pairwise
from pathlib import Path

from bench.harness import main, refuse, seeds
from bench.pipeline import run_once
from finetune_course.app.recipe import photo_side
from finetune_course.backbone import create_pretrained, layer_groups, pixel_stats, replace_head_
from finetune_course.base.folders import has_parts, image_files, subfolders

arch, rates = 'tf_efficientnet_lite0', (5e-4, 2e-3, 8e-3)

def fastai_learner(folder, seed, px=photo_side):
    "As fastai's documentation would have it, with the course's net and weights"
    from fastai.vision.all import (CrossEntropyLossFlat, ImageDataLoaders, Learner, Normalize, RandomResizedCrop,
                                   accuracy, aug_transforms, set_seed)
    set_seed(seed, reproducible=True)
    tfms = [*aug_transforms(), Normalize.from_stats(*pixel_stats(arch))]
    dls = ImageDataLoaders.from_folder(folder/'train', valid_pct=.2, seed=seed, bs=32, num_workers=2,
                                       item_tfms=RandomResizedCrop(px, min_scale=.35), batch_tfms=tfms)
    net = replace_head_(create_pretrained(arch), dls.c)
    return Learner(dls, net, loss_func=CrossEntropyLossFlat(), metrics=accuracy, splitter=layer_groups)

def fastai_accuracy(folder, seed, lr, epochs):
    "On the images to choose by and on the test images"
    learn, start = fastai_learner(folder, seed), time.perf_counter()
    learn.remove_cbs([cb for cb in learn.cbs if cb.name in ('progress', 'recorder_plot')])
    with learn.no_logging(): learn.fine_tune(epochs, lr)
    seconds = time.perf_counter() - start
    files, classes = zip(*image_files(folder/'test'))
    probabilities, _ = learn.get_preds(dl=learn.dls.test_dl(list(files)))
    right = [learn.dls.vocab[i] == c for i, c in zip(probabilities.argmax(1), classes)]
    return dict(valid=float(learn.validate()[1]), accuracy=sum(right)/len(right), n=len(right), seconds=seconds)

def best_fastai(results, about, folder, seed, epochs):
    "Of three rates the one that the images to choose by prefer"
    def tried(lr):
        settings = about | dict(arch=arch, px=photo_side, epochs=epochs, lr=lr)
        measure = partial(fastai_accuracy, folder, seed, lr, epochs)
        return results.once('fastai', settings, seed, measure, timed=True, same=())
    return max(map(tried, rates), key=lambda found: found['valid'])

def pair_of(folder, classes, tmp, n=120):
    "A data set of two classes, with the first `n` training images of each"
    for part in 'train', 'test':
        for c in classes:
            (to := Path(tmp)/part/c).mkdir(parents=True)
            files = [f for f, of in image_files(folder/part) if of == c]
            for f in files[:n] if part == 'train' else files: (to/f.name).symlink_to(f.resolve())
    return Path(tmp)

# ---- experiments

def runs(results, a, names):
    for seed in a.seeds:
        measure = partial(run_once, data=str(a.photos), seed=seed, baseline=True)
        results.once('run', dict(data=a.photos.name), seed, measure, timed=True, same=())

def fastai(results, a, names):
    for seed in a.seeds: best_fastai(results, dict(data=a.photos.name), a.photos, seed, a.epochs)

def pairs(results, a, names):
    for classes in pairwise(d.name for d in subfolders(a.photos/'train')):
        with tempfile.TemporaryDirectory() as tmp:
            folder, about = pair_of(a.photos, classes, tmp), dict(data=' and '.join(classes), labels=120)
            results.once('pair', about, 0, partial(run_once, data=str(folder), seed=0), timed=True, same=())
            best_fastai(results, about, folder, 0, 20)

def checked(experiment):
    def start(results, a, names):
        if not (a.photos and has_parts(a.photos)):
            refuse('give photographs as --photos FOLDER, with train/ and test/ and a folder a class.')
        experiment(results, a, names)
    return start, ()

experiments = dict(run=checked(runs), fastai=checked(fastai), pairs=checked(pairs))
epochs = dict(type=int, default=5, help="of fastai's fine_tune, after one for the head; default: 5")
photos = dict(type=Path, metavar='FOLDER', help='photographs, as train/ and test/ with a folder a class')
command = partial(main, 'photos', __doc__, experiments, seeds=seeds, epochs=epochs, photos=photos)

if __name__ == '__main__': command()
