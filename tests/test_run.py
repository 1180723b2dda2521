"A whole tiny run, and what is done with it afterwards; oracles for the ruler and for int8."
import json, shutil
import numpy as np, onnx, pandas as pd, pytest, torch
from PIL import Image
from sklearn.metrics import confusion_matrix
from finetune_course import evaluate as ev, quantize as qu
from dataclasses import replace
from finetune_course import pipeline as pl
from finetune_course.cli import main
from finetune_course.data import Images, InputError, load, read_image
from finetune_course.export import Reader, load_model
from finetune_course.prune import n_channels, prune, zero_smallest
from finetune_course.backbone import backbone, replace_head_
from finetune_course.export import Spec, export_onnx

tiny = ['--arch', 'test_efficientnet', '--weights', 'random', '--size', '32', '--epochs', '1', '--patience', '1', '--prune', '.5']

def folder_of_digits(path, first):
    "A folder of class folders: a few real digits of each kind"
    train, _ = load('mnist5k', 28)
    for c in range(3):
        (path/str(c)).mkdir(parents=True)
        for i in np.flatnonzero(train.y.numpy() == c)[first:first+24]: Image.fromarray(train.x[i, 0].numpy()).save(path/str(c)/f'{i}.png')
    (path/'0'/'broken.png').write_text('')
    return path

@pytest.fixture(scope='module')
def digits(tmp_path_factory): return folder_of_digits(tmp_path_factory.mktemp('digits'), 0)

@pytest.fixture(scope='module')
def done(digits, tmp_path_factory):
    out = tmp_path_factory.mktemp('runs')/'r'
    assert main(['run', '--data', str(digits), '--size', '32', '--epochs', '1', '--prune', '.5', '--out', str(out)]) == 0
    return out

def test_the_report_tells_what_the_files_say(done, digits):
    rep = json.loads((done/'report.json').read_text())
    assert {p.name for p in done.iterdir()} == {'report.json', 'report.html', 'model.safetensors', 'model.json', 'model.onnx', 'pruned.onnx', 'model.int8.onnx', 'history.csv'}
    assert rep['schema'] == 1 and [r['stage'] for r in rep['rows']] == ['fine-tuned', 'pruned', 'int8'] and len(rep['data']['skipped']) == 1
    tests = {px: load(digits, px)[1] for px in (32, 20)}           # 20: seven twelfths of 32, in steps of four
    assert tests[32].digest == rep['data']['test_digest'] and [r['image_size'] for r in rep['rows']] == [32, 20, 20]
    for r in rep['rows']:
        test = tests[r['image_size']]
        assert r['bytes'] == (done/r['file']).stat().st_size and r['latency_ms_b1'] > 0
        right = (Reader(done/r['file']).logits(test.x).argmax(1) == test.y.numpy())
        assert r['accuracy'] == right.mean() and r['n'] == len(right) and r['accuracy_low'] <= r['accuracy'] <= r['accuracy_high']

def test_pruned_weights_load_and_agree_with_their_onnx(done, digits):
    model, spec = load_model(done/'model')
    assert (spec.px, len(spec.mean)) == (20, 1)                    # grey images: the pruned net reads one channel
    x = load(digits, 20)[1].x
    xb = (x.float()/255 - spec.mean[0])/spec.std[0]
    with torch.no_grad(): want = model(xb).numpy()
    assert np.abs(Reader(done/'pruned.onnx').logits(x) - want).max() < 1e-3

def test_a_baseline_stands_in_the_ledger(digits, tmp_path, capsys):
    out = tmp_path/'r'
    assert main(['run', '--data', str(digits), '--size', '32', '--epochs', '1', '--patience', '40', '--prune', '.9', '--baseline', '--target-bytes', '60k', '--out', str(out)]) == 0
    rows = {r['stage']: r for r in json.loads((out/'report.json').read_text())['rows']}
    assert list(rows) == ['fine-tuned', 'pruned', 'int8', 'baseline', 'baseline int8']
    assert .9*60_000 < rows['baseline int8']['bytes'] <= 60_000 and rows['baseline']['accuracy'] > .6    # as wide as the target allows, and trained
    hist = pd.read_csv(out/'history.csv').groupby('stage').epoch
    assert hist.min().eq(1).all() and hist.max()['pruned'] == hist.max()['baseline'] == 40
    model, spec = load_model(out/'baseline')
    x = load(digits, 20)[1].x
    with torch.no_grad(): want = model((x.float()/255 - spec.mean[0])/spec.std[0]).numpy()
    assert np.abs(Reader(out/'baseline.onnx').logits(x) - want).max() < 1e-3
    assert main(['evaluate', str(out)]) == 0 and 'baseline int8' in capsys.readouterr().out

def test_onnx_is_what_was_promised(done):
    m = onnx.load(done/'model.onnx')
    i = m.graph.input[0]
    assert i.name == 'images' and i.type.tensor_type.elem_type == onnx.TensorProto.UINT8 and i.type.tensor_type.shape.dim[0].dim_param
    assert not any(n.op_type == 'BatchNormalization' for n in m.graph.node)
    assert {p.key: p.value for p in m.metadata_props}['labels'] == '["0", "1", "2"]'
    model = json.loads((done/'report.json').read_text())['rows'][0]
    assert model['bytes'] <= 4.2*model['params']

def test_a_run_is_never_lost(done, digits, capsys):
    before = (done/'report.json').read_bytes()
    assert main(['run', '--data', str(digits), '--out', str(done)]) == 2 and '--force' in capsys.readouterr().err
    assert (done/'report.json').read_bytes() == before

def test_evaluate_and_predict(done, digits, capsys, tmp_path):
    assert main(['evaluate', str(done), '--json']) == 0
    again, rep = json.loads(capsys.readouterr().out), json.loads((done/'report.json').read_text())
    assert [r['accuracy'] for r in again['rows']] == [r['accuracy'] for r in rep['rows']]
    pics = [str(next((digits/c).glob('[1-9]*.png'))) for c in '01']
    pics.append(shutil.copy(pics[0], str(tmp_path/'été.png')))
    assert main(['predict', str(done), *pics]) == 0
    lines = [l.split('\t') for l in capsys.readouterr().out.splitlines()]
    assert [l[0] for l in lines] == pics and all(l[1] in '012' and 0 <= float(l[2]) <= 1 for l in lines)
    for stage, file in ('fine-tuned', 'model.onnx'), ('pruned', 'pruned.onnx'), ('int8', 'model.int8.onnx'):
        assert main(['predict', str(done), *pics, '--stage', stage, '--json']) == 0
        reader = Reader(done/file)
        want = [reader.predict(read_image(p, reader.px)[None])[0] for p in pics]
        assert (out := capsys.readouterr().out).isascii()           # whatever the terminal can write
        assert [(r['file'], r['label'], r['probability']) for r in json.loads(out)] == [(p, *w) for p, w in zip(pics, want)]
    assert main(['predict', str(done), *pics, '--stage', 'tiny']) == 2
    assert "'tiny'; choose one of fine-tuned, pruned, int8" in capsys.readouterr().err
    (tmp_path/'no.png').write_text('no')
    assert main(['predict', str(done), pics[0], str(tmp_path/'no.png'), '--json']) == 2
    out, err = capsys.readouterr()
    assert json.loads(out)[0]['file'] == pics[0] and 'no.png' in err

def test_evaluate_measures_the_test_part_of_other_data(done, digits, capsys, tmp_path):
    for name in 'plain', 'parts/test': folder_of_digits(tmp_path/name, 24)   # others than the run's
    (tmp_path/'idx').mkdir()                                       # no training files: they are not needed
    x = np.zeros((5, 28, 28), np.uint8)
    (tmp_path/'idx'/'t10k-images-idx3-ubyte').write_bytes(bytes([0, 0, 8, 3, 0, 0, 0, 5, 0, 0, 0, 28, 0, 0, 0, 28]) + x.tobytes())
    (tmp_path/'idx'/'t10k-labels-idx1-ubyte').write_bytes(bytes([0, 0, 8, 1, 0, 0, 0, 5, 0, 1, 2, 0, 1]))
    for name, n in ('plain', 72), ('parts', 72), ('idx', 5):
        assert main(['evaluate', str(done), '--data', str(tmp_path/name), '--json']) == 0
        out, err = capsys.readouterr()
        assert {r['n'] for r in json.loads(out)['rows']} == {n} and ('broken.png' in err) == (name != 'idx')
    (tmp_path/'plain'/'9').mkdir(); shutil.copy(next((digits/'1').glob('*.png')), tmp_path/'plain'/'9')
    assert main(['evaluate', str(done), '--data', str(tmp_path/'plain')]) == 2 and "'9'" in capsys.readouterr().err

def test_images_that_a_run_learned_from_do_not_judge_it(done, digits, capsys, tmp_path):
    mixed = folder_of_digits(tmp_path/'others', 24)
    assert main(['evaluate', str(done), '--data', str(mixed)]) == 0 and 'learned from' not in capsys.readouterr().err
    train = load(digits, 28)[0]
    for i in range(4): Image.fromarray(train.x[i, 0].numpy()).save(mixed/train.vocab[train.y[i]]/f'known{i}.png')
    assert main(['evaluate', str(done), '--data', str(mixed)]) == 0 and '4 of the 76 images' in capsys.readouterr().err
    moved = shutil.copytree(digits, tmp_path/'moved')
    next((moved/'2').glob('[1-9]*.png')).unlink()                  # no longer the run's own folder
    assert main(['evaluate', str(done), '--data', str(moved)]) == 2 and 'learned from' in capsys.readouterr().err

def random_images(n, seed=0, c=1):
    return Images(torch.from_numpy(np.random.default_rng(seed).integers(1, 256, (n, c, 8, 8), dtype=np.uint8)), torch.arange(n) % 3, list('abc'))

def with_blank(ds, n=1): return replace(ds, x=torch.cat([ds.x[n:], torch.zeros_like(ds.x[:n])]))

@pytest.mark.parametrize('n, blanks, train, of', [(60, 1, 54_000, 60_000), (100, 60, 54_000, 60_000), (600, 1, 1_200_000, 2048)], ids=['one of few', 'most, but all the same', 'of a stream'])
def test_an_empty_picture_on_both_sides_is_only_told(n, blanks, train, of):
    own = dict(train=train, valid=of - min(of, train), learned=pl.fingerprints(with_blank(random_images(1000))), learned_of=of)
    assert [s[:20] for s in pl.known_images(own, with_blank(random_images(n, 1), blanks), 'x')] == [f'{blanks} of the {n} images in'[:20]]
    with pytest.raises(InputError, match='most images in x'): pl.known_images(own, random_images(1000).take(range(0, 1000, 2)), 'x')

def test_colours_count_among_what_images_are_known_by():
    blue, grey = random_images(4, c=3), random_images(4)
    blue.x[:, 0] = 0
    assert len({*pl.fingerprints(blue)}) == 4 and pl.fingerprints(grey) == pl.fingerprints(replace(grey, x=grey.x.expand(-1, 3, -1, -1)))

def test_images_on_both_sides_are_told(tmp_path, capsys):
    folder_of_digits(tmp_path/'d'/'train', 0); folder_of_digits(tmp_path/'d'/'test', 0)
    assert main(['run', '--data', str(tmp_path/'d'), *tiny, '--out', str(tmp_path/'r')]) == 0
    assert 'warning: 72 of the 72 held-out images are also among the training or validation images' in capsys.readouterr().err

def test_a_class_called_test_is_no_test_part(tmp_path):
    folder_of_digits(tmp_path, 0)
    (tmp_path/'2').rename(tmp_path/'test')
    assert pl.listing(tmp_path)
    (tmp_path/'test'/'2').mkdir()
    assert pl.listing(tmp_path) is None

def test_held_out_images_stay_held_out(done, digits, capsys, tmp_path):
    n = json.loads((done/'report.json').read_text())['rows'][0]['n']
    moved = shutil.copytree(digits, tmp_path/'moved')
    assert main(['evaluate', str(done), '--data', str(moved), '--json']) == 0
    assert {r['n'] for r in json.loads(capsys.readouterr().out)['rows']} == {n}            # not those it has learned
    run = shutil.copytree(done, tmp_path/'run')
    rep = json.loads((run/'report.json').read_text())
    rep['data']['source'] = str(moved)
    (run/'report.json').write_text(json.dumps(rep))
    assert main(['evaluate', str(run)]) == 0
    next((moved/'2').glob('[1-9]*.png')).unlink()
    capsys.readouterr()
    assert main(['evaluate', str(run)]) == 2 and 'changed since the run' in capsys.readouterr().err

def test_damaged_runs_are_refused(done, digits, capsys, tmp_path):
    copy = shutil.copytree(done, tmp_path/'c')
    (copy/'model.json').write_text((copy/'model.json').read_text()[:50])
    with pytest.raises(ValueError, match='model.json is damaged'): load_model(copy/'model')
    (copy/'report.json').write_text('{')
    assert main(['evaluate', str(copy)]) == 2 and 'damaged' in capsys.readouterr().err
    assert main(['evaluate', str(tmp_path)]) == 2 and 'no finished run' in capsys.readouterr().err

def test_a_target_is_met(digits, capsys, tmp_path):
    args = ['run', '--data', str(digits), '--size', '32', '--epochs', '1', '--patience', '1', '--out']
    assert main([*args, str(tmp_path/'a'), '--target-bytes', '40k']) == 0
    rep = json.loads((tmp_path/'a'/'report.json').read_text())
    assert next(r['bytes'] for r in rep['rows'] if r['stage'] == rep['shipped']) <= 40_000
    assert main([*args, str(tmp_path/'b'), '--target-bytes', '1k']) == 2 and 'larger target' in capsys.readouterr().err
    assert main([*args, str(tmp_path/'b'), '--max-drop', '.01']) == 2 and 'cannot be shown' in capsys.readouterr().err
    assert main([*args, str(tmp_path/'c'), '--max-drop', '.99', '--prune', '.95']) == 0   # everything may be lost: cut until nothing is left to cut
    cut = json.loads((tmp_path/'c'/'report.json').read_text())
    assert cut['rows'][1]['params'] < .8*rep['rows'][1]['params'] and [p.name for p in tmp_path.iterdir() if p.suffix] == []

def test_a_target_of_time_is_judged_by_the_ledgers_clock(tmp_path, monkeypatch):
    import finetune_course.pipeline as pl
    cfg, sets, pairs = pl.Config(size=32, target_latency=3.), pl.load_sizes(pl.Config(size=32)), []
    def clock(a, b): pairs.append((a.name, b.name)); return 9., b.stat().st_size/30_000      # a file of 81 KB just fits
    monkeypatch.setattr(pl, 'latency', clock)
    model, spec = pl.starting_net(cfg, sets[32][0].vocab, True)
    ratio = pl.find_ratio(cfg, *pl.small_input(cfg, model, spec, True), sets[20][0], tmp_path)
    assert ratio > cfg.prune and set(pairs) == {('model.onnx', 'pruned.onnx'), ('model.onnx', 'model.int8.onnx')}

def test_a_target_is_found_on_untrained_weights(tmp_path):
    import finetune_course.pipeline as pl
    cfg = pl.Config(arch='test_efficientnet', weights='random', size=32, target_bytes=12_600)
    sets = pl.load_sizes(cfg)
    model, spec = pl.starting_net(cfg, sets[32][0].vocab, True)
    net, spec = pl.small_input(cfg, model, spec, True)
    ratio = pl.find_ratio(cfg, net, spec, sets[20][0], tmp_path)
    pl.write_small(pl.unlike_(pl.prune(net, spec, ratio)[0]), pl.prune(net, spec, ratio)[1], sets[20][0], tmp_path)   # as after training: no two biases alike
    assert ratio > cfg.prune and (tmp_path/'model.int8.onnx').stat().st_size <= 12_600

def test_a_first_cut_too_deep_is_made_gentler(digits, tmp_path, monkeypatch):
    import finetune_course.pipeline as pl
    lost = iter([-.6, -.5, 0., -.5])                               # of the nets that are measured one after the other
    def measure(files, *sets, speed=True, real=pl.measure):
        rows = real(files, *sets, speed=speed)
        if len(files) == 2: rows[1].difference_low = next(lost)
        return rows
    monkeypatch.setattr(pl, 'measure', measure)
    said = []
    path, rep = pl.run(pl.Config(data=str(digits), size=32, epochs=1, patience=1, prune=.8, max_drop=.49, out=str(tmp_path/'r')), say=said.append)
    assert [s.split('%')[0] for s in said if s.startswith('pruning')] == ['pruning 80', 'pruning 68', 'pruning 49', 'pruning 25']
    assert len(pd.read_csv(path/'history.csv').query('stage == "pruned"')) == 1   # what was tried in vain is no part of the net's training

def test_a_batch_that_was_cut_stays_cut_on_resume(tmp_path):
    import finetune_course.pipeline as pl
    cfg = pl.Config(size=32)
    sets, tried = pl.load_sizes(cfg), []
    spec = Spec(cfg.arch, sets[32][0].vocab, 32)
    def fit(dls, **kwargs):
        tried.append(dls.train.bs)
        raise torch.OutOfMemoryError if dls.train.bs > 20 else KeyboardInterrupt
    (tmp_path/'checkpoint').mkdir()
    for name in 'fit0.pt', 'fit0.previous', 'fit1.pt': (tmp_path/'checkpoint'/name).touch()   # as larger batches left them
    for resume in False, True:
        with pytest.raises(KeyboardInterrupt): pl.Trainer(cfg, sets, tmp_path, pl.Checkpoint(tmp_path/'checkpoint', resume=resume))(spec, fit)
        assert [f.name for f in (tmp_path/'checkpoint').iterdir()] == ['fit0.json']
    assert tried == [64, 32, 16, 16]

def test_a_class_that_pays_is_named():
    import pandas as pd
    table = pd.DataFrame({'n': [100, 100], 'errors before': [1, 1], 'errors after': [21, 2], 'lost': [20, 1], 'gained': [0, 0], 'p': [4e-6, 1.]}, index=['a', 'b'])
    assert [s[:12] for s in ev.losers(table)] == ['class a pays']

def test_pixels_folded_into_int8_change_no_answer(tmp_path):
    test, spec = load('mnist5k', 28)[1], Spec('tf_efficientnet_lite0', list('0123456789'), 28)
    net = prune(replace_head_(backbone(), 10), spec, .86)[0]
    whole = export_onnx(net, spec, tmp_path/'a.onnx')
    small = qu.quantize_onnx(whole, tmp_path/'b.onnx', spec, test.take(range(64)))
    ops = [n.op_type for n in onnx.load(small).graph.node]
    assert 'Cast' not in ops and 'Mul' not in ops and not any(t.data_type == onnx.TensorProto.INT32 for t in onnx.load(small).graph.initializer)
    a, b = (Reader(f).logits(test.x[:200]) for f in (whole, small))
    assert np.corrcoef(a.ravel(), b.ravel())[0, 1] > .98

def test_interrupted_runs_say_so(digits, capsys, tmp_path, monkeypatch):
    import finetune_course.pipeline as pl
    def stop(*a, **k): raise KeyboardInterrupt
    monkeypatch.setattr(pl, 'build_files', stop)
    assert main(['run', '--data', str(digits), '--size', '32', '--out', str(tmp_path/'r')]) == 130
    assert 'deleted safely' in capsys.readouterr().err and [p.name for p in tmp_path.iterdir()] == ['r.partial']

@pytest.mark.parametrize('arch', ['botnet26t_256', 'levit_128s', 'tresnet_m'])
def test_nets_that_cannot_be_used_are_named(arch, tmp_path, capsys):
    assert main(['run', '--arch', arch, '--weights', 'random', '--out', str(tmp_path/'r')]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f'finetune-course: {arch} cannot be given a new head (') and err.count('\n') == 1 and not list(tmp_path.iterdir())

@pytest.mark.parametrize('arch', ['repvgg_a0', 'mobileone_s0'])
def test_a_net_with_two_first_layers_keeps_three_channels(arch, digits):
    cfg = pl.Config(data=str(digits), arch=arch, weights='random', prune=.5, size=32)
    net, spec = pl.starting_net(cfg, list('012'), True)
    small, seen = pl.small_input(cfg, net, spec, True)
    assert len(seen.mean) == 3 and seen.px == 20 and small(torch.zeros(2, 3, 20, 20)).shape == (2, 3)

def test_class_names_are_no_formulas():
    import io, matplotlib.pyplot as plt
    ds = replace(random_images(9), vocab=['$a_$', '$\\x$', 'c'])
    for fig in ev.plot_worst(ds, np.eye(3)[(ds.y + 1) % 3]), ev.plot_confusion(ev.confusion(ds.y, (ds.y + 1) % 3, 3), ds.vocab).figure:
        fig.savefig(io.BytesIO())
        plt.close(fig)

# --- Oracles

@pytest.mark.parametrize('k, n', [(0, 10), (10, 10), (985, 1000), (1, 3)])
def test_wilson(k, n):
    from scipy.stats import binomtest
    ci = binomtest(k, n).proportion_ci(method='wilson')
    assert np.allclose(ev.wilson(k, n), (ci.low, ci.high), atol=1e-4)

def test_confusion_is_sklearns():
    rng = np.random.default_rng(0)
    y, p = rng.integers(0, 5, (2, 200))
    assert (ev.confusion(y, p, 5) == confusion_matrix(y, p)).all()

@pytest.mark.parametrize('bits', [8, 4, 2])
def test_round_weight_is_torchs(bits):
    w, q = torch.randn(6, 3, 3, 3, generator=torch.Generator().manual_seed(0)), 2**(bits-1) - 1
    scale = w.flatten(1).abs().amax(1)/q
    want = torch.fake_quantize_per_channel_affine(w, scale, torch.zeros(6, dtype=torch.int32), 0, -q, q)
    assert torch.allclose(qu.round_weight(w, bits), want, atol=1e-6)

def test_zeroing_keeps_the_file_and_cutting_does_not(tmp_path):
    spec = Spec('tf_efficientnet_lite0', list('0123456789'), 32)
    net = replace_head_(backbone(), 10)
    small, cut = prune(net, spec, .5, round_to=8)
    whole, zeroed, pruned = (export_onnx(m, s, tmp_path/f'{i}.onnx').stat().st_size for i, (m, s) in
                             enumerate([(net, spec), (zero_smallest(net, .5), spec), (small, cut)]))
    assert abs(whole - zeroed) < 1000 and pruned < whole/2
    assert .5 <= 1 - n_channels(small)/n_channels(net) < .55
