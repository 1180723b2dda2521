"""How small can a net get, and at what cost?

    python -m bench.compress nets [NET ...] [--seeds 0] [--mnist FOLDER]   # train, quantize, measure
    python -m bench.compress speed [NET ...]                               # time the same shapes, untrained

Nets that are not "from scratch" start from the one that was fine-tuned on the embedded 4,000 images. If they
are taught, it is their teacher; those "taught by nine" learn from answers of the nets of bench.recipes to
copies of all 60,000. Those named "full MNIST" train on the 60,000 (a twentieth chooses, which the nine
learned from too), the others on the 4,000. What is fine-tuned once is kept in bench/teachers."""
import tempfile, time
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np, onnx, torch
from onnxruntime import InferenceSession, SessionOptions
from fastai.torch_core import params, set_seed
from bench.harness import flops, main, mnist, nets_folder, refuse, seeds, test_images
from bench.recipes import fresh_pupil
from bench.training import answered, towards
from finetune_course.backbone import create_pretrained, pixel_stats, plain_cnn, replace_head_
from finetune_course.data import dataloaders, idx_folder, load, split
from finetune_course.evaluate import latency, measure
from finetune_course.export import Candidate, Spec, export_onnx, load_model, save_model
from finetune_course.finetune import fit_, learner
from finetune_course.app.config import Config, digit_recipe
from finetune_course.app.search import export_small, randomize_bn_biases_, starting_candidate, with_small_input
from finetune_course.prune import accuracy_of, recover_
from finetune_course.app.schedule import prune_recover
from finetune_course.shrink import prune
from finetune_course.base.resizing import ResizingTeacher
from finetune_course.teacher import DistillationCallback

size, vocab = 48, [str(i) for i in range(10)]   # pixels that the fine-tuned net reads; its classes
common = dict(train='4,000', px=28, epochs=40, batch_size=64, teacher='fine-tuned')
cut = dict(common, start='fine-tuned', ratio=.95, round_to=8, cuts=1)
cut_20_kb = dict(cut, ratio=.972, round_to=4)
schedule = dict(cut, ratio=.962, round_to=4, epochs=24)   # one final size, however often it is cut
plain = dict(common, start='plain', width=24)
plain_20_kb = dict(plain, width=13)
full = dict(train='60,000', epochs=16, batch_size=128, teacher=None)
full_plain_20_kb = dict(plain_20_kb, **full)

def both(name, net): return {name: net, f'{name}, no teacher': dict(net, teacher=None)}

nets = {
    **both('one-shot', schedule), **both('iterative', dict(schedule, cuts=4)),
    **both('R 0.95', cut), **both('R 0.95, from scratch', dict(cut, start='scratch')),
    **both('20 KB', cut_20_kb),
    **{f'R 0.95, {px} px, no teacher': dict(cut, px=px, teacher=None) for px in (20, 36, 48)},
    **both('plain CNN, from scratch', plain), **both('20 KB, plain CNN, from scratch', plain_20_kb),
    '37 KB, plain CNN, from scratch, no teacher': dict(plain, width=18, teacher=None),
    'full MNIST, 20 KB': dict(cut_20_kb, **full),
    'full MNIST, 20 KB, plain CNN, from scratch': full_plain_20_kb,
    'full MNIST, 20 KB, plain CNN, from scratch, taught by nine': dict(full_plain_20_kb, teacher='nine nets'),
}

# ---- what they start from

def images(train, px, seed, folder):
    "Training, validation and reported images of one size; on MNIST `names` are places among all 60,000"
    if train == '60,000':
        rest, share = idx_folder(folder, px, ['train'])[0], .05
        rest.names = [*range(len(rest))]
    else: rest, share = load('mnist5k', px)[0], .1
    return *split(rest, share, seed), test_images(folder, px)[1]

def fine_tuned(seed):
    "The net that all cut nets of this seed start from, trained once"
    stem, cfg = nets_folder/f'mnist5k-{size}-{seed}', Config(**digit_recipe | dict(size=size, seed=seed))
    if not stem.with_suffix('.json').is_file():
        nets_folder.mkdir(exist_ok=True)
        train, valid, _ = images('4,000', size, seed, None)
        whole = starting_candidate(cfg, vocab)
        dls = dataloaders(train, valid, cfg.batch_size, whole.spec.mean, whole.spec.std)
        fit_(learner(dls, whole.net), cfg.epochs, seed=seed)
        save_model(whole, stem)
    return load_model(stem)

def whole_net(net, start, seed=0):
    "The net before the cut: `start`, or the same with random weights, for smaller grey images"
    cfg = Config(**digit_recipe | dict(size=size, small_size=net['px'], seed=seed))
    set_seed(seed)
    if net['start'] == 'scratch': start = starting_candidate(replace(cfg, weights='random'), vocab)
    return with_small_input(start, cfg.small_px, grey=True)

# ---- nets, trained

def teach_(small, spec, net, train, valid, seed, folder):
    "One pass through as many copies of the images as there are epochs, which nine nets answered, in place"
    copies, n = answered(fresh_pupil, folder, torch.device('cpu')), len(train) + len(valid)
    places = n*torch.arange(net['epochs'])[:, None] + torch.tensor(train.names)
    dls = dataloaders(copies.take(places.flatten()), valid, net['batch_size'], spec.mean, spec.std, aug=[])
    loss = partial(towards, temperature=fresh_pupil.temperature)
    fit_(learner(dls, small, splitter=params, loss_func=loss), 1, 1e-2, seed=seed)

def train_net(net, start, train, valid, seed, folder):
    "A small net and its validation accuracy; `start` is the fine-tuned one"
    whole = whole_net(net, start, seed)
    spec = whole.spec
    dls = dataloaders(train, valid, net['batch_size'], spec.mean, spec.std)
    teacher = ResizingTeacher(start, spec) if net['teacher'] == 'fine-tuned' else None
    if net['start'] != 'plain':
        small, _ = prune_recover(whole, dls, net['ratio'], net['epochs'], net['cuts'], teacher, net['round_to'],
                                 seed=seed)
    else:
        small = Candidate(plain_cnn(net['width'], len(spec.mean), len(vocab)), spec)
        if net['teacher'] == 'nine nets': teach_(small.net, spec, net, train, valid, seed, folder)
        else:
            cbs = [DistillationCallback(teacher)] if teacher else []
            recover_(small.net, dls, net['epochs'], cbs=cbs, seed=seed)
    return small, accuracy_of(small.net, dls.valid)

def measure_net(net, seed, folder):
    "Of the int8 file, if not said otherwise"
    whole = fine_tuned(seed)
    train, valid, test = images(net['train'], net['px'], seed, folder)
    start = time.perf_counter()
    small, valid_accuracy = train_net(net, whole, train, valid, seed, folder)
    seconds = round(time.perf_counter() - start, 1)
    with tempfile.TemporaryDirectory() as tmp:
        files = {name: Path(tmp)/f'{name}.onnx' for name in ('fine-tuned', 'fp32', 'int8')}
        export_onnx(whole, files['fine-tuned'])
        export_small(small, train, [files['fp32'], files['int8']])
        first, fp32, int8 = measure(files, test_images(folder, size)[1], test, speed=False)
    keys = 'bytes', 'params', 'accuracy', 'accuracy_low', 'accuracy_high', 'n'
    return dict({k: getattr(int8, k) for k in keys}, valid_accuracy=valid_accuracy, fp32_bytes=fp32.bytes,
                fp32_accuracy=fp32.accuracy, fine_tuned_accuracy=first.accuracy, seconds=seconds)

def train_nets(results, a, names):
    for name in names:
        net = nets[name]
        if net['train'] == '60,000' and not a.mnist: refuse(f'{name!r} trains on MNIST: add --mnist FOLDER.')
        settings = dict(net=name, **net, test=test_images(a.mnist, size)[0])
        for seed in a.seeds: results.once('nets', settings, seed, partial(measure_net, net, seed, a.mnist))

# ---- their shapes, timed

def shape(name):
    "An untrained net that costs what the trained one does; and the whole one"
    net, arch = nets[name], Config().arch
    start = Candidate(replace_head_(create_pretrained(arch), len(vocab)), Spec(arch, vocab, size, *pixel_stats(arch)))
    small = whole_net(net, start)
    if net['start'] == 'plain': small = small._replace(net=plain_cnn(net['width'], len(small.spec.mean), len(vocab)))
    else: small = prune(small, net['ratio'], net['round_to'])
    randomize_bn_biases_(small.net)
    return small, start

product = """<ir_version: 10, opset_import: ["": 20]>
peak (uint8[1024, 1024] a) => (uint8[1024, 1024] y)
<float scale = {0.01}, float y_scale = {50.0}, uint8 middle = {128}, int8 zero = {0}>
{ y = QLinearMatMul(a, scale, middle, b, scale, zero, y_scale, middle) }"""

def int8_peak():
    "Operations a nanosecond of one thread in a large matrix product: the most that ONNX Runtime reaches here"
    rng, model, one_thread = np.random.default_rng(0), onnx.parser.parse_model(product), SessionOptions()
    b = rng.integers(-127, 128, (1024, 1024), np.int8)
    model.graph.initializer.append(onnx.numpy_helper.from_array(b, 'b'))
    one_thread.intra_op_num_threads = 1
    session = InferenceSession(model.SerializeToString(), one_thread, providers=['CPUExecutionProvider'])
    a, seconds = rng.integers(0, 256, (1024, 1024), np.uint8), []
    for _ in range(15):
        start = time.perf_counter()
        session.run(None, {'a': a})
        seconds.append(time.perf_counter() - start)
    return 2*1024**3/np.median(seconds[3:])/1e9

def time_shape(name):
    "Against the fine-tuned fp32 file at its own size, turn by turn, one image or 64 at a time"
    small, start = shape(name)
    channels, px = len(small.spec.mean), small.spec.px
    with tempfile.TemporaryDirectory() as tmp:
        base, fp32, int8 = (Path(tmp)/f'{name}.onnx' for name in ('fine-tuned', 'fp32', 'int8'))
        export_onnx(start, base)
        export_small(small, load('mnist5k', px)[0], [fp32, int8])
        (base_1, one), (base_64, many) = latency(base, int8), latency(base, int8, 64, 15, 3)
    gops = flops(small.net, channels, px)*64/many/1e6
    return dict(faster_b1=base_1/one, faster_b64=base_64/many, gops_b64=gops, int8_peak_gops=int8_peak())

def time_shapes(results, a, names):
    for name in names: results.once('speed', dict(net=name), None, partial(time_shape, name), timed=True)

experiments = dict(nets=(train_nets, nets), speed=(time_shapes, nets))
command = partial(main, 'compress', __doc__, experiments, seeds=seeds, mnist=mnist)

if __name__ == '__main__': command()
