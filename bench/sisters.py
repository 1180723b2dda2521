"""Which nets mind integers? One small net, with and without squeeze-and-excitation, with swish and with ReLU6, quantized carelessly and well.

    python -m bench.sisters [--seeds 0 1 2] [--epochs 12]

Trained from scratch on the embedded 4,000 at 32 pixels, measured on the 1,000 that are held out. Each finished row is written at once and skipped the next time."""
import tempfile
from pathlib import Path

import timm
from torch import nn
from fastai.torch_core import set_seed
from bench.shared import arguments, command, keep, read_here
from finetune_course.backbone import pixel_stats
from finetune_course.data import dataloaders, load, split
from finetune_course.export import Reader, Spec, export_onnx
from finetune_course.prune import recover_
from finetune_course.quantize import quantize_onnx

arch, px = 'tinynet_e', 32
nets = {f'{act}, {"with" if se else "without"} SE': dict(act_layer=layer, **({} if se else dict(se_layer=nn.Identity)))
        for act, layer in (('swish', nn.SiLU), ('ReLU6', nn.ReLU6)) for se in (True, False)}
ways = {'one scale a tensor': dict(per_channel=False), 'one image': dict(), 'ours': dict()}

def train(kw, seed, epochs):
    "One row: accuracy of the fp32 file, and of each int8 file the accuracy and the mean error of the logits, as a share of their mean size"
    rest, test = load('mnist5k', px)
    part, valid = split(rest, .1, seed)
    mean, std = pixel_stats(arch)
    set_seed(seed)
    net, spec = timm.create_model(arch, num_classes=10, **kw), Spec(arch, part.vocab, px, mean, std)
    recover_(net, dataloaders(part, valid, mean=mean, std=std), epochs, seed=seed)
    def right(out): return float((out.argmax(1) == test.y.numpy()).mean())
    with tempfile.TemporaryDirectory() as tmp:
        src = export_onnx(net, spec, Path(tmp)/'fp32.onnx')
        exact, row = Reader(src).logits(test.x), {}
        for way, options in ways.items():
            calib = part.take([0] if way == 'one image' else range(0, len(part), len(part)//256))
            out = Reader(quantize_onnx(src, Path(tmp)/'int8.onnx', spec, calib, **options)).logits(test.x)
            row[way] = dict(accuracy=right(out), error=float(abs(out - exact).mean()/abs(exact).mean()))
    return dict(fp32=dict(accuracy=right(exact)), **row)

def main():
    a = arguments(__doc__, 'sisters.json')
    a.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2])
    a.add_argument('--epochs', type=int, default=12)
    a = a.parse_args()
    done = read_here(a.out, arch=arch, px=px, n=1000, rows=[])
    for seed in a.seeds:
        for name, kw in nets.items():
            if any((r['net'], r['seed'], r['epochs']) == (name, seed, a.epochs) for r in done['rows']): continue
            done['rows'].append(dict(net=name, seed=seed, epochs=a.epochs, **train(kw, seed, a.epochs)))
            keep(a.out, done)
            print(done['rows'][-1], flush=True)

if __name__ == '__main__': command(main)
