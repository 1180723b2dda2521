"""Images a second: tensor batches of chapter 01 against fastai's ImageDataLoaders.from_folder, on the same files.

    python -m bench.loading"""
import statistics, tempfile, time, warnings
from pathlib import Path

import torch
from fastai.data.transforms import Normalize
from fastai.vision.augment import Resize, aug_transforms
from fastai.vision.data import ImageDataLoaders
from bench.shared import arguments, as_pngs, command, epoch, keep
from finetune_course.data import class_folders, dataloaders, mnist5k, split
from finetune_course.evaluate import environment

px, bs, rounds = 48, 64, 5
aug = dict(do_flip=False, max_rotate=12., min_zoom=1/1.1, max_zoom=1.1, max_warp=.1, max_lighting=0., p_affine=1., pad_mode='border')

def fastai_dls(path, tfms, workers, **kwargs):
    tfms = [*tfms, Normalize.from_stats([.5]*3, [.5]*3, cuda=False)]
    return ImageDataLoaders.from_folder(path, item_tfms=Resize(px, method='squish'), batch_tfms=tfms, bs=bs, num_workers=workers, device='cpu', **kwargs)

def compare(path, ours, augmented):
    "One row: medians of alternating epochs, fastai with the better number of workers"
    dls = {f'{w} workers': fastai_dls(path, aug_transforms(**aug) if augmented else [], w) for w in (0, 2)}
    dls['ours'] = dataloaders(*ours, bs=bs, aug=None if augmented else [])
    for o in dls.values(): epoch(o.train)                                                # warm-up
    runs = {k: [] for k in dls}
    for _ in range(rounds):
        for k, o in dls.items(): runs[k].append(epoch(o.train))
    med = {k: statistics.median(v) for k, v in runs.items()}
    best = max(('0 workers', '2 workers'), key=med.get)
    return dict(augmented=augmented, fastai=round(med[best]), workers=int(best[0]), ours=round(med['ours']), times=round(med['ours']/med[best], 1))

def main():
    a = arguments(__doc__, 'loading.json').parse_args()
    warnings.filterwarnings('ignore')
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as tmp:
        for ds, name in zip(split(mnist5k(), .1), ('train', 'valid')): as_pngs(ds, Path(tmp, name))
        t = time.perf_counter()
        ours = [class_folders(Path(tmp, name), px) for name in ('train', 'valid')]
        once = time.perf_counter() - t
        rows = [compare(tmp, ours, augmented) for augmented in (False, True)]
    res = dict(what=f'images a second in training epochs over {len(ours[0])} of 5,000 PNG digits at {px} px, batch {bs}, on the CPU; '
                    f'medians of {rounds} epochs by turns; fastai with the better of 0 and 2 workers',
               rows=rows, files_read_once_s=round(once, 2), threads=torch.get_num_threads(), environment=environment())
    keep(a.out, res)
    print(*rows, sep='\n')

if __name__ == '__main__': command(main)
