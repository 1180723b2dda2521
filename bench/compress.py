"""How small can it get, at what cost? Each point is one way to make a small net; each row is one seed of it, measured from its files.

    python -m bench.compress [POINT ...] [--seeds 0 1 2] [--idx FOLDER]    # default: every point that is missing
    python -m bench.compress [POINT ...] --clock --idx FOLDER              # no training but of a start that is missing: the speed of all points anew, on one quiet machine

All points but those "from scratch" start from the net that was fine-tuned on the embedded 4,000; those that are taught have it as their teacher, or ("taught by nine") the nets of bench.recipes, which answered copies of all 60,000. Those named "full MNIST" then train on the 60,000 images of FOLDER (a twentieth of them for validation, which the nine learned from too), the others on the 4,000. With --idx everything is measured on
MNIST's 10,000 test images, otherwise on the 1,000 embedded ones that are held out. Each finished row is written at once and skipped the next time, so the
command may be stopped and started again. Teachers are kept in bench/teachers."""
import copy, tempfile, time
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import numpy as np, onnx, onnxruntime, torch
from torch import nn
from fastai.torch_core import TensorImage, params, set_seed
from bench.recipes import answered, lacking, options, towards
from bench.shared import arguments, command, here, keep, known, read, same_images, unmixed
from finetune_course.backbone import plain_cnn, predict_tensor
from finetune_course.data import dataloaders, idx_folder, load, split
from finetune_course.evaluate import environment, latency, measure
from finetune_course.export import export_onnx, load_model, save_model
from finetune_course.finetune import fit_, learner
from finetune_course.pipeline import Config, small_input, starting_net, unlike_, write_small
from finetune_course.prune import Tutor, accuracy_of, prune, prune_recover, recover_
from finetune_course.quantize import mixed_bits, on_paper, quantization_aware

default = dict(ratio=.95, px=28, epochs=40, cuts=1, round_to=8, teacher=True, start='fine-tuned', full=False, size=48, bs=64, width=24, bits=False)
race = dict(ratio=.962, epochs=24, round_to=4)   # the same size and budget four times
full = dict(full=True, bs=128, epochs=16, teacher=False)   # with labels enough
tiny = dict(ratio=.972, round_to=4)   # 20 KB, as the plain net of 13 and 26 channels
points = {
    'one-shot': race, 'iterative': dict(race, cuts=4),
    'one-shot, no teacher': dict(race, teacher=False), 'iterative, no teacher': dict(race, cuts=4, teacher=False),
    'R 0.95': dict(bits=True), 'R 0.95, no teacher': dict(teacher=False), 'R 0.95, from scratch': dict(start='scratch'), 'R 0.95, from scratch, no teacher': dict(start='scratch', teacher=False),
    'plain CNN, from scratch': dict(start='plain'), '20 KB': tiny, '20 KB, no teacher': dict(tiny, teacher=False), '20 KB, plain CNN, from scratch': dict(start='plain', width=13),
    'plain CNN, from scratch, no teacher': dict(start='plain', teacher=False), '37 KB, plain CNN, from scratch, no teacher': dict(start='plain', width=18, teacher=False), '20 KB, plain CNN, from scratch, no teacher': dict(start='plain', width=13, teacher=False),
    **{f'R {r}': dict(ratio=r) for r in (.86, .9, .96)},
    **{f'R 0.95, {px} px, no teacher': dict(px=px, teacher=False) for px in (20, 36, 48)},
    'full MNIST, 20 KB': dict(tiny, **full), 'full MNIST, 20 KB, plain CNN, from scratch': dict(full, start='plain', width=13),
    'full MNIST, 20 KB, plain CNN, from scratch, taught by nine': dict(full, start='plain', width=13, teacher='nine'),
}

def images(p, px, seed, folder):
    "Training, validation and reported images of one size"
    if p['full']:
        rest, test = idx_folder(folder, px)
        rest.names = [*range(len(rest))]
    else:
        rest, test = load('mnist5k', px)
        if folder: test, = idx_folder(folder, px, ['test'])
    return *split(rest, .05 if p['full'] else .1, seed), test

def teacher_of(p, seed, folder):
    "The fine-tuned net that all points of this seed start from, trained once"
    stem = here/'teachers'/f'mnist5k-{p["size"]}-{seed}'
    if stem.with_suffix('.json').is_file(): return load_model(stem)
    stem.parent.mkdir(exist_ok=True)
    train, valid, _ = images(p | dict(full=False), p['size'], seed, folder)
    model, spec = starting_net(Config(size=p['size'], seed=seed), train.vocab)
    fit_(learner(dataloaders(train, valid, 64, spec.mean, spec.std), model), Config().epochs, seed=seed)
    save_model(model, spec, stem)
    return load_model(stem)

pupil = 'large: wide strided CNN, pupil of nine, fresh copies'   # whose lesson they have

def taught_by_nine_(net, spec, train, valid, p, seed, folder):
    "Train towards the answers of nine nets, in place: one pass through as many copies of the images as there are epochs; `names` are places among all images"
    copies, n = answered(pupil, idx_folder(folder, p['px'])[0], torch.device('cpu')), len(train) + len(valid)
    lesson = copies.take((n*torch.arange(p['epochs'])[:, None] + torch.tensor(train.names)).flatten())
    loss = partial(towards, temperature=options(pupil)['temperature'])
    fit_(learner(dataloaders(lesson, valid, p['bs'], spec.mean, spec.std, aug=[]), net, splitter=params, loss_func=loss), 1, 1e-2, seed=seed)

def begin(p, seed, folder):
    "What every net of a point starts from: the fine-tuned net and its spec, the small net's images, options, spec and (for a cut net) weights"
    model, spec = teacher_of(p, seed, folder)
    sets = {px: images(p, px, seed, folder) for px in {p['size'], p['px']}}
    cfg = Config(size=p['size'], small_size=p['px'], seed=seed)
    set_seed(seed)
    body = model if p['start'] != 'scratch' else starting_net(replace(cfg, weights='random'), spec.vocab)[0]
    return model, spec, sets, cfg, *small_input(cfg, body, spec, grey=True)

def gauge(p, begun, net, small_spec):
    "A ledger row for each file, by stage; and the ratios and rates that it has no column for"
    model, spec, sets, cfg, *_ = begun
    with tempfile.TemporaryDirectory() as tmp:
        tmp = Path(tmp)
        files = {'fine-tuned': export_onnx(model, spec, tmp/'model.onnx'), 'pruned': tmp/'pruned.onnx', 'int8': tmp/'model.int8.onnx'}
        write_small(net, small_spec, sets[p['px']][0], tmp)
        rows = measure(files, *(s[2] for s in sets.values()))
        same = export_onnx(*small_input(cfg, model, spec, grey=True), tmp/'same.onnx')
        ratios = {f'same_size_faster_b{bs}': (lambda a, b: a/b)(*latency(same, files['int8'], bs, 60 if bs == 1 else 15)) for bs in (1, 64)}
        ratios |= dict(gops_b64=2*macs(net, len(small_spec.mean), small_spec.px)*64/rows[-1].latency_ms_b64/1e6, int8_peak_gops=int8_peak(tmp))
    return {r.stage: asdict(r) for r in rows}, ratios

def make(name, seed, folder):
    p = default | points[name]
    begun = model, spec, sets, cfg, whole, small_spec = begin(p, seed, folder)
    start = time.perf_counter()
    train, valid, test = sets[p['px']]
    dls = dataloaders(train, valid, p['bs'], small_spec.mean, small_spec.std)
    teacher = Tutor(model, spec, small_spec) if p['teacher'] is True else None
    if p['start'] == 'plain':
        net = plain_cnn(p['width'], len(small_spec.mean), len(spec.vocab))
        if p['teacher'] == 'nine': taught_by_nine_(net, small_spec, train, valid, p, seed, folder)
        else: recover_(net, dls, p['epochs'], teacher=teacher, seed=seed)
    else: net, small_spec, _ = prune_recover(whole, small_spec, dls, p['ratio'], p['epochs'], p['cuts'], teacher, p['round_to'], seed=seed)
    seconds, (rows, ratios) = time.perf_counter() - start, gauge(p, begun, net, small_spec)
    if p['bits'] and seed == 0: ratios['paper'] = paper(net, dls, test, teacher, seed)
    return dict(point=name, seed=seed, **p, environment=environment(), seconds=round(seconds, 1), valid_accuracy=accuracy_of(net, dls.valid), **rows, **ratios)

def clock(rows, folder):
    "Time every point anew on this machine, in place: a net's weights change nothing about its speed, so nets of the same shapes will do."
    for name in {r['point']: 0 for r in rows}:
        p = default | points[name]
        *_, whole, small_spec = begun = begin(p, 0, folder)
        if p['start'] == 'plain': net = plain_cnn(p['width'], len(small_spec.mean), len(small_spec.vocab))
        else: net, small_spec = prune(whole, small_spec, p['ratio'], p['round_to'])
        new, ratios = gauge(p, begun, unlike_(net), small_spec)
        for r in (r for r in rows if r['point'] == name):
            assert abs(new['pruned']['params']/r['pruned']['params'] - 1) < .02, f'{name} has another shape'   # cut in steps, counts are rounded otherwise
            for stage in new: r[stage] |= {k: v for k, v in new[stage].items() if 'latency' in k or 'faster' in k}
            r |= dict(ratios, clock=environment())
        print(name, *(f'{new["int8"][f"faster_b{bs}"]:.1f}' for bs in (1, 64)), flush=True)

@torch.no_grad()
def macs(net, channels, px):
    "Multiplications of one image, forward (torch's FlopCounterMode counts grouped convolutions wrongly in some versions)"
    n, hooks = [], []
    for m in net.eval().modules():
        if isinstance(m, (nn.Conv2d, nn.Linear)): hooks.append(m.register_forward_hook(lambda m, i, o: n.append(m.weight.numel()*o[0, 0].numel())))
    net(torch.zeros(1, channels, px, px))
    for h in hooks: h.remove()
    return sum(n)

def int8_peak(folder, n=1024):
    "Operations a nanosecond of one thread in a large U8S8 matrix product: the most that this runtime gets out of this processor"
    h, rng = onnx.helper, np.random.default_rng(0)
    init = {'sa': np.float32(.01), 'za': np.uint8(128), 'b': rng.integers(-127, 128, (n, n), np.int8), 'sb': np.float32(.01), 'zb': np.int8(0), 'sy': np.float32(50), 'zy': np.uint8(128)}
    graph = h.make_graph([h.make_node('QLinearMatMul', ['a', *init, ], ['y'])], 'peak', [h.make_tensor_value_info('a', onnx.TensorProto.UINT8, [n, n])],
                         [h.make_tensor_value_info('y', onnx.TensorProto.UINT8, [n, n])], [onnx.numpy_helper.from_array(np.asarray(v), k) for k, v in init.items()])
    onnx.save(h.make_model(graph, opset_imports=[h.make_opsetid('', 20)], ir_version=10), folder/'peak.onnx')
    opts = onnxruntime.SessionOptions()
    opts.intra_op_num_threads = 1
    run, a, times = onnxruntime.InferenceSession(folder/'peak.onnx', opts, providers=['CPUExecutionProvider']).run, rng.integers(0, 256, (n, n), np.uint8), []
    for _ in range(15):
        t = time.perf_counter()
        run(None, {'a': a})
        times.append(time.perf_counter() - t)
    return 2*n**3/np.median(times[3:])/1e9

def paper(net, dls, test, teacher, seed):
    "Sizes as Deep Compression counts them, below the eight bits that a runtime can read; with training for those that equal steps need most"
    def row(how, bits, model, n):
        out = predict_tensor(model, [(dls.valid.after_batch((TensorImage(x), ))[0], y) for x, y in zip(test.x.split(250), test.y.split(250))])
        return dict(how=how, bits=bits, bytes=n, accuracy=(out[0].argmax(1) == test.y).float().mean().item(), valid_accuracy=accuracy_of(model, dls.valid))
    rows, mixed = [], {how: mixed_bits(net, dls.valid, how=how) for how in ('linear', 'kmeans')}
    for how in mixed:
        for bits in (8, 6, 5, 4, 3, 2, 'mixed'): rows.append(row(how, bits, *on_paper(net, mixed[how] if bits == 'mixed' else bits, how)))
    for bits in (3, 2, 'mixed'):
        taught, b = copy.deepcopy(net), mixed['linear'] if bits == 'mixed' else bits
        with quantization_aware(taught, b): recover_(taught, dls, 8, lr=3e-3, teacher=teacher, seed=seed)
        rows.append(row('linear, learned', bits, *on_paper(taught, b)))
    return rows

def main():
    a = arguments(__doc__, 'compress.json')
    a.add_argument('point', nargs='*', help=f'one or more of: {"; ".join(points)}')
    a.add_argument('--seeds', type=int, nargs='+', default=[0])
    a.add_argument('--idx', type=Path, help="folder with MNIST's four files")
    a.add_argument('--clock', action='store_true', help='time every point of the JSON anew, or those named')
    a = a.parse_args()
    def done(): return read(a.out, rows=[])
    known(a.point, points)
    unmixed(a.out, 'test images', [r['int8']['n'] for r in done()['rows']], len(images(default, default['px'], 0, a.idx)[2]), same_images)
    if a.clock:
        now = done()
        clock([r for r in now['rows'] if not a.point or r['point'] in a.point], a.idx)
        return keep(a.out, now)
    for name in a.point or points:
        for seed in a.seeds:
            if any((r['point'], r['seed']) == (name, seed) for r in done()['rows']): continue
            if points[name].get('full') and not a.idx: print(f'{name}: needs --idx'); continue
            if points[name].get('teacher') == 'nine': lacking(pupil)
            row = make(name, seed, a.idx)
            now = done()   # read again: another process may be making other rows
            now['rows'].append(row)
            keep(a.out, now)
            q = row['int8']
            print(f'{name}, seed {seed}: {q["bytes"]:,} bytes, {q["accuracy"]:.4f} (fine-tuned {row["fine-tuned"]["accuracy"]:.4f}, fp32 {row["pruned"]["accuracy"]:.4f}), '
                  f'{q["faster_b1"]:.1f}/{q["faster_b64"]:.1f} times faster, {row["seconds"]:.0f} s', flush=True)

if __name__ == '__main__': command(main)
