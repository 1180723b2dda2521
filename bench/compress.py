"""How small can it get, at what cost? Each point is one way to make a small net; each row is one seed of it, measured from its files.

    python -m bench.compress [POINT ...] [--seeds 0 1 2] [--idx FOLDER]    # default: every point that is missing

Points named "full MNIST" train on all 60,000 images of FOLDER; all others on the embedded 4,000. With --idx everything is measured on
MNIST's 10,000 test images, otherwise on the 1,000 embedded ones that are held out. Each finished row is written at once and skipped the next time, so the
command may be stopped and started again. Teachers are kept in bench/work."""
import argparse, json, tempfile, time
from dataclasses import asdict, replace
from pathlib import Path

import torch
from torch import nn
from fastai.torch_core import set_seed
from finetune_course.data import dataloaders, idx_folder, load, split
from finetune_course.evaluate import environment, latency, measure
from finetune_course.export import export_onnx, load_model, save_model
from finetune_course.finetune import fit_, learner
from finetune_course.pipeline import Config, small_input, starting_net, write_small
from finetune_course.prune import Tutor, accuracy_of, prune_recover, recover_

here = Path(__file__).parent
default = dict(ratio=.86, px=28, epochs=40, cuts=1, teacher=True, start='fine-tuned', full=False, size=48, bs=64)
race = dict(ratio=.94, epochs=12)   # the same size and budget four times
full = dict(full=True, bs=128, epochs=24)
points = {
    'one-shot': race, 'iterative': dict(race, cuts=4),
    'one-shot, no teacher': dict(race, teacher=False), 'iterative, no teacher': dict(race, cuts=4, teacher=False),
    **{f'R {r}': dict(ratio=r) for r in (.86, .9, .93, .95)},
    **{f'R {r}, {px} px': dict(ratio=r, px=px) for r, px in ((.86, 20), (.86, 36))},
    'R 0.7, blind end kept': dict(ratio=.7),
    'R 0.86, from scratch': dict(start='scratch'), 'R 0.93, from scratch': dict(start='scratch', ratio=.93),
    'plain CNN, from scratch': dict(start='plain'),
    'full MNIST, R 0.86': full, 'full MNIST, R 0.93': dict(full, ratio=.93),
}

def plain_cnn(n_out, width=24):
    "What one would write without a pretrained net: six 3×3 convolutions, some 57,000 weights like R 0.86"
    def block(a, b, stride): return nn.Sequential(nn.Conv2d(a, b, 3, stride, 1, bias=False), nn.BatchNorm2d(b), nn.ReLU6(inplace=True))
    w = width
    return nn.Sequential(block(1, w, 2), block(w, w, 1), block(w, 2*w, 2), block(2*w, 2*w, 1), block(2*w, int(2.1*w), 1),
                         nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(int(2.1*w), n_out))

def images(p, px, seed, folder):
    "Training, validation and reported images of one size"
    if p['full']: rest, test = idx_folder(folder, px)
    else:
        rest, test = load('mnist5k', px)
        if folder: test, = idx_folder(folder, px, ['test'])
    return *split(rest, .05 if p['full'] else .1, seed), test

def teacher_of(p, seed, folder):
    "The fine-tuned net that all points of this data and seed start from, trained once"
    stem = here/'work'/f'{"full" if p["full"] else "mnist5k"}-{p["size"]}-{seed}'
    if stem.with_suffix('.json').is_file(): return load_model(stem)
    stem.parent.mkdir(exist_ok=True)
    train, valid, _ = images(p, p['size'], seed, folder)
    model, spec = starting_net(Config(size=p['size'], seed=seed), train.vocab)
    fit_(learner(dataloaders(train, valid, p['bs'], spec.mean, spec.std), model), 8 if p['full'] else Config().epochs, seed=seed)
    save_model(model, spec, stem)
    return load_model(stem)

def make(name, seed, folder):
    p = default | points[name]
    model, spec = teacher_of(p, seed, folder)
    sets = {px: images(p, px, seed, folder) for px in {p['size'], p['px']}}
    train, valid, _ = sets[p['px']]
    cfg, start = Config(size=p['size'], small_size=p['px'], seed=seed), time.perf_counter()
    set_seed(seed)
    body = model if p['start'] != 'scratch' else starting_net(replace(cfg, weights='random'), spec.vocab)[0]
    whole, small_spec = small_input(cfg, body, spec, grey=True)
    dls = dataloaders(train, valid, p['bs'], small_spec.mean, small_spec.std)
    teacher = Tutor(model, spec, small_spec) if p['teacher'] else None
    if p['start'] == 'plain':
        net = plain_cnn(len(spec.vocab))
        recover_(net, dls, p['epochs'], teacher=teacher, seed=seed)
    else: net, small_spec, _ = prune_recover(whole, small_spec, dls, p['ratio'], p['epochs'], p['cuts'], teacher, seed=seed)
    seconds = time.perf_counter() - start
    with tempfile.TemporaryDirectory() as tmp:
        tmp = Path(tmp)
        files = {'fine-tuned': export_onnx(model, spec, tmp/'model.onnx'), 'pruned': tmp/'pruned.onnx', 'int8': tmp/'model.int8.onnx'}
        write_small(net, small_spec, train, tmp)
        rows = measure(files, *(s[2] for s in sets.values()))
        same = export_onnx(*small_input(cfg, model, spec, grey=True), tmp/'same.onnx')
        ratios = {f'same_size_faster_b{bs}': (lambda a, b: a/b)(*latency(same, files['int8'], bs, 60 if bs == 1 else 15)) for bs in (1, 64)}
    return dict(point=name, seed=seed, **p, seconds=round(seconds, 1), valid_accuracy=accuracy_of(net, dls.valid), **{r.stage: asdict(r) for r in rows}, **ratios)

def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument('point', nargs='*', help=f'one or more of: {"; ".join(points)}')
    a.add_argument('--seeds', type=int, nargs='+', default=[0])
    a.add_argument('--idx', type=Path, help="folder with MNIST's four files")
    a.add_argument('--out', type=Path, default=here/'results'/'compress.json')
    a = a.parse_args()
    done = json.loads(a.out.read_text()) if a.out.is_file() else dict(environment=environment(), rows=[])
    for name in a.point or points:
        if name not in points: raise SystemExit(f'unknown point {name!r}; choose one of {", ".join(points)}')
        for seed in a.seeds:
            if any((r['point'], r['seed']) == (name, seed) for r in done['rows']): continue
            if points[name].get('full') and not a.idx: print(f'{name}: needs --idx'); continue
            row = make(name, seed, a.idx)
            done['rows'].append(row)
            a.out.write_text(json.dumps(done, indent=1) + '\n')
            q = row['int8']
            print(f'{name}, seed {seed}: {q["bytes"]:,} bytes, {q["accuracy"]:.4f} (fine-tuned {row["fine-tuned"]["accuracy"]:.4f}, fp32 {row["pruned"]["accuracy"]:.4f}), '
                  f'{q["faster_b1"]:.1f}/{q["faster_b64"]:.1f} times faster, {row["seconds"]:.0f} s', flush=True)

if __name__ == '__main__': main()
