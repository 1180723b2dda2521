"""When does a pretrained net pay? Accuracy against the number of labelled images.

    python -m bench.labels --idx FOLDER      # MNIST's four files; adds what is missing to the JSON

Four ways to train on 50, 200, 1,000 and 4,000 digits, three draws each (the same for all ways), measured on MNIST's 10,000 test images. All ways see
as many images: 8,000, and 4 epochs at the least. Each way's rate is the best of a few on one further draw of 200, judged by a third of the other training images."""
import argparse, json
from pathlib import Path

from finetune_course.data import idx_folder, load, split
from finetune_course.evaluate import environment
from bench.ablation import train

lite0 = 'tf_efficientnet_lite0'
ways = {   # architecture, and how it is trained
    'pretrained, all layers':  (lite0, {}),
    'pretrained, frozen body': (lite0, dict(freeze=True)),
    'same net, from scratch':  (lite0, dict(weights='random')),
    'plain CNN, from scratch': ('plain_cnn', dict(weights='random')),
}
rates, sizes = (1e-3, 3e-3, 1e-2, 3e-2), (50, 200, 1000, 4000)

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
    rows, whole, test = done['rows'], load('mnist5k', a.px)[0], idx_folder(a.idx, a.px)[1]

    def run(way, n, lr, seed, judge):
        if any((r['way'], r['n'], r['lr'], r['seed']) == (way, n, lr, seed) for r in rows): return
        rest, part = split(whole, n/len(whole), seed) if n < len(whole) else (test, whole)
        sets = dict(mnist_test=test) if judge == 'mnist_test' else dict(rest=rest.take(range(0, len(rest), len(rest)//1000)))
        arch, how = ways[way]
        rows.append(dict(way=way, n=n) | train(arch, part, part.take(range(10)), sets, lr, seed, max(4, round(8000/n)), a.device, **how))
        a.out.write_text(json.dumps(done, indent=1) + '\n')
        print(rows[-1], flush=True)

    for way in ways:
        for lr in rates: run(way, 200, lr, 100, 'rest')
    best = {w: max((r for r in rows if r['way'] == w and 'rest' in r), key=lambda r: r['rest'])['lr'] for w in ways}
    for seed in a.seeds:
        for n in sizes:
            for way in ways: run(way, n, best[way], seed, 'mnist_test')

if __name__ == '__main__': main()
