"""Chapter 03's ablation: what do pretrained weights buy, and what do rates that differ by layer?

    python -m bench.ablation [--idx FOLDER]

Five ways to train, three seeds each, on 4,000 digits (a tenth of them for validation). First each way climbs
the same ladder of learning rates, on a seed of its own, until two steps in a row bring nothing, and keeps the best, so that
none is held back by another's rate. Held-out images take no part in that. Rows are added to the JSON file as they come; a run that is
there already is skipped, so the command may be stopped and started again."""
import time
from pathlib import Path

from fastai.callback.training import BnFreeze
from fastai.torch_core import set_seed
from bench.shared import arguments, command, keep, read_here, same_images, unmixed
from finetune_course.backbone import backbone, pixel_stats, predict_tensor, replace_head_
from finetune_course.data import dataloaders, idx_folder, load, split
from finetune_course.finetune import fit_, learner, pick_device

rates = 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.   # with layer groups this is the head's, the first layers' a tenth of it
ways = {
    'from scratch':            dict(weights='random'),
    'frozen body':             dict(freeze=True),
    'frozen, BatchNorm moves': dict(freeze=True, train_bn=True),
    'one rate for all':        dict(),
    'rates by layer group':    dict(groups=True),
}

def train(arch, sets, test_sets, lr, seed, epochs, device, weights=None, freeze=False, train_bn=False, groups=False):
    "One training; returns what is known of it, accuracies by name of the set"
    start, (mean, std) = time.perf_counter(), pixel_stats(arch)
    part, valid = split(sets, .1, seed)
    dls = dataloaders(part, valid, mean=mean, std=std, device=device)
    set_seed(seed)
    model = replace_head_(backbone(arch, weights), dls.c)
    still = freeze and not train_bn
    learn = learner(dls, model, train_bn=not still, cbs=[BnFreeze()] if still else [])
    if freeze: learn.freeze()
    hist = fit_(learn, epochs, slice(lr/10, lr) if groups else lr, seed=seed)
    row = dict(lr=lr, seed=seed, seconds=round(time.perf_counter() - start, 1),
               train_loss=float(hist.train_loss.iloc[-1]), valid_loss=float(hist.valid_loss.iloc[-1]))
    for name, ds in {'valid': valid, **test_sets}.items():
        out, y = predict_tensor(learn.model, dataloaders(part, ds, mean=mean, std=std, device=device).valid)
        row |= {name: (out.argmax(1) == y).double().mean().item(), f'n_{name}': len(y)}
    return {k: round(v, 6) if isinstance(v, float) else v for k, v in row.items()}

def main():
    p = arguments(__doc__, 'ablation.json')
    p.add_argument('--px', type=int, default=32, help='side of the images')
    p.add_argument('--epochs', type=int, default=3)
    p.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2])
    p.add_argument('--arch', default='tf_efficientnet_lite0')
    p.add_argument('--device', default='cpu')
    p.add_argument('--idx', type=Path, help="folder with MNIST's four files: measure on its 10,000 test images too")
    args = p.parse_args()
    setup = dict(data='mnist5k', arch=args.arch, px=args.px, epochs=args.epochs)
    done, device = read_here(args.out, **setup, rows=[]), pick_device(args.device)
    rows = done['rows']
    for k in setup: unmixed(args.out, k, [done[k]], setup[k])
    sets, held_out = load('mnist5k', args.px)
    tests = {'held_out': held_out} | ({'mnist_test': idx_folder(args.idx, args.px)[1]} if args.idx else {})

    for r in rows: unmixed(args.out, 'test images', [[k for k in ('held_out', 'mnist_test') if k in r]] if r['stage'] == 'measure' else [], [*tests], same_images)

    def run(way, stage, lr, seed, tests):
        if any((r['way'], r['stage'], r['lr'], r['seed']) == (way, stage, lr, seed) for r in rows): return
        rows.append(dict(way=way, stage=stage) | train(args.arch, sets, tests, lr, seed, args.epochs, device, **ways[way]))
        keep(args.out, done)
        print({k: v for k, v in rows[-1].items() if k[:2] != 'n_'}, flush=True)

    def picks(way): return [r for r in rows if r['way'] == way and r['stage'] == 'pick the rate']
    for way in ways:
        for lr in rates:
            run(way, 'pick the rate', lr, 100, {})
            climbed = [r['valid'] for r in picks(way) if r['lr'] <= lr]
            if max(climbed) > max(climbed[-2:]): break
    best = {way: max(picks(way), key=lambda r: (r['valid'], -r['valid_loss']))['lr'] for way in ways}
    rows[:] = [r for r in rows if r['stage'] != 'measure' or r['lr'] == best[r['way']]]
    for seed in args.seeds:
        for way in ways: run(way, 'measure', best[way], seed, tests)
    print(f'{len(rows)} trainings in {args.out}')

if __name__ == '__main__': command(main)
