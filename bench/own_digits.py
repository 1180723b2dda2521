"""Other people's handwriting: what the default run's files make of photographs, of drawings and of no digits.

    python -m bench.own_digits read [--seeds 0 1 2] [--mnist FOLDER] [--photos FOLDER]
    python -m bench.own_digits speed [--seeds 0]
    python -m bench.own_digits distort [--seeds 0 1 2]

The pictures are made of held-out digits (MNIST's with --mnist, else the embedded ones), and go through PNG or JPEG.
A picture of a digit counts as right if one digit is read in it, and that one right. A picture of none counts as
flagged if nothing is found, or if every answer is 'not sure' or 'unknown'. --photos: photographs, which show no
digits. Runs are kept in teachers/, and made if they are not there. distort: a plain CNN with and without the
distortions of its training, on validation images bent, blurred and so on, more and more."""
import io, subprocess, sys, tempfile, time
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np, torch
from PIL import Image

from bench.harness import main, mnist, nets_folder, seeds, test_images
from bench.pictures import drawn_digit, encoded, no_digits, photographed_digit
from finetune_course.app.config import Config
from finetune_course.app.report import Report
from finetune_course.app.run import run
from finetune_course.base.folders import image_files
from finetune_course.base.images import decode_image, fit_square
from finetune_course.data import load
from finetune_course.digits import find_digits, read_picture
from finetune_course.evaluate import calibration, wilson
from finetune_course.predict import Predictor

n_digits, n_others = 500, 100   # pictures of digits, of each kind; of each kind of no digit

def finished_run(seed: int) -> tuple[Path, Report]:
    "The default run with its control, made now or kept from before"
    folder = nets_folder/f'digits-{seed}'
    if not (folder/'report.json').is_file(): run(Config(out=str(folder), seed=seed, baseline=True))
    return folder, Report.read(folder)

def through_file(rng, picture): return decode_image(io.BytesIO(encoded(rng, picture)[1]), 'picture')

class Made(NamedTuple):
    "A picture, small, and what `read_picture` would ask a net about it"
    x: np.ndarray        # uint8, C×48×48
    images: np.ndarray   # uint8, N×1×28×28: the digits found
    label: str | None    # None: it shows no digit

def made(picture, label=None):
    found, _ = find_digits(picture)
    images = np.stack([d.image for d in found]) if found else np.empty((0, 1, 28, 28), np.uint8)
    return Made(fit_square(picture, 48), images, label)

@cache
def pictures_of_digits(folder: Path | None) -> dict[str, list[Made]]:   # by kind
    _, ds = test_images(folder, 28)
    result, rng = {}, np.random.default_rng(7)
    for kind, make in ('photographs', photographed_digit), ('drawings', drawn_digit):
        some = rng.choice(len(ds), n_digits, replace=False)
        result[kind] = [made(through_file(rng, make(rng, ds.x[i, 0].numpy())), ds.vocab[ds.y[i]]) for i in some]
    return result

@cache
def pictures_of_none(photos: Path | None) -> dict[str, list[Made]]:     # by kind
    rng = np.random.default_rng(8)
    result = {kind: [made(through_file(rng, make(rng))) for _ in range(n_others)] for kind, make in no_digits.items()}
    if photos:
        files = [f for f, _ in image_files(photos)]
        result['photograph'] = [made(decode_image(f)) for f in files[::max(1, len(files)//n_others)][:n_others]]
    return result

def share(hits) -> dict: return dict(share=float(np.mean(hits)), n=len(hits), interval=wilson(sum(hits), len(hits)))

def answers(predictor, picture: Made):
    return predictor.answers(fit_square(picture.images, predictor.px)) if len(picture.images) else []

def is_right(found, label): return [a.label for a in found if a.label is not None] == [label]
def is_flagged(found): return all(a.status != 'ok' for a in found)

def reading(file: Path, ds, folder: Path | None, photos: Path | None) -> dict:
    "What one file makes of all pictures"
    predictor, result = Predictor(file), {}
    for kind, pictures in pictures_of_digits(folder).items():
        found = [answers(predictor, p) for p in pictures]
        as_is = [predictor.answers(fit_square(p.x, predictor.px)[None]) for p in pictures]
        result[kind] = dict(right=share([is_right(f, p.label) for f, p in zip(found, pictures)]),
                            as_is=share([is_right(f, p.label) for f, p in zip(as_is, pictures)]),
                            flagged=share([is_flagged(f) for f in found]))
    result['no digits'] = {kind: share([is_flagged(answers(predictor, p)) for p in pictures])
                           for kind, pictures in pictures_of_none(photos).items()}
    p, y = predictor.probabilities(predictor.logits(ds.x)), ds.y.numpy()
    statuses = [a.status for a in predictor.answers(ds.x)]
    result['test images'] = dict(right=share(p.argmax(1) == y), ece=calibration(p, y)[0],
                                 **{s: statuses.count(s)/len(y) for s in ('unknown', 'not sure')})
    return result

def read(results, a, names):
    for seed in a.seeds:
        folder, report = finished_run(seed)
        for stage in dict.fromkeys(('int8', report.shipped, 'fine-tuned')):
            file = folder/report.file_of(stage)
            name, ds = test_images(a.mnist, Predictor(file).px)
            settings = dict(test=name, stage=stage, photos=a.photos.name if a.photos else None)
            results.once('read', settings, seed, partial(reading, file, ds, a.mnist, a.photos))

# ---- speed

def large_photograph(rng, image, height):
    "A photograph with so many rows, as a JPEG's bytes"
    small = photographed_digit(rng, image)
    big = Image.fromarray(small).resize((round(height*small.shape[1]/small.shape[0]), height))
    big = np.asarray(big) + rng.normal(0, 4, (*big.size[::-1], 3))   # grain: else it would be a small file
    buffer = io.BytesIO()
    Image.fromarray(big.clip(0, 255).astype(np.uint8)).save(buffer, 'JPEG', quality=80)
    return buffer.getvalue()

def speeds(seed: int) -> dict:
    "Milliseconds from 12 megapixels to an answer, and seconds of the command for 50 photographs"
    folder, report = finished_run(seed)
    predictor, digits, rng = Predictor(folder/report.file_of()), load('mnist5k', 28)[1], np.random.default_rng(9)
    data, times = large_photograph(rng, digits.x[0, 0].numpy(), 4000), []
    x = decode_image(io.BytesIO(data), 'photograph')
    for _ in range(15):
        start = time.perf_counter()
        read_picture(predictor, x)
        times.append(1000*(time.perf_counter() - start))
    with tempfile.TemporaryDirectory() as tmp:
        files = [Path(tmp)/f'{i}.jpg' for i in range(50)]
        for i, f in enumerate(files): f.write_bytes(large_photograph(rng, digits.x[i, 0].numpy(), 3000))
        start_main = 'import sys; from finetune_course.app.cli import main; sys.exit(main())'
        command = [sys.executable, '-c', start_main, 'predict', folder, *files]
        start = time.perf_counter()
        lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
        seconds = time.perf_counter() - start
        mean_bytes = np.mean([f.stat().st_size for f in files])
    if len(lines) < 50: raise RuntimeError(f'{len(lines)} answers to 50 pictures')
    return dict(megapixels=x[0].size/1e6, ms=float(np.median(times[3:])), seconds=seconds, mean_bytes=float(mean_bytes))

def speed(results, a, names):
    for seed in a.seeds[:1]: results.once('speed', dict(pictures=50), seed, partial(speeds, seed), timed=True, same=())

# ---- distort

strengths = {   # name → a transform of that strength, 0…1, and whether it changes the pose
    'slant': lambda s, Pose, Bend, Pen: Bend(slant=.6*s, squeeze=1, bend=0),
    'bend': lambda s, Pose, Bend, Pen: Bend(slant=0, squeeze=1, bend=.12*s),
    'turn': lambda s, Pose, Bend, Pen: Pose(degrees=40*s, zoom=1, warp=0),
    'pen': lambda s, Pose, Bend, Pen: Pen(width=1.6*s, blur=0, fade=0, noise=0),
    'blur': lambda s, Pose, Bend, Pen: Pen(width=0, blur=2*s, fade=0, noise=0),
    'noise': lambda s, Pose, Bend, Pen: Pen(width=0, blur=0, fade=0, noise=.6*s),
}

def distorted_accuracy(seed: int, augmented: bool) -> dict:
    "Of a plain CNN, by distortion and strength, on validation images"
    from fastai.torch_core import TensorImage, params, set_seed
    from finetune_course.app.recipe import augmentation
    from finetune_course.backbone import plain_cnn
    from finetune_course.base.distort import Bend, Pen
    from finetune_course.data import Pose, augment, dataloaders, load_splits
    from finetune_course.finetune import fit_, learner
    splits = load_splits('mnist5k', 28, seed)
    set_seed(seed)
    aug = augmentation('digits') if augmented else augment()
    dls = dataloaders(splits.train, splits.valid, mean=(.5,), std=(.5,), aug=aug)
    learn = learner(dls, plain_cnn(24, 1, 10), splitter=params)
    fit_(learn, 40, 1e-2, seed=seed)
    net, x, y = learn.model.eval(), TensorImage(splits.valid.x/255), splits.valid.y
    def accuracy(transform):
        set_seed(0)
        with torch.no_grad(): logits = net(transform(x, split_idx=0).as_subclass(torch.Tensor)*2 - 1)
        return float((logits.argmax(1) == y).float().mean())
    steps = [0, .25, .5, .75, 1]
    return {name: [accuracy(make(s, Pose, Bend, Pen)) for s in steps] for name, make in strengths.items()}

def distort(results, a, names):
    for seed in a.seeds:
        for augmented in False, True:
            measure = partial(distorted_accuracy, seed, augmented)
            results.once('distort', dict(distortions=augmented, epochs=40), seed, measure, same=())

experiments = dict(read=(read, ()), speed=(speed, ()), distort=(distort, ()))
photos = dict(type=Path, metavar='FOLDER', help='photographs that show no digits, in any folders')
command = partial(main, 'own_digits', __doc__, experiments, seeds=seeds, mnist=mnist, photos=photos)

if __name__ == '__main__': command()
