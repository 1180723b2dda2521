"""Nets in different runtimes, asked and timed alike."""
import copy, time
from functools import cache
from typing import Callable, NamedTuple

import numpy as np, torch
from finetune_course.base.images import as_channels
from finetune_course.predict import Predictor

class Net(NamedTuple):
    "A net in some runtime"
    compiled: Callable   # batch size → function from pixels to logits
    channels: int
    px: int

def in_onnxruntime(path):
    r = Predictor(path)
    return Net(lambda bs: lambda x: r.session.run(None, {'images': x})[0], r.channels, r.px)

def in_inductor(net, px):
    "Compiled for one batch size at a time, weights frozen, for one thread"
    import torch._inductor.config as config
    torch._dynamo.reset()   # of what others compiled; later it would take away what is in the cache
    @cache
    def compiled(bs):
        f = torch.compile(copy.deepcopy(net), dynamic=False)
        def run(x):
            with torch.no_grad(): return f(torch.from_numpy(x)).numpy()
        with config.patch(freezing=True): run(np.zeros((bs, 3, px, px), np.uint8))   # as option it fails
        return run
    torch.set_num_threads(1)
    return Net(compiled, 3, px)

def in_openvino(model):
    import openvino as ov
    _, c, px, _ = model.input(0).partial_shape
    options = dict(INFERENCE_NUM_THREADS=1, NUM_STREAMS=1, PERFORMANCE_HINT='LATENCY',
                   INFERENCE_PRECISION_HINT='f32')
    @cache
    def compiled(bs):
        fixed = model.clone()
        fixed.reshape([bs, c.get_length(), px.get_length(), px.get_length()])
        request = ov.Core().compile_model(fixed, 'CPU', options).create_infer_request()
        return lambda x: request.infer([x], share_inputs=True)[0].copy()
    return Net(compiled, c.get_length(), px.get_length())

def answers(net, x, bs=64):
    "Classes of all images; the last batch is filled up, since some runtimes compile for one batch size"
    f, x = net.compiled(bs), as_channels(np.asarray(x), net.channels)
    full = [(np.resize(x[i:i+bs], (bs, *x.shape[1:])), len(x[i:i+bs])) for i in range(0, len(x), bs)]
    return np.concatenate([f(b)[:n] for b, n in full]).argmax(1)

def latencies(bs, runs, warmup, *nets):
    "Median milliseconds of each, A B C A B C"
    rng, times = np.random.default_rng(0), [[] for _ in nets]
    ready = [(n.compiled(bs), rng.integers(0, 256, (bs, n.channels, n.px, n.px), np.uint8)) for n in nets]
    for _ in range(warmup + runs):
        for (f, x), t in zip(ready, times):
            start = time.perf_counter()
            f(x)
            t.append(time.perf_counter() - start)
    return [1000*float(np.median(t[warmup:])) for t in times]
