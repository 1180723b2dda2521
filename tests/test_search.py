"The cut that a target asks for."
import pandas as pd, pytest, torch
from conftest import digits_config, refused, report_of, tiny
from finetune_course.app import search
from finetune_course.app.cli import main
from finetune_course.app.run import run
from finetune_course.shrink import prune

pytestmark = pytest.mark.usefixtures('quick_clock')

@pytest.mark.slow
def test_a_target_of_bytes_is_met(digits, tmp_path, capsys):
    args = ['run', '--data', str(digits), *tiny]
    assert main([*args, '--target-bytes', '14k', '--out', str(tmp_path/'a')]) == 0
    rep = report_of(tmp_path/'a')
    assert next(r['bytes'] for r in rep['rows'] if r['stage'] == rep['shipped']) <= 14_000
    assert rep['rows'][2]['bytes'] > .7*14_000                     # and made use of
    assert main([*args, '--target-bytes', '1k', '--out', str(tmp_path/'b')]) == 2
    assert 'larger target' in capsys.readouterr().err and [p.name for p in tmp_path.iterdir()] == ['a']

@pytest.mark.slow
def test_all_is_cut_that_may_be_lost(digits, tmp_path, capsys):
    args = ['run', '--data', str(digits), *tiny]
    said = refused(capsys, *args, '--max-drop', '.01', '--out', tmp_path/'b')
    assert 'cannot resolve --max-drop' in said
    assert main([*args, '--max-drop', '.99', '--out', str(tmp_path/'c')]) == 0   # until nothing is left to cut
    rows = report_of(tmp_path/'c')['rows']
    assert rows[2]['params'] < .1*rows[0]['params'] and [p.name for p in tmp_path.iterdir()] == ['c']

def small_start(cfg, vocab):
    "The net of a run on grey images, before training, as it will be pruned"
    return search.with_small_input(search.starting_candidate(cfg, vocab, True), cfg.small_px, True)

@pytest.fixture(scope='module')
def fives(): return search.read_splits(digits_config(size=16))

def test_a_target_of_time_is_judged_by_the_ledgers_clock(fives, tmp_path, monkeypatch):
    cfg, pairs = digits_config(arch='plain_cnn', weights='random', size=16, prune=.2, target_latency=3.), []
    def weights(net): return sum(p.numel() for p in net.parameters())
    def export_stages(job, candidate, stages, n):
        for s, each in zip(stages, (4, 1)): job.file(s).write_bytes(bytes(each*weights(candidate.net)))
    def clock(a, b):
        pairs.append((a.name, b.name))
        return 9., b.stat().st_size/5_000                          # a file of 13.5 KB just fits
    monkeypatch.setattr(search, 'export_stages', export_stages)
    monkeypatch.setattr(search, 'latency', clock)
    whole = small_start(cfg, fives[16].train.vocab)
    ratio = search.find_prune_ratio(search.Job(cfg, fives, tmp_path), whole)
    assert ratio > cfg.prune and set(pairs) == {('model.onnx', 'pruned.onnx'), ('model.onnx', 'model.int8.onnx')}
    fits, too_slow = (weights(prune(whole, r).net) for r in (ratio, ratio - .01))
    assert fits <= 13_500 < too_slow

@pytest.mark.slow
def test_a_target_is_found_on_untrained_weights(fives, tmp_path):
    cfg = digits_config(arch='test_efficientnet', weights='random', size=16, target_bytes=12_600)
    job = search.Job(cfg, fives, tmp_path)
    whole = small_start(cfg, job.train.vocab)
    ratio = search.find_prune_ratio(job, whole)
    small = prune(whole, ratio)
    search.randomize_bn_biases_(small.net)                         # as after training: no two biases alike
    search.export_stages(job, small, search.cut_stages)
    assert ratio > cfg.prune and (tmp_path/'model.int8.onnx').stat().st_size <= 12_600

@pytest.mark.slow
def test_a_first_cut_too_deep_is_made_gentler(digits, tmp_path, monkeypatch, caplog):
    caplog.set_level('INFO', 'finetune_course')
    lost = iter([-.6, -.5, 0., -.5])                               # of the nets that are measured one after the other
    def measure(files, *sets, speed=True, real=search.measure):
        rows = real(files, *sets, speed=speed)
        if len(files) == 2: rows[1].difference_low = next(lost)
        return rows
    monkeypatch.setattr(search, 'measure', measure)
    cfg = digits_config(data=str(digits), arch='plain_cnn', weights='random', size=16, epochs=1, patience=1,
                        prune=.8, max_drop=.49, out=str(tmp_path/'r'))
    path, _ = run(cfg)
    cuts = [s.split('%')[0] for s in caplog.messages if s.startswith('pruning')]
    assert cuts == [f'pruning {p}' for p in (80, 68, 49, 25)]
    hist = pd.read_csv(path/'history.csv')
    assert len(hist.query('stage == "pruned"')) == 1   # what was tried in vain is no part of the net's training

@pytest.mark.parametrize('arch', ['repvgg_a0', pytest.param('mobileone_s0', marks=pytest.mark.slow)])
def test_a_net_with_two_first_layers_keeps_three_channels(arch):
    small, seen = small_start(digits_config(arch=arch, weights='random', prune=.5, size=32), list('012'))
    assert len(seen.mean) == 3 and seen.px == 20 and small(torch.zeros(2, 3, 20, 20)).shape == (2, 3)
