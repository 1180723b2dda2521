"The benchmarks: nothing is measured twice, bad input is one sentence, and what is committed is in step."
import json
from importlib import import_module
from pathlib import Path
import numpy as np, pandas as pd, pytest
from torch import nn
from bench import compress, harness, peers, recipes, tiles
from bench.harness import Results, flops, record
from bench.report import ballot, fresh, gain, lesson, read_tests, render, votes, ways
from finetune_course.backbone import plain_cnn
from finetune_course.base.errors import InputError
from finetune_course.base.results import read_results

folder = Path(harness.__file__).parent
topics = sorted((folder/'results').glob('*.jsonl'))
keys = ['experiment', 'settings', 'seed', 'result', 'machine', 'versions', 'commit', 'date']

def lines(path): return [json.loads(line) for line in path.read_text(encoding='utf-8').splitlines()]
def of(experiment, topic): return read_results(folder/'results'/f'{topic}.jsonl', experiment)

# --- Records

def test_nothing_is_measured_twice(tmp_path):
    results, calls = Results(tmp_path/'new'/'r.jsonl'), []
    def measure():
        calls.append(1)
        return dict(accuracy=.5)
    for settings in dict(px=28, rates=(1, 2)), dict(px=28, rates=(1, 2)), dict(px=48, rates=(1, 2)):
        for seed in 0, 1: assert results.once('e', settings, seed, measure) == dict(accuracy=.5)
    assert len(calls) == 4 == len(lines(results.path))
    results.once('another', dict(px=28, rates=(1, 2)), 0, measure)
    first = lines(results.path)[0]
    assert list(first) == keys and first['settings'] == dict(px=28, rates=[1, 2])
    assert first['result'] == dict(accuracy=.5)
    assert first['commit'] == harness.commit() and 'cores' in first['machine'] and first['versions']['torch']

def test_times_are_one_machine_s(tmp_path):
    results = Results(tmp_path/'r.jsonl')
    results.append(record('e', {}, 0, dict(seconds=1)) | dict(machine='another'))
    assert results.once('e', {}, 0, lambda: dict(seconds=2)) == dict(seconds=1)
    assert results.once('e', {}, 0, lambda: dict(seconds=2), timed=True) == dict(seconds=2)
    assert results.once('e', {}, 0, lambda: dict(seconds=3), timed=True) == dict(seconds=2)
    assert results.once('e', {}, 0, lambda: dict(seconds=4), timed=True, more=['numpy']) == dict(seconds=4)

def test_what_is_measured_fails_without_a_trace(tmp_path):
    def measure(): raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt): Results(tmp_path/'new'/'r.jsonl').once('e', {}, 0, measure)
    assert not (tmp_path/'new').exists()

def test_results_that_no_table_shows_together_are_refused(tmp_path):
    results = Results(tmp_path/'r.jsonl')
    def once(experiment, **settings):
        return results.once(experiment, settings, 0, lambda: dict(n=1), same=('test', 'epochs'))
    once('e', test='a', epochs=1)
    once('another', test='b', epochs=1)
    with pytest.raises(InputError, match='r.jsonl holds results with test a, not b; give another --out'):
        once('e', test='b', epochs=1)
    with pytest.raises(InputError, match='epochs 1, not 2'): once('e', test='a', epochs=2)
    assert len(results.records()) == 2

def test_a_damaged_file_is_refused(tmp_path):
    for text in '{"experiment": "e"', '[]', '{"experiment": "e"}':
        (tmp_path/'r.jsonl').write_text(json.dumps(record('e', {}, 0, {})) + '\n' + text)
        with pytest.raises(InputError, match='line 2 of .*r.jsonl is no record; remove it'):
            Results(tmp_path/'r.jsonl').records()

@pytest.mark.parametrize('path', topics, ids=lambda p: p.stem)
def test_committed_records_have_one_shape(path):
    seen = []
    for r in lines(path):
        assert list(r) == keys and isinstance(r['settings'], dict) and r['result'] and r['machine']
        assert not {*r['settings'], *keys} & {*r['result']} and not {*keys} & {*r['settings']}   # each becomes a column
        seen.append(json.dumps([r[k] for k in ('experiment', 'settings', 'seed', 'machine', 'versions')]))
    assert seen and len(seen) == len({*seen})
    assert len(read_results(path)) == len(seen)

def test_committed_settings_are_those_of_the_code():
    "Else a command would make all of them again."
    assert [p.stem for p in topics] == [
        'ablation', 'compress', 'own_digits', 'photos', 'pipeline', 'recipes', 'throughput', 'transfer']
    for r in lines(folder/'results'/'compress.jsonl'):
        name = r['settings'].get('net')
        if r['experiment'] != 'nets': continue
        assert r['settings'] == dict(net=name, **compress.nets[name], test="MNIST's 10,000")
    assert {*of('nets', 'compress').net} == {*of('speed', 'compress').net} == {*compress.nets}
    assert {*of('peers', 'compress').peer} == {*peers.peers} and {*of(None, 'recipes').recipe} == {*recipes.recipes}

# --- Commands

@pytest.mark.parametrize('line, word', [
    ('ablation fly', "'fly' is unknown"), ('ablation training --mnist nowhere', 'nowhere lacks'),
    ('ablation activations x', 'swish'), ('compress nets typo', "'typo' is unknown"),
    ('compress nets full --seeds 0', 'add --mnist'), ('compress speed typo', "'typo'"),
    ('peers typo', "'typo' is unknown"), ('pipeline --mnist nowhere', 'nowhere lacks'), ('pipeline typo', "'typo'"),
    ('pipeline --seeds many', 'many'), ('throughput typo', 'stream-memory'), ('throughput gpu', 'add --mnist'),
    ('throughput gpu --mnist nowhere', 'nowhere lacks'), ('recipes', 'experiment'),
    ('recipes cross-validation typo', "'typo'"), ('recipes test', 'add --mnist'), ('recipes test --fly', '--fly'),
    ('recipes agreement --mnist nowhere', 'nowhere lacks'), ('photos run', '--photos FOLDER'),
    ('photos tutorials', '--photos FOLDER'),
    ('photos peers typo', "'typo'"),
    ('transfer labels typo', 'plain CNN'), ('transfer labels --photos nowhere', 'nowhere')])
def test_bad_input_is_one_sentence(line, word, tmp_path, capsys):
    name, *argv = line.split()
    argv += ['--out', str(tmp_path/'new'/'r.jsonl')]
    with pytest.raises(SystemExit) as e: import_module(f'bench.{name}').command(argv)
    out, err = capsys.readouterr()
    assert e.value.code == 2 and not out and err.startswith('error: ') and err.count('\n') == 1 and word in err
    assert not (tmp_path/'new').exists()

def test_an_out_that_is_a_folder_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit): compress.command(['speed', '--out', str(tmp_path)])
    assert 'is a folder' in capsys.readouterr().err

commands = 'ablation', 'compress', 'peers', 'photos', 'pipeline', 'recipes', 'throughput', 'tiles', 'transfer'

@pytest.mark.parametrize('name', commands)
def test_help(name, capsys):
    module = import_module(f'bench.{name}')
    with pytest.raises(SystemExit) as e: module.command(['--help'])
    assert e.value.code == 0 and module.__doc__.splitlines()[0] in capsys.readouterr().out

def test_names_may_be_begun():
    names = '20 KB', '20 KB, no teacher', 'plain'
    assert harness.chosen(['20'], names) == ['20 KB', '20 KB, no teacher'] and harness.chosen([], names) == [*names]
    assert harness.chosen(['pl', '20 KB'], names) == ['20 KB', 'plain']

# --- What is measured

@pytest.mark.parametrize('name', ['iterative', 'plain CNN, from scratch'])
def test_the_shape_that_is_timed_is_that_of_the_trained_net(name):
    net = compress.shape(name)[0].net
    layers = [m for m in net.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    params = sum(m.weight.numel() + len(m.weight) for m in layers)   # with a bias each, as in the file
    trained = of('nets', 'compress').set_index('net').params[name]
    assert abs(trained/params - 1).max() < .02   # cut in steps, counts are rounded otherwise

def test_no_pixel_is_in_both_parts_of_the_tiles():
    picture = np.arange(100*200, dtype=np.int32).reshape(100, 200)   # grey; each number once
    parts = tiles.halves(picture)
    train, test = ({*part.flatten().tolist()} for part in parts.values())
    assert len(train) + len(test) == picture.size and not train & test
    cut = [np.array(t) for t in tiles.tiles(parts['test'].astype(np.uint8), 5, np.random.default_rng(0))]
    assert [t.shape for t in cut] == [(tiles.px, tiles.px, 3)]*5

def test_tiles_go_into_a_new_folder(tmp_path, capsys):
    with pytest.raises(SystemExit) as e: tiles.command([str(tmp_path)])
    assert e.value.code == 2 and capsys.readouterr().err == f'error: {tmp_path} exists; give a new folder.\n'

def test_flops():
    assert flops(plain_cnn(13, 1, 10), 1, 28) == 2*1_066_598

# --- The report

def test_the_report_is_in_step():
    committed = (folder/'recipes.md').read_text(encoding='utf-8')
    assert render(folder/'results'/'recipes.jsonl') == committed, 'python -m bench.recipes report'

@pytest.fixture(scope='module')
def nets():
    tests = read_tests(folder/'results'/'recipes.jsonl')
    return tests[tests.net != '26 epochs']

def mean(nets, way): return nets.groupby('net')[way].mean()

def test_nets_end_close_together(nets):
    few = read_tests(folder/'results'/'recipes.jsonl').query('net == "26 epochs"')['as trained'].mean()
    means = mean(nets, 'as trained')
    assert nets['as trained'].mean() < .45*few and means.max() - means.min() < 20
    assert nets[nets['learned from'] == 'labels']['as trained'].between(26, 46).all()

def test_ways_to_ask(nets):
    gains = {way: {who: gain(d, way)['mean'] for who, d in nets.groupby('learned from')} for way in ways}
    assert gains['moved copies']['labels'] < -4 and gains['clean statistics']['labels'] < -1
    assert all(abs(v) < 1 for v in gains['averaged weights'].values())
    assert min(g['teachers'] for g in gains.values()) > -1
    moved = (nets['moved copies'] - nets['as trained']).groupby(nets.net).mean().filter(like='pupil')
    assert moved.pop('deep CNN, pupil of three') < -4 and moved.min() > -2
    deep = nets[nets.net.str.startswith('deep') & (nets['learned from'] == 'labels')]
    assert mean(deep, 'as trained').min() > 30 and 27 < mean(deep, 'moved copies').min() < 30   # published: 28 and 30

def test_nine_voters_make_fewer_mistakes_but_not_surely(nets):
    ballots = {name: ballot(nets, *v) for name, v in votes.items()}
    nine = ballots.pop('nine')
    assert [b['voters'] for b in ballots.values()] == [3, 5, 3] and nine['voters'] == 9
    assert nine['their vote'] < nine['the best'] - 5 and .05/8 < nine['p'] < .05
    assert nine['their vote, moved copies'] >= nine['the best, moved copies']
    assert min(b[k] for b in ballots.values() for k in b if k.startswith('p')) > .4

def test_pupils(nets):
    pupils = nets[nets['learned from'] == 'teachers']
    own = pd.Series([lesson(w)['own'] for w in pupils.wrong]).groupby([*pupils.net]).mean()
    trained, clean = mean(pupils, 'as trained'), mean(pupils, 'clean statistics')
    five, nine, wide = 'strided CNN, pupil of five', 'strided CNN, pupil of nine', 'wide strided CNN, pupil of nine'
    assert abs(trained[five] - trained[nine]) < 1 and own[nine] > 2.5*own[five]
    assert 0 < clean[nine] - clean[wide] < 2 and abs(clean[wide] - clean[fresh]) < 1 and 8 < own[fresh] < own[wide] < 11
    of_fresh = pupils[pupils.net == fresh].set_index('seed')['as trained']
    assert of_fresh[3:].mean() > 25 and 25 < of_fresh.mean() < 25.5   # the mark was missed, narrowly
    recipe_means = nets.groupby(['net', 'on'])[[*ways]].mean()[nets.groupby(['net', 'on']).size() >= 3]
    assert recipe_means.min().min() == of_fresh.mean()
    by_seed = nets[nets.net == 'strided CNN'].query('on == "Intel"').set_index('seed')['as trained']
    assert (pupils[pupils.net == five].set_index('seed')['as trained'] < by_seed).all()
    softer = pupils[pupils.net == f'{fresh}, temperature 4']['as trained']
    assert of_fresh.max() < softer.min() and (len(of_fresh), len(softer)) == (6, 3)

def test_the_trial_chose_the_other_temperature():
    trials = of('agreement', 'recipes')
    otherwise = trials.differs.map(lambda d: len(d['as trained'])).groupby(trials.recipe.str[-1])
    assert (trials.n == 50_000).all() and otherwise.max()['4'] < .85*otherwise.min()['2']
    first = trials[trials.seed == 0].differs.map(lambda d: len(d['as trained']))
    assert first.idxmin() == trials.recipe.str.endswith('4').idxmax()
