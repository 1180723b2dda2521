"The cut that a target asks for."
import pandas as pd, pytest, torch
from conftest import refused, report_of, tiny
from finetune_course import pipeline as pl
from finetune_course.app.cli import main

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
    assert 'cannot be shown' in said
    assert main([*args, '--max-drop', '.99', '--out', str(tmp_path/'c')]) == 0   # until nothing is left to cut
    rows = report_of(tmp_path/'c')['rows']
    assert rows[1]['params'] < .1*rows[0]['params'] and [p.name for p in tmp_path.iterdir()] == ['c']

@pytest.fixture(scope='module')
def fives(): return pl.load_sizes(pl.Config(size=16))

def test_a_target_of_time_is_judged_by_the_ledgers_clock(fives, tmp_path, monkeypatch):
    cfg, pairs = pl.Config(arch='plain_cnn', weights='random', size=16, prune=.2, target_latency=3.), []
    def weights(net): return sum(p.numel() for p in net.parameters())
    def write(net, spec, train, out, n, stages):
        for stage, each in zip(stages, (4, 1)): (out/pl.stage_files[stage]).write_bytes(bytes(each*weights(net)))
    def clock(a, b):
        pairs.append((a.name, b.name))
        return 9., b.stat().st_size/5_000                          # a file of 13.5 KB just fits
    monkeypatch.setattr(pl, 'write_small', write)
    monkeypatch.setattr(pl, 'latency', clock)
    net, spec = pl.small_input(cfg, *pl.starting_net(cfg, fives[16][0].vocab, True), True)
    ratio = pl.find_ratio(cfg, net, spec, fives[cfg.small_px][0], tmp_path)
    assert ratio > cfg.prune and set(pairs) == {('model.onnx', 'pruned.onnx'), ('model.onnx', 'model.int8.onnx')}
    fits, too_slow = (weights(pl.prune(net, spec, r)[0]) for r in (ratio, ratio - .01))
    assert fits <= 13_500 < too_slow

@pytest.mark.slow
def test_a_target_is_found_on_untrained_weights(fives, tmp_path):
    cfg = pl.Config(arch='test_efficientnet', weights='random', size=16, target_bytes=12_600)
    train = fives[cfg.small_px][0]
    net, spec = pl.small_input(cfg, *pl.starting_net(cfg, train.vocab, True), True)
    ratio = pl.find_ratio(cfg, net, spec, train, tmp_path)
    small, spec = pl.prune(net, spec, ratio)
    pl.write_small(pl.unlike_(small), spec, train, tmp_path)       # as after training: no two biases alike
    assert ratio > cfg.prune and (tmp_path/'model.int8.onnx').stat().st_size <= 12_600

@pytest.mark.slow
def test_a_first_cut_too_deep_is_made_gentler(digits, tmp_path, monkeypatch):
    lost = iter([-.6, -.5, 0., -.5])                               # of the nets that are measured one after the other
    def measure(files, *sets, speed=True, real=pl.measure):
        rows = real(files, *sets, speed=speed)
        if len(files) == 2: rows[1].difference_low = next(lost)
        return rows
    monkeypatch.setattr(pl, 'measure', measure)
    cfg, said = pl.Config(data=str(digits), arch='plain_cnn', weights='random', size=16, epochs=1, patience=1, prune=.8,
                          max_drop=.49, out=str(tmp_path/'r')), []
    path, rep = pl.run(cfg, say=said.append)
    assert [s.split('%')[0] for s in said if s.startswith('pruning')] == [f'pruning {p}' for p in (80, 68, 49, 25)]
    hist = pd.read_csv(path/'history.csv')
    assert len(hist.query('stage == "pruned"')) == 1   # what was tried in vain is no part of the net's training

@pytest.mark.parametrize('arch', ['repvgg_a0', pytest.param('mobileone_s0', marks=pytest.mark.slow)])
def test_a_net_with_two_first_layers_keeps_three_channels(arch):
    cfg = pl.Config(arch=arch, weights='random', prune=.5, size=32)
    small, seen = pl.small_input(cfg, *pl.starting_net(cfg, list('012'), True), True)
    assert len(seen.mean) == 3 and seen.px == 20 and small(torch.zeros(2, 3, 20, 20)).shape == (2, 3)
