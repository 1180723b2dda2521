"""Libraries that make nets small, side by side with this course: the same data, the same fine-tuned net to start from, the same test images.

    pip install -e '.[peers]'
    python -m bench.peers [PEER ...] [--seeds 0] [--idx FOLDER]    # default: all; `torch-pruning` means all whose names begin so

Each peer is used as its own documentation recommends; what had to be settled otherwise stands in its row (`recipe`). Every row names its runtime; `faster` is against
the fine-tuned fp32 file in ONNX Runtime, `same_runtime_faster` against the fine-tuned fp32 net in the row's own runtime, turn by turn, on one thread. Peers that train
get as many epochs as the course's own cut here. With --idx everything is measured on MNIST's 10,000 test images, otherwise on the 1,000 embedded ones that are held out.
A peer that does not run leaves a row that says so. Finished rows are written at once and skipped the next time; trained and converted files are kept in bench/teachers."""
import contextlib, copy, errno, io, json, time
from dataclasses import asdict, replace
from functools import cached_property, partial
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import numpy as np, torch
from torch import nn
from fastai.torch_core import params, set_seed
from bench.compress import default, images, teacher_of
from bench.shared import arguments, command, here, keep, known, machine, read, same_images, unmixed
from finetune_course.backbone import head_name
from finetune_course.data import dataloaders
from finetune_course.evaluate import environment, mcnemar, measure, paired_difference, wilson
from finetune_course.export import Pixels, Reader, as_channels, channel_spec, export_onnx, load_model, save_model
from finetune_course.finetune import fit_, learner
from finetune_course.pipeline import Config, small_input
from finetune_course.prune import Tutor, prune_recover, recover_
from finetune_course.quantize import pixel_chain, quantize_onnx

runs = {1: 60, 64: 15}   # repetitions of a batch of so many

class Start:
    "What all peers get: the fine-tuned net of one seed, its file, images; and a folder for what they make."
    def __init__(self, seed, folder, epochs):
        self.seed, self.folder, self.epochs = seed, folder, epochs
        self.model, self.spec = teacher_of(default, seed, folder)
        self.work = here/'teachers'/f'peers-{seed}-{epochs}'
        self.work.mkdir(parents=True, exist_ok=True)
        self.sets = {}

    def images(self, px=default['size']):
        if px not in self.sets: self.sets[px] = images(default, px, self.seed, self.folder)
        return self.sets[px]
    def dls(self, spec):
        train, valid, _ = self.images(spec.px)
        return dataloaders(train, valid, default['bs'], spec.mean, spec.std)
    def calib(self, px=default['size']):   # every n-th training image, as `write_small` takes them
        train = self.images(px)[0]
        return train.take(range(0, len(train), max(1, len(train)//512)))
    def batches(self, bs=64):   # of calibration images, as the fine-tuned net reads them
        return [as_channels(x, len(self.spec.mean)) for x in self.calib().x.split(bs) if len(x) == bs]

    def once(self, name, make):
        "The file `name`, made by `make(path)` where it is not there yet"
        if not (path := self.work/name).exists():
            make(part := path.with_name(f'part-{name}'))
            if not path.exists(): part.rename(path)
        return path
    def trained(self, name, train):
        "Net, spec and seconds of training; `train()` gives net and spec"
        stem = self.work/name
        if not stem.with_suffix('.time').is_file():
            set_seed(self.seed)
            start = time.perf_counter()
            save_model(*train(), stem)
            stem.with_suffix('.time').write_text(f'{time.perf_counter()-start:.1f}')
        return *load_model(stem), float(stem.with_suffix('.time').read_text())
    @cached_property
    def base(self): return self.once('fine-tuned.onnx', partial(export_onnx, self.model, self.spec))
    @cached_property
    def preprocessed(self):   # as ONNX Runtime recommends before quantizing
        def make(path):
            from onnxruntime.quantization.shape_inference import quant_pre_process
            quant_pre_process(str(self.base), str(path))
        return self.once('preprocessed.onnx', make)

# ---- measuring

def onnx_row(s: Start, path, px=default['size'], **about):
    "A row of an ONNX file in ONNX Runtime, by the course's own ruler"
    row = asdict(measure({'fine-tuned': s.base, 'peer': path}, *(s.images(p)[2] for p in dict.fromkeys((default['size'], px))))[1])
    return {k: row[k] for k in row if k not in ('stage', 'file', 'gzip_bytes')} | dict(runs=runs, **about)

def race(xs, *nets):
    "Median milliseconds of each, A B C A B C; `nets` are (run, input) pairs' runs for the inputs `xs`"
    bs = len(xs[0])
    times, warmup = [[] for _ in nets], 10 if bs == 1 else 3
    for i in range(warmup + runs[bs]):
        for f, x, t in zip(nets, xs, times):
            start = time.perf_counter()
            f(x)
            if i >= warmup: t.append(time.perf_counter() - start)
    return [1000*float(np.median(t)) for t in times]

def in_onnxruntime(path):
    "A net as the other runtimes give it: batch size → function from pixels to logits, and channels and side of the images"
    r = Reader(path)
    return lambda bs: lambda x: r.session.run(None, {'images': x})[0], r.channels, r.px

def logits(net, x, bs=64):
    "Logits for all images; the last batch is filled up, since some runtimes compile for one batch size"
    run, c, _ = net
    f, x = run(bs), as_channels(x, c).numpy()
    return np.concatenate([f(np.resize(b, (bs, *b.shape[1:])))[:len(b)] for b in (x[i:i+bs] for i in range(0, len(x), bs))])

def other_row(s: Start, net, own, nbytes, runtime, **about):
    "A row of a net in another runtime; `own` is the fine-tuned fp32 net in that same runtime"
    first, rng = in_onnxruntime(s.base), np.random.default_rng(0)
    y = s.images()[2].y.numpy()
    right0, right = (logits(n, s.images(n[2])[2].x).argmax(1) == y for n in (first, net))
    lost, gained = int((right0 & ~right).sum()), int((right & ~right0).sum())
    row = dict(bytes=nbytes, accuracy=float(right.mean()))
    row['accuracy_low'], row['accuracy_high'] = wilson(int(right.sum()), len(y))
    row |= dict(n=len(y), image_size=net[2], runtime=f'{runtime}, 1 thread', lost=lost, gained=gained, difference_low=paired_difference(lost, gained, len(y))[1],
                p=mcnemar(lost, gained), smaller=s.base.stat().st_size/nbytes)
    for bs in runs:
        nets = first, net, own
        a, b, c = race([rng.integers(0, 256, (bs, n[1], n[2], n[2]), dtype=np.uint8) for n in nets], *(n[0](bs) for n in nets))
        row |= {f'latency_ms_b{bs}': b, f'faster_b{bs}': a/b, f'same_runtime_faster_b{bs}': c/b}
    return row | dict(runs=runs, **about)

def readable(src, dst, spec):
    "An ONNX file of another library, with labels and image size in it and its batch size free: as `Reader` takes it"
    import onnx
    m = onnx.load(src)
    for v in (*m.graph.input, *m.graph.output): v.type.tensor_type.shape.dim[0].dim_param = 'n'
    del m.graph.value_info[:]
    onnx.helper.set_model_props(m, {'labels': json.dumps(spec.vocab), 'image_size': str(spec.px)})
    onnx.save(m, dst)

# ---- this course

def our_net(s: Start, px):
    cfg = Config(size=default['size'], small_size=px, seed=s.seed)
    whole, spec = small_input(cfg, s.model, s.spec, grey=True)
    return s.trained(f'ours-{px}', lambda: prune_recover(whole, spec, s.dls(spec), .95, s.epochs, 1, Tutor(s.model, s.spec, spec), seed=s.seed)[:2])

def our_file(s: Start, px, int8):
    net, spec, seconds = our_net(s, px)
    path = s.once(f'ours-{px}.onnx', partial(export_onnx, net, spec))
    return (s.once(f'ours-{px}.int8.onnx', partial(quantize_onnx, path, spec=spec, calib=s.calib(px))) if int8 else path), seconds

def ours(s: Start, px, int8):
    path, seconds = our_file(s, px, int8)
    return onnx_row(s, path, px, seconds=seconds, epochs=s.epochs, recipe=f'R 0.95, {px} px, grey, teacher')

# ---- torch-pruning

def tp_cut(s: Start, ratio):
    "Its README: L2 norm of coupled weights, every layer alike, the classifier left alone, channels in multiples of 8; then training with labels"
    import torch_pruning as tp
    net = copy.deepcopy(s.model)
    last = [m for m in getattr(net, head_name(net)).modules() if isinstance(m, nn.Linear)]
    tp.pruner.BasePruner(net.eval(), torch.zeros(1, 3, s.spec.px, s.spec.px), importance=tp.importance.GroupMagnitudeImportance(p=2), pruning_ratio=ratio,
                         ignored_layers=last, round_to=8).step()
    net.zero_grad()
    recover_(net, s.dls(s.spec), s.epochs, seed=s.seed)
    return net, replace(s.spec, channels=channel_spec(net, s.spec))

def torch_pruning(s: Start, ratio, int8):
    net, spec, seconds = s.trained(f'torch-pruning {ratio}'.replace('.', '_'), lambda: tp_cut(s, ratio))
    path = s.once(f'torch-pruning {ratio}.onnx', partial(export_onnx, net, spec))
    if int8: path = s.once(f'torch-pruning {ratio}.int8.onnx', partial(quantize_onnx, path, spec=spec, calib=s.calib()))
    return onnx_row(s, path, seconds=seconds, epochs=s.epochs, recipe=f'one shot, local, round_to 8, labels{"; int8 by this course" if int8 else ""}')

# ---- fasterai

def fasterai_cut(s: Start, ratio):
    "Its tutorial: filters of the whole net by size, gradually over the first quarter of the epochs; the rest to recover"
    from fasterai.core.criteria import large_final
    from fasterai.core.schedule import one_cycle
    from fasterai.prune.all import PruneCallback
    net, epochs = copy.deepcopy(s.model), max(1, s.epochs//4)
    last = [m for m in getattr(net, head_name(net)).modules() if isinstance(m, nn.Linear)]
    net.requires_grad_(True)
    cut = PruneCallback(pruning_ratio=ratio, context='global', criteria=large_final, schedule=one_cycle, ignored_layers=last,
                        example_inputs=torch.zeros(1, 3, s.spec.px, s.spec.px))
    with contextlib.redirect_stdout(io.StringIO()): fit_(learner(s.dls(s.spec), net, splitter=params), epochs, 1e-2, seed=s.seed, cbs=cut)
    net.zero_grad()
    if s.epochs > epochs: recover_(net, s.dls(s.spec), s.epochs-epochs, seed=s.seed)
    return net, replace(s.spec, channels=channel_spec(net, s.spec))

def fasterai_file(s: Start, net, spec, mode, path):
    "Written by fasterai's own `export_onnx`, in fp32 or with its int8"
    from fasterai.export.all import export_onnx as export
    net = Pixels(copy.deepcopy(net).to(memory_format=torch.contiguous_format), spec.mean, spec.std).eval()
    batches = s.batches()
    with contextlib.redirect_stdout(io.StringIO()):
        out = export(net, batches[0], path.with_suffix('.raw.onnx'), quantize=mode != 'fp32', quantize_mode=mode, calibration_data=batches, input_names=['images'], output_names=['logits'])
    readable(out, path, spec)

def fasterai(s: Start, ratio, mode):
    net, spec, seconds = s.trained(f'fasterai {ratio}'.replace('.', '_'), lambda: fasterai_cut(s, ratio))
    path = s.once(f'fasterai {ratio} {mode}.onnx', partial(fasterai_file, s, net, spec, mode))
    return onnx_row(s, path, seconds=seconds, epochs=s.epochs, recipe=f'PruneCallback: global, large_final, one_cycle, the first quarter of the epochs; export_onnx {mode}')

def fasterai_pt2e(s: Start):
    "fasterai's newest quantizer, on the unpruned net"
    from fasterai.quantize.all import Quantizer
    net = Pixels(copy.deepcopy(s.model), s.spec.mean, s.spec.std).eval()
    q = Quantizer(backend='pt2e').quantize(net, [(x, None) for x in s.batches()])
    from fasterai.export.all import export_qdq
    path = s.once('fasterai pt2e.onnx', lambda p: readable(export_qdq(q, s.batches()[0], p.with_suffix('.raw.onnx'), input_names=['images'], output_names=['logits']), p, s.spec))
    return onnx_row(s, path, recipe="Quantizer(backend='pt2e'), export_qdq")

# ---- ONNX Runtime alone

def ort_static(s: Start):
    "Its documentation: pre-process, then QDQ with signed weights and activations, one scale a tensor"
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, quantize_static
    class Batches(CalibrationDataReader):
        def __init__(self): self.it = iter(s.batches())
        def get_next(self): return {'images': x.numpy()} if (x := next(self.it, None)) is not None else None
    def make(path):
        m = onnx.load(s.preprocessed)
        for i, n in enumerate(m.graph.node): n.name = f'n{i}'
        quantize_static(m, str(path), Batches(), nodes_to_exclude=[n.name for n in pixel_chain(m)])
        readable(path, path, s.spec)
    return onnx_row(s, s.once('ort static.onnx', make), recipe='quant_pre_process, quantize_static: S8S8, per tensor; pixel scaling left out of it')

def ort_ours(s: Start):
    path = s.once('ort ours.onnx', partial(quantize_onnx, s.base, spec=s.spec, calib=s.calib()))
    return onnx_row(s, path, recipe="the course's settings: U8S8, per channel")

def ort_dynamic(s: Start, weights):
    "Its quantize_dynamic; as signed weights, its default, or unsigned ones"
    from onnxruntime.quantization import QuantType, quantize_dynamic
    def make(path):
        quantize_dynamic(str(s.preprocessed), str(path), weight_type=getattr(QuantType, weights))
        readable(path, path, s.spec)
    return onnx_row(s, s.once(f'ort dynamic {weights}.onnx', make), recipe=f'quant_pre_process, quantize_dynamic, weights {weights}')

# ---- torchao and Inductor

def captured(net, x): return torch.export.export(net, (x,), dynamic_shapes=({0: torch.export.Dim('n')},), strict=True)

def in_inductor(net, c, px):
    "Compiled for one batch size at a time, weights frozen, for one thread"
    import torch._inductor.config as cfg
    cache = {}
    torch._dynamo.reset()   # of what others compiled; later it would take away what is in `cache`
    def run(bs):
        torch.set_num_threads(1)
        if bs not in cache:
            f = torch.compile(copy.deepcopy(net), dynamic=False)
            def go(x):
                with torch.no_grad(): return f(torch.from_numpy(x)).numpy()
            with cfg.patch(freezing=True): go(np.zeros((bs, c, px, px), np.uint8))   # as an option of `compile` it fails on int8
            cache[bs] = go
        return cache[bs]
    return run, c, px

def inductor(s: Start, int8):
    net, batches = Pixels(copy.deepcopy(s.model).to(memory_format=torch.channels_last), s.spec.mean, s.spec.std).eval(), s.batches()
    def save(m): return s.once(f'inductor {"int8" if int8 else "fp32"}.pt2', lambda p: torch.export.save(captured(m, batches[0]), p))
    own, about = in_inductor(net, 3, s.spec.px), dict(runtime=f'torch.compile (Inductor) {torch.__version__}')
    if not int8: return other_row(s, own, own, save(net).stat().st_size, **about, recipe='torch.compile, freezing, channels_last; bytes: torch.export.save')
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
    from torchao.quantization.pt2e.quantizer.x86_inductor_quantizer import X86InductorQuantizer, get_default_x86_inductor_quantization_config
    with torch.no_grad():
        m = prepare_pt2e(captured(net, batches[0]).module(), X86InductorQuantizer().set_global(get_default_x86_inductor_quantization_config()))
        for x in batches: m(x)
        m = convert_pt2e(m)
    return other_row(s, in_inductor(m, 3, s.spec.px), own, save(m).stat().st_size, **about,
                     recipe='X86InductorQuantizer, default configuration; torch.compile, freezing; bytes: torch.export.save')

# ---- OpenVINO and nncf

def in_openvino(model, c, px):
    import openvino as ov
    cache = {}
    def run(bs):
        if bs not in cache:
            m = model.clone()
            m.reshape([bs, c, px, px])
            opts = dict(INFERENCE_NUM_THREADS=1, NUM_STREAMS=1, PERFORMANCE_HINT='LATENCY', INFERENCE_PRECISION_HINT='f32')
            r = ov.Core().compile_model(m, 'CPU', opts).create_infer_request()
            cache[bs] = lambda x: r.infer([x], share_inputs=True)[0].copy()
        return cache[bs]
    return run, c, px

def openvino(s: Start, what):
    import openvino as ov
    core, about = ov.Core(), dict(runtime=f'OpenVINO {version("openvino")}, INFERENCE_PRECISION_HINT f32')
    def load(path): return in_openvino(core.read_model(path), *in_onnxruntime(path)[1:])
    own, path = load(s.base), s.base
    if what.startswith('ours'):
        path, about['seconds'] = our_file(s, 28, what == 'ours int8')
        about['epochs'] = s.epochs
    if what != 'nncf': return other_row(s, load(path), own, path.stat().st_size, **about, recipe='the same ONNX file as in ONNX Runtime')
    import nncf
    def make(p):
        q = nncf.quantize(core.read_model(s.base), nncf.Dataset([x.numpy() for x in s.batches(1)]))
        p.mkdir(exist_ok=True)
        ov.save_model(q, p/'model.xml')
    folder = s.once('nncf', make)
    return other_row(s, in_openvino(core.read_model(folder/'model.xml'), 3, s.spec.px), own, sum(f.stat().st_size for f in folder.iterdir()), **about,
                     recipe='nncf.quantize, defaults (300 calibration images one by one); bytes: .xml and .bin')

peers = {   # name → packages, function
    **{f'ours, {px} px{", int8" if int8 else ""}': ((), partial(ours, px=px, int8=int8)) for px in (28, 48) for int8 in (False, True)},
    **{f'torch-pruning one-shot {r}{", int8" if int8 else ""}': (('torch-pruning',), partial(torch_pruning, ratio=r, int8=int8)) for r in (.7, .9) for int8 in (False, True)},
    **{f'fasterai {r}, {mode}': (('fasterai',), partial(fasterai, ratio=r, mode=mode)) for r in (.4, .8) for mode in ('fp32', 'static', 'dynamic')},
    'fasterai pt2e': (('fasterai', 'torchao'), fasterai_pt2e),
    'ONNX Runtime int8, its defaults': ((), ort_static), 'ONNX Runtime int8, our settings': ((), ort_ours),
    **{f'ONNX Runtime dynamic int8, {w}': ((), partial(ort_dynamic, weights=w)) for w in ('QInt8', 'QUInt8')},
    'Inductor fp32': ((), partial(inductor, int8=False)), 'Inductor, torchao PT2E int8': (('torchao',), partial(inductor, int8=True)),
    **{f'OpenVINO, {what}': (('openvino', 'nncf'), partial(openvino, what=what)) for what in ('fine-tuned', 'nncf', 'ours fp32', 'ours int8')},
}

def first_line(e):
    lines = str(e).strip().splitlines() or ['']
    return f'does not run: {type(e).__name__}: {lines[0]}'.replace(str(here.parent), '.').replace(str(Path.home()), '~')

def main():
    a = arguments(__doc__, 'peers.json')
    a.add_argument('peer', nargs='*', help=f'beginnings of: {"; ".join(peers)}')
    a.add_argument('--seeds', type=int, nargs='+', default=[0])
    a.add_argument('--epochs', type=int, default=24, help='of each training after a cut; default: 24')
    a.add_argument('--idx', type=Path, help="folder with MNIST's four files")
    a = a.parse_args()
    chosen = [n for n in peers if not a.peer or n.startswith(tuple(a.peer))]
    known([p for p in a.peer if not any(n.startswith(p) for n in chosen)], peers)
    done, threads = read(a.out, rows=[]), torch.get_num_threads()
    unmixed(a.out, 'the machine', [machine(r['environment']) for r in done['rows']], machine(environment()))
    unmixed(a.out, '--epochs', [r['epochs'] for r in done['rows'] if 'epochs' in r], a.epochs)
    unmixed(a.out, 'test images', [r['n'] for r in done['rows'] if 'n' in r], len(images(default, 28, 0, a.idx)[2]), same_images)
    for seed in a.seeds:
        start = None
        for name in chosen:
            needs, peer = peers[name]
            if any((r['peer'], r['seed']) == (name, seed) for r in done['rows']): continue
            if missing := [p for p in needs if not find_spec(p.replace('-', '_'))]: print(f"{name}: needs {', '.join(missing)}; pip install -e '.[peers]'"); continue
            start = start or Start(seed, a.idx, a.epochs)
            torch.set_num_threads(threads)   # one peer measures with a single one
            try: row = peer(start)
            except Exception as e:   # the row is the result: on these versions it does not run
                if getattr(e, 'errno', None) == errno.ENOSPC: raise   # the disk is full
                row = dict(note=first_line(e))
            done['rows'].append(dict(peer=name, seed=seed, versions={p: version(p) for p in needs}, environment=environment(), **row))
            keep(a.out, done)
            print(f'{name}, seed {seed}:', row.get('note') or f'{row["bytes"]:,} bytes, {row["accuracy"]:.4f} (lost {row["lost"]}, gained {row["gained"]}, p {row["p"]:.3f}), '
                  f'{row["latency_ms_b1"]:.3f}/{row["latency_ms_b64"]:.2f} ms, {row["faster_b1"]:.1f}/{row["faster_b64"]:.1f} times faster, {row["runtime"]}', flush=True)

if __name__ == '__main__': command(main)
