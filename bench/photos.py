"""The default run on photographs, and ordinary fastai beside it.

    python -m bench.photos run --photos FOLDER [--seeds 0 1 2]
    python -m bench.photos fastai --photos FOLDER [--epochs 5]
    python -m bench.photos tutorials [PEER ...] --photos FOLDER
    python -m bench.photos peers [PEER ...] --photos FOLDER
    python -m bench.photos pairs --photos FOLDER

FOLDER holds train/ and test/ with a folder a class. fastai gets the same pretrained weights and as many pixels;
three learning rates, of which a fifth of the training images chooses one; `seconds` are those of one training.
tutorials: as PyTorch's and Keras' guides to transfer learning have it, with the same weights, pixels and number of
passes. peers: what makes nets small, as in bench.peers, from one net that the course fine-tuned; needs '.[peers]'.
pairs: 240 photographs, 120 of each of two classes, by the default run and by fastai."""
import tempfile, time
from functools import cached_property, partial
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

from fastai.torch_core import set_seed
from bench import peers as small, tutorials as guides
from bench.harness import main, nets_folder, refuse, seeds
from bench.pipeline import run_once
from finetune_course.app.recipe import augmentation, epochs_for, photo_side
from finetune_course.app.train import train_head_
from finetune_course.backbone import create_pretrained, layer_groups, pixel_stats, replace_head_
from finetune_course.base.folders import has_parts, image_files, subfolders
from finetune_course.data import load_splits
from finetune_course.export import Candidate, Spec, load_model, save_model
from finetune_course.finetune import fit_, learner
from finetune_course.app.schedule import prune_recover

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

class Start(small.Start):
    "What all peers get, from photographs: the net that `finetune-course run` would fine-tune, trained once"
    batch_size = 32

    @cached_property
    def aug(self): return augmentation('photos')

    def images(self, px): return load_splits(str(self.folder), px, self.seed)

    def fine_tuned(self):
        stem = nets_folder/f'{self.folder.name}-{photo_side}-{self.seed}'
        if stem.with_suffix('.json').is_file(): return load_model(stem)
        nets_folder.mkdir(exist_ok=True)
        set_seed(self.seed)
        train = self.images(photo_side).train
        spec = Spec(arch, train.vocab, photo_side, *pixel_stats(arch))
        whole = Candidate(replace_head_(create_pretrained(arch), len(train.vocab)), spec)
        dls = self.dls(spec)
        train_head_(dls, whole.net, seed=self.seed)
        fit_(learner(dls, whole.net), epochs_for(len(train), self.batch_size, 'photos'), seed=self.seed)
        save_model(whole, stem)
        return load_model(stem)

def ours(s: Start, ratio, int8):
    "Pruned without a teacher, as the default run on photographs does"
    made = prune_recover(s.whole, s.dls(s.spec), ratio, s.epochs, seed=s.seed)[0]
    return small.onnx_result(s, small.our_file(s, made, 'ours', int8), f'R {ratio}, one shot, the whole net')

makers = {   # as `peers` of bench.peers
    **{f'ours {r}{", int8"*i}': (partial(ours, ratio=r, int8=i),) for r in (.53, .7) for i in (False, True)},
    **{f'torch-pruning one-shot {r}{", int8"*i}': (partial(small.torch_pruning, ratio=r, int8=i), 'torch-pruning')
       for r in (.3, .5) for i in (False, True)},
    **{f'fasterai {r}, {mode}': (partial(small.fasterai, ratio=r, mode=mode), 'fasterai')
       for r in (.2, .4) for mode in ('fp32', 'static')},
    **{name: small.peers[name] for name in (
        'fasterai pt2e', 'ONNX Runtime int8, its defaults', 'ONNX Runtime int8, our settings', 'Inductor fp32',
        'Inductor, torchao PT2E int8', 'OpenVINO, fine-tuned', 'OpenVINO, nncf')},
}

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

def tutorials(results, a, names):
    "As many passes over the images as fastai's, one of them for the head; three rates for each, as there"
    for seed in a.seeds:
        for name in names:
            if name == 'keras' and not find_spec('keras'): refuse('keras is not installed: pip install keras')
            guide, lrs = tutorial_peers[name]
            for lr in lrs:
                settings = dict(data=a.photos.name, peer=name, arch=arch, px=photo_side, epochs=a.epochs + 1, lr=lr)
                def measure():
                    begin = time.perf_counter()
                    found = guide(a.photos, arch, photo_side, a.epochs + 1, lr, seed)
                    return dict(found, seconds=time.perf_counter() - begin)
                results.once('tutorial', settings, seed, measure, timed=True, same=(), more=['keras']*(name == 'keras'))

def peers(results, a, names):
    for seed in a.seeds:
        about = dict(data=a.photos.name, epochs=a.recovery)
        start = partial(Start, seed, a.photos, a.recovery)
        small.measure_each(results, {name: makers[name] for name in names}, about, seed, start, same=())

def pairs(results, a, names):
    for classes in pairwise(d.name for d in subfolders(a.photos/'train')):
        with tempfile.TemporaryDirectory() as tmp:
            folder, about = pair_of(a.photos, classes, tmp), dict(data=' and '.join(classes), labels=120)
            results.once('pair', about, 0, partial(run_once, data=str(folder), seed=0), timed=True, same=())
            best_fastai(results, about, folder, 0, 20)

def checked(experiment, names=()):
    def start(results, a, names):
        if not (a.photos and has_parts(a.photos)):
            refuse('give photographs as --photos FOLDER, with train/ and test/ and a folder a class.')
        experiment(results, a, names)
    return start, names

tutorial_peers = dict(pytorch=(guides.pytorch, (1e-3, 4e-3, 1.6e-2)), keras=(guides.keras, (1e-3, 4e-3)))
experiments = dict(run=checked(runs), fastai=checked(fastai), tutorials=checked(tutorials, tutorial_peers),
                   peers=checked(peers, makers), pairs=checked(pairs))
epochs = dict(type=int, default=5, help="of fastai's fine_tune, after one for the head; default: 5")
recovery = dict(type=int, default=8, help='epochs of training after a cut; default: 8')
photos = dict(type=Path, metavar='FOLDER', help='photographs, as train/ and test/ with a folder a class')
command = partial(main, 'photos', __doc__, experiments, seeds=seeds, epochs=epochs, recovery=recovery,
                  photos=photos)

if __name__ == '__main__': command()
