"""When does a pretrained net pay? Accuracy against the number of labelled images, on digits and on digits before photographs.

    python -m bench.labels --idx FOLDER      # MNIST's four files; adds what is missing to the JSON

Four ways to train on 50, 200, 1,000 and 4,000 images, three draws each (the same for all ways), measured on MNIST's 10,000 test images. All ways see
as many images: 8,000, and 4 epochs at the least. Each way's rate is the best of a few on one further draw of 200, judged by a third of the other training images."""
import argparse, json
from dataclasses import replace
from pathlib import Path

import torch
from sklearn.datasets import load_sample_images
from finetune_course.data import Images, idx_folder, load, split
from finetune_course.evaluate import environment
from bench.ablation import train

lite0 = 'tf_efficientnet_lite0'
ways = {   # architecture, and how it is trained
    'pretrained, all layers':  (lite0, {}),
    'pretrained, frozen body': (lite0, dict(freeze=True)),
    'same net, from scratch':  (lite0, dict(weights='random')),
    'plain CNN, from scratch': ('plain_cnn', dict(weights='random')),
}
rates, sizes = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1), (50, 200, 1000, 4000)

def before_photographs(ds: Images, side: int) -> Images:
    "Each digit over a piece of a photograph, as the difference of the two, in colour (MNIST-M's recipe, Ganin et al., arXiv 1505.07818); side 0: pieces from the left, 1: from the right"
    photos, g, px = [torch.tensor(p[::2, ::2]).permute(2, 0, 1) for p in load_sample_images().images], torch.Generator().manual_seed(side), ds.px
    def piece():
        p = photos[torch.randint(len(photos), (), generator=g)]
        half = p[:, :, :p.shape[2]//2] if side == 0 else p[:, :, p.shape[2]//2:]
        y, x = (torch.randint(n - px, (), generator=g) for n in half.shape[1:])
        return half[:, y:y+px, x:x+px]
    return replace(ds, x=(ds.x.int() - torch.stack([piece() for _ in range(len(ds))]).int()).abs().byte())

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--idx', type=Path, required=True, help="folder with MNIST's four files: the test images")
    p.add_argument('--px', type=int, default=32)
    p.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2])
    p.add_argument('--device', default='cpu')
    p.add_argument('--out', type=Path, default=Path(__file__).parent/'results'/'labels.json')
    a = p.parse_args()
    done = json.loads(a.out.read_text()) if a.out.is_file() else dict(data='mnist5k', px=a.px, environment=environment(), rows=[])
    if done['px'] != a.px: p.error(f'{a.out} holds other settings; remove it or give --out')
    rows, plain = done['rows'], (load('mnist5k', a.px)[0], idx_folder(a.idx, a.px)[1])
    pictures = {'digits': plain, 'before photographs': tuple(before_photographs(ds, i) for i, ds in enumerate(plain))}

    def run(kind, way, n, lr, seed, judge):
        if any((r['pictures'], r['way'], r['n'], r['lr'], r['seed']) == (kind, way, n, lr, seed) for r in rows): return
        whole, test = pictures[kind]
        rest, part = split(whole, n/len(whole), seed) if n < len(whole) else (test, whole)
        sets = dict(mnist_test=test) if judge == 'mnist_test' else dict(rest=rest.take(range(0, len(rest), 3)))
        arch, how = ways[way]
        rows.append(dict(pictures=kind, way=way, n=n) | train(arch, part, part.take(range(10)), sets, lr, seed, max(4, round(8000/n)), a.device, **how))
        a.out.write_text(json.dumps(done, indent=1) + '\n')
        print(rows[-1], flush=True)

    for kind in pictures:
        for way in ways:
            for lr in rates: run(kind, way, 200, lr, 100, 'rest')
        best = {w: max((r for r in rows if (r['pictures'], r['way']) == (kind, w) and 'rest' in r), key=lambda r: r['rest'])['lr'] for w in ways}
        rows[:] = [r for r in rows if r['pictures'] != kind or 'rest' in r or r['lr'] == best[r['way']]]
        for seed in a.seeds:
            for n in sizes:
                for way in ways: run(kind, way, n, best[way], seed, 'mnist_test')

if __name__ == '__main__': main()
