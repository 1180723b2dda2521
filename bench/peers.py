"""Libraries that make nets small, beside this course: one fine-tuned net to start from, the same images.

    pip install -e '.[peers]'
    python -m bench.peers [PEER ...] [--seeds 0] [--epochs 24] [--mnist FOLDER]

Each peer is used as its documentation recommends; what had to be settled otherwise stands in its `recipe`.
`faster` is against the fine-tuned fp32 file in ONNX Runtime, `same_runtime_faster` against the fine-tuned net
in the peer's own runtime, turn by turn on one thread. Those that train have --epochs for it, after the cut.
A peer that does not run leaves a record that says so."""
import contextlib, copy, errno, io, json, tempfile
from dataclasses import replace
from functools import cache, partial
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import onnx, torch
from torch import nn
from fastai.torch_core import params, set_seed
from bench.compress import fine_tuned, images, nets, size, whole_net
from bench.harness import here, main, mnist, seeds, test_images
from bench.runtimes import answers, in_inductor, in_onnxruntime, in_openvino, latencies
from finetune_course.base.modules import head_name
from finetune_course.data import dataloaders
from finetune_course.evaluate import measure
from finetune_course.base.images import as_channels
from finetune_course.export import Candidate, PixelModel, channel_spec, export_onnx
from finetune_course.finetune import fit_, learner
from finetune_course.prune import cut_channels_, recover_
from finetune_course.app.schedule import prune_recover
from finetune_course.base.resizing import ResizingTeacher
from finetune_course.quantize import pixel_nodes, quantize_onnx

class Start:
    "What all peers get: the fine-tuned net of one seed, its file, images, and a folder for what they make"
    batch_size, aug = 64, None   # as `dataloaders` takes them
    def __init__(self, seed, folder, epochs):
        self.seed, self.folder, self.epochs, self.tmp = seed, folder, epochs, tempfile.TemporaryDirectory()
        self.whole = self.fine_tuned()
        self.model, self.spec = self.whole
        self.size = self.spec.px
        self.base = export_onnx(self.whole, self.file('fine-tuned.onnx'))

    def fine_tuned(self): return fine_tuned(self.seed)
    def file(self, name): return Path(self.tmp.name)/name
    def images(self, px): return images('4,000', px, self.seed, self.folder)

    def dls(self, spec):
        train, valid, _ = self.images(spec.px)
        set_seed(self.seed)
        return dataloaders(train, valid, self.batch_size, spec.mean, spec.std, self.aug)

    def calib(self, px=None):   # every n-th training image, as `export_small` takes them
        train = self.images(px or self.size)[0]
        return train.take(range(0, len(train), max(1, len(train)//512)))

    def batches(self, bs=64):   # of calibration images, as the fine-tuned net reads them
        def batch(x): return torch.from_numpy(as_channels(x.numpy(), len(self.spec.mean)))
        return [batch(x) for x in self.calib().x.split(bs) if len(x) == bs]

    def pixels_net(self): return PixelModel(copy.deepcopy(self.model), self.spec.mean, self.spec.std).eval()

# ---- measuring

def onnx_result(s: Start, path, recipe, px=None):
    "Of an ONNX file in ONNX Runtime, by the course's own ruler"
    tests = [s.images(p)[2] for p in dict.fromkeys((s.size, px or s.size))]
    row = measure({'fine-tuned': s.base, 'peer': path}, *tests)[1]
    keys = 'bytes accuracy accuracy_low accuracy_high n lost gained faster_b1 faster_b64 runtime'
    return {k: getattr(row, k) for k in keys.split()} | dict(recipe=recipe)

def other_result(s: Start, net, own, nbytes, runtime, recipe):
    "Of a net in another runtime; `own` is the fine-tuned fp32 net in that same runtime"
    first, y = in_onnxruntime(s.base), s.images(s.size)[2].y.numpy()
    was, right = (answers(n, s.images(n.px)[2].x) == y for n in (first, net))
    result = dict(bytes=nbytes, accuracy=float(right.mean()), n=len(y), lost=int((was & ~right).sum()),
                  gained=int((right & ~was).sum()), runtime=f'{runtime}, 1 thread', recipe=recipe)
    for bs, runs, warmup in (1, 60, 10), (64, 15, 3):
        a, b, c = latencies(bs, runs, warmup, first, net, own)
        result |= {f'faster_b{bs}': a/b, f'same_runtime_faster_b{bs}': c/b}
    return result

def readable(src, dst, spec):
    "An ONNX file of another library with labels, image size and any number of images, as `Predictor` takes it"
    model = onnx.load(src)
    for v in (*model.graph.input, *model.graph.output): v.type.tensor_type.shape.dim[0].dim_param = 'n'
    del model.graph.value_info[:]
    onnx.helper.set_model_props(model, {'labels': json.dumps(spec.vocab), 'image_size': str(spec.px)})
    onnx.save(model, dst)
    return dst

# ---- this course, and nets that torch-pruning and fasterai cut

@cache
def our_net(s: Start, px):
    net = dict(nets['R 0.95'], px=px)
    whole = whole_net(net, s.whole, s.seed)
    teacher = ResizingTeacher(s.whole, whole.spec)
    return prune_recover(whole, s.dls(whole.spec), net['ratio'], s.epochs, teacher=teacher, seed=s.seed)[0]

def last_layers(net): return [m for m in getattr(net, head_name(net)).modules() if isinstance(m, nn.Linear)]

@cache
def tp_net(s: Start, ratio):
    "Its README: L2 norm of coupled weights, every layer alike, the classifier left alone, then training"
    net = cut_channels_(copy.deepcopy(s.model), s.size, ratio)
    net.zero_grad()
    recover_(net, s.dls(s.spec), s.epochs, seed=s.seed)
    return Candidate(net, replace(s.spec, channels=channel_spec(net, s.spec)))

def our_file(s: Start, made, name, int8=False):
    "A candidate as one of the course's files"
    spec, path = made.spec, export_onnx(made, s.file(f'{name}.onnx'))
    return quantize_onnx(path, s.file(f'{name}.int8.onnx'), spec, s.calib(spec.px)) if int8 else path

def ours(s: Start, px, int8):
    return onnx_result(s, our_file(s, our_net(s, px), 'ours', int8), f'R 0.95, {px} px, grey, teacher', px)

def torch_pruning(s: Start, ratio, int8):
    recipe = f'one shot, local, round_to 8, labels{"; int8 by this course" if int8 else ""}'
    return onnx_result(s, our_file(s, tp_net(s, ratio), 'tp', int8), recipe)

@cache
def fasterai_net(s: Start, ratio):
    "Its tutorial: filters of the whole net by size, gradually over the first quarter of the epochs"
    from fasterai.core.criteria import large_final
    from fasterai.core.schedule import one_cycle
    from fasterai.prune.all import PruneCallback
    net, epochs, dls = copy.deepcopy(s.model).requires_grad_(), max(1, s.epochs//4), s.dls(s.spec)
    cut = PruneCallback(pruning_ratio=ratio, context='global', criteria=large_final, schedule=one_cycle,
                        ignored_layers=last_layers(net), example_inputs=torch.zeros(1, 3, s.size, s.size))
    fit_(learner(dls, net, splitter=params), epochs, 1e-2, seed=s.seed, cbs=cut)
    net.zero_grad()
    if s.epochs > epochs: recover_(net, s.dls(s.spec), s.epochs - epochs, seed=s.seed)
    return PixelModel(net.to(memory_format=torch.contiguous_format), s.spec.mean, s.spec.std).eval()

def fasterai(s: Start, ratio, mode):
    "Written by fasterai's own `export_onnx`, in fp32 or with its int8"
    from fasterai.export.all import export_onnx as export
    net = copy.deepcopy(fasterai_net(s, ratio))
    with contextlib.redirect_stdout(io.StringIO()):
        out = export(net, s.batches()[0], s.file('raw.onnx'), quantize=mode != 'fp32', quantize_mode=mode,
                     calibration_data=s.batches(), input_names=['images'], output_names=['logits'])
    recipe = 'PruneCallback: global, large_final, one_cycle, the first quarter of the epochs; export_onnx '
    return onnx_result(s, readable(out, s.file('fasterai.onnx'), s.spec), recipe + mode)

def fasterai_pt2e(s: Start):
    "fasterai's newest quantizer, on the unpruned net"
    from fasterai.export.all import export_qdq
    from fasterai.quantize.all import Quantizer
    q = Quantizer(backend='pt2e').quantize(s.pixels_net(), [(x, None) for x in s.batches()])
    out = export_qdq(q, s.batches()[0], s.file('raw.onnx'), input_names=['images'], output_names=['logits'])
    path = readable(out, s.file('fasterai.onnx'), s.spec)
    return onnx_result(s, path, "Quantizer(backend='pt2e'), export_qdq")

# ---- ONNX Runtime alone

def preprocessed(s: Start):
    from onnxruntime.quantization.shape_inference import quant_pre_process
    quant_pre_process(str(s.base), path := str(s.file('preprocessed.onnx')))
    return path

def ort_static(s: Start):
    "Its documentation: pre-process, then QDQ with signed weights and activations, one scale a tensor"
    from onnxruntime.quantization import CalibrationDataReader, quantize_static
    class Batches(CalibrationDataReader):
        left = iter(s.batches())
        def get_next(self): return next(({'images': x.numpy()} for x in self.left), None)
    model, path = onnx.load(preprocessed(s)), s.file('static.onnx')
    for i, n in enumerate(model.graph.node): n.name = f'n{i}'
    quantize_static(model, str(path), Batches(), nodes_to_exclude=[n.name for n in pixel_nodes(model)])
    recipe = 'quant_pre_process, quantize_static: S8S8, per tensor; pixel scaling left out of it'
    return onnx_result(s, readable(path, path, s.spec), recipe)

def ort_ours(s: Start):
    path = quantize_onnx(s.base, s.file('ours.onnx'), s.spec, s.calib())
    return onnx_result(s, path, "the course's settings: U8S8, per channel")

def ort_dynamic(s: Start, weights):
    "Its quantize_dynamic; as signed weights, its default, or unsigned ones"
    from onnxruntime.quantization import QuantType, quantize_dynamic
    path = s.file('dynamic.onnx')
    quantize_dynamic(preprocessed(s), str(path), weight_type=getattr(QuantType, weights))
    recipe = f'quant_pre_process, quantize_dynamic, weights {weights}'
    return onnx_result(s, readable(path, path, s.spec), recipe)

# ---- torchao and Inductor

def captured(net, x):
    return torch.export.export(net, (x,), dynamic_shapes=({0: torch.export.Dim('n')},), strict=True)

def inductor(s: Start, int8):
    net, batches = s.pixels_net().to(memory_format=torch.channels_last), s.batches()
    own, program = in_inductor(net, s.size), captured(net, batches[0])
    model, recipe = own, 'torch.compile, freezing, channels_last; bytes: torch.export.save'
    if int8:
        from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
        from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86
        settings = x86.get_default_x86_inductor_quantization_config()
        with torch.no_grad():
            m = prepare_pt2e(program.module(), x86.X86InductorQuantizer().set_global(settings))
            for x in batches: m(x)
            m = convert_pt2e(m)
        model, program = in_inductor(m, s.size), captured(m, batches[0])
        recipe = ('X86InductorQuantizer, default configuration; torch.compile, freezing; '
                  'bytes: torch.export.save')
    torch.export.save(program, path := s.file('inductor.pt2'))
    runtime = f'torch.compile (Inductor) {torch.__version__}'
    return other_result(s, model, own, path.stat().st_size, runtime, recipe)

# ---- OpenVINO and nncf

def openvino_result(s: Start, path, nbytes, recipe):
    import openvino as ov
    core, runtime = ov.Core(), f'OpenVINO {version("openvino")}, INFERENCE_PRECISION_HINT f32'
    net, own = (in_openvino(core.read_model(p)) for p in (path, s.base))
    return other_result(s, net, own, nbytes, runtime, recipe)

def openvino_file(s: Start, int8=None):
    "The fine-tuned file, or ours in one of its precisions"
    path = s.base if int8 is None else our_file(s, our_net(s, 28), 'ours', int8)
    return openvino_result(s, path, path.stat().st_size, 'the same ONNX file as in ONNX Runtime')

def openvino_nncf(s: Start):
    import nncf, openvino as ov
    images = nncf.Dataset([x.numpy() for x in s.batches(1)])
    ov.save_model(nncf.quantize(ov.Core().read_model(s.base), images), path := s.file('nncf.xml'))
    recipe = 'nncf.quantize, defaults (300 calibration images one by one); bytes: .xml and .bin'
    return openvino_result(s, path, sum(f.stat().st_size for f in Path(s.tmp.name).glob('nncf.*')), recipe)

# ---- all of them

peers = {   # name → function of `Start`, the packages it needs
    **{f'ours, {px} px{", int8"*i}': (partial(ours, px=px, int8=i),)
       for px in (28, 48) for i in (False, True)},
    **{f'torch-pruning one-shot {r}{", int8"*i}': (partial(torch_pruning, ratio=r, int8=i), 'torch-pruning')
       for r in (.7, .9) for i in (False, True)},
    **{f'fasterai {r}, {mode}': (partial(fasterai, ratio=r, mode=mode), 'fasterai')
       for r in (.4, .8) for mode in ('fp32', 'static', 'dynamic')},
    'fasterai pt2e': (fasterai_pt2e, 'fasterai', 'torchao'),
    'ONNX Runtime int8, its defaults': (ort_static,), 'ONNX Runtime int8, our settings': (ort_ours,),
    **{f'ONNX Runtime dynamic int8, {w}': (partial(ort_dynamic, weights=w),) for w in ('QInt8', 'QUInt8')},
    'Inductor fp32': (partial(inductor, int8=False),),
    'Inductor, torchao PT2E int8': (partial(inductor, int8=True), 'torchao'),
    'OpenVINO, fine-tuned': (openvino_file, 'openvino', 'nncf'),
    'OpenVINO, nncf': (openvino_nncf, 'openvino', 'nncf'),
    'OpenVINO, ours fp32': (partial(openvino_file, int8=False), 'openvino', 'nncf'),
    'OpenVINO, ours int8': (partial(openvino_file, int8=True), 'openvino', 'nncf'),
}

def try_peer(peer, start, threads):
    "That it does not run is a result too"
    torch.set_num_threads(threads)   # one peer measures with a single one
    try: return peer(start())
    except Exception as e:
        if getattr(e, 'errno', None) == errno.ENOSPC: raise   # the disk is full
        first, *_ = str(e).strip().splitlines() or ['']
        note = f'does not run: {type(e).__name__}: {first}'
        return dict(note=note.replace(str(here.parent), '.').replace(str(Path.home()), '~'))

def measure_each(results, chosen, about, seed, start, same=('test', 'epochs')):
    "One record a peer, beside the settings in `about`; `start()` makes what they start from"
    start, threads = cache(start), torch.get_num_threads()
    for name, (peer, *needs) in chosen.items():
        if missing := [p for p in needs if not find_spec(p.replace('-', '_'))]:
            print(f"{name}: needs {', '.join(missing)}; pip install -e '.[peers]'")
            continue
        results.once('peers', dict(peer=name) | about, seed, partial(try_peer, peer, start, threads),
                     timed=True, same=same, more=needs)

def measure_peers(results, a, names):
    about = dict(epochs=a.epochs, test=test_images(a.mnist, size)[0])
    for seed in a.seeds:
        start = partial(Start, seed, a.mnist, a.epochs)
        measure_each(results, {name: peers[name] for name in names}, about, seed, start)

one_seed = dict(seeds, default=[0], help='default: 0')
epochs = dict(type=int, default=24, help='default: 24')
experiments = dict(peers=(measure_peers, peers))
command = partial(main, 'compress', __doc__, experiments, seeds=one_seed, epochs=epochs, mnist=mnist)

if __name__ == '__main__': command()
