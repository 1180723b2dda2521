"""Writes bench/recipes.md: recipes_template.md with tables and numbers from the records of bench.recipes."""
import math
from itertools import combinations

import pandas as pd
from bench.harness import here
from finetune_course.base.results import read_results
from finetune_course.evaluate import mcnemar

ways = 'as trained', 'averaged weights', 'clean statistics', 'moved copies', 'clean, and moved less'

def listed(values) -> str: return ', '.join(f'{v:.0f}' for v in values)

def markdown(df: pd.DataFrame, digits: int = 1) -> str:
    "A table, its index first"
    def cell(v): return '' if v != v else f'{v:.{digits}f}' if isinstance(v, float) else str(v)
    head = [df.index.name or '', *df.columns]
    rows = [[cell(v) for v in row] for row in zip(df.index, *(df[c] for c in df))]
    return '\n'.join('| ' + ' | '.join(row) + ' |' for row in [head, ['---']*len(head), *rows])

def read_tests(path) -> pd.DataFrame:
    "A row a net that was asked about MNIST's test images; the number of its mistakes by way to ask"
    df = read_results(path, 'test').rename(columns=dict(recipe='net'))
    for way in ways: df[way] = df.wrong.map(lambda w: len(w[way]) if way in w else math.nan)
    df['on'] = df.machine.str.extract('(H100|H200|Intel|AMD)')
    df['learned from'] = df.net.str.contains('pupil').map({False: 'labels', True: 'teachers'})
    return df.sort_values(['net', 'on', 'seed']).reset_index(drop=True)

def by_machine(nets, before):
    cells = nets.groupby(['net', 'on'])['as trained'].apply(listed).unstack().fillna('')
    order = nets.groupby('net')['as trained'].mean().sort_values().index
    missed = pd.Series([i for w in nets.wrong for i in w['as trained']]).value_counts()
    common = sorted(missed.index[missed == len(nets)])
    means = {name: df[way].mean() for name, df, way in (
        ('few', before, 'as trained'), ('few_moved', before, 'moved copies'),
        ('many', nets, 'as trained'), ('many_moved', nets, 'moved copies'))}
    return dict(means, nets=markdown(cells.loc[order]), n_nets=len(nets), missed=len(missed),
                mostly_missed=(missed > len(nets)/2).sum(), n_common=len(common), common=listed(common))

def gain(nets, way):
    "Against the same nets as trained: how many make fewer, as many, more mistakes; the mean"
    d = (nets[way] - nets['as trained']).dropna()
    return {'fewer': (d < 0).sum(), 'as many': (d == 0).sum(), 'more': (d > 0).sum(), 'mean': d.mean()}

def by_way(nets):
    groups = [(way, who, df) for way in ways[1:] for who, df in nets.groupby('learned from')]
    rows = [{'way': way, 'nets that learned from': who, **gain(df, way)} for way, who, df in groups]
    table = pd.DataFrame(rows).set_index('way')
    strided = nets[nets.net.str.contains('strided') & (nets['learned from'] == 'teachers')]
    return dict(ways=markdown(table), n_strided=len(strided), strided_moved=gain(strided, 'moved copies'),
                strided_clean=gain(strided, 'clean statistics'))

def overlap(nets):
    "The share of mistakes that two nets have in common, by their kinds"
    some = nets[nets.on == 'H200']
    kinds = some.net.str.extract('(strided|pretrained|deep)')[0]
    wrong = [(kind, {*w['as trained']}) for kind, w in zip(kinds, some.wrong)]
    pairs = [(one, other, len(a & b)/len(a | b)) for (one, a), (other, b) in combinations(wrong, 2)]
    table = pd.DataFrame(pairs).groupby([0, 1])[2].mean().unstack()
    return dict(overlap=markdown(table.rename_axis('mistakes in common'), 2))

votes = {   # whose teachers, trained where, which nets they are
    'three deep CNNs': ('deep CNN, pupil of three', 'Intel', 'deep CNN.*hard'),
    'three strided, two deep CNNs': ('strided CNN, pupil of five', 'Intel', r'strided CNN$|deep CNN .×'),
    'two strided, one pretrained (48 px)': ('strided CNN, pupil of two kinds', 'AMD', r'strided CNN$|48 px'),
    'nine': ('strided CNN, pupil of nine', 'H200', ''),
}

def ballot(nets, pupil, on, members):
    "The best voter and the vote, as trained and with moved copies, and McNemar's p between them"
    voters = nets[(nets.on == on) & nets.net.str.contains(members) & (nets['learned from'] == 'labels')].wrong
    vote, row = nets[nets.net == pupil].wrong.iloc[0], dict(voters=len(voters))
    for way, end in ('as trained', ''), ('moved copies', ', moved copies'):
        best, together = min((w[way] for w in voters), key=len), vote[f'teachers{end}']
        p = mcnemar(len({*best} - {*together}), len({*together} - {*best}))
        row |= {f'the best{end}': len(best), f'their vote{end}': len(together), f'p{end}': p}
    return row

def by_vote(nets):
    table = pd.DataFrame([dict(nets=name, **ballot(nets, *v)) for name, v in votes.items()]).set_index('nets')
    return dict(votes=markdown(table, 2), nine=table.loc['nine'])

def lesson(wrong):
    "How many of the teachers' mistakes a pupil follows, adds, mends"
    pupil, teachers = {*wrong['as trained']}, {*wrong['teachers']}
    both = len(pupil & teachers)
    return dict(teachers=len(teachers), follows=both, own=len(pupil) - both, mended=len(teachers) - both)

fresh = 'wide strided CNN, pupil of nine, fresh copies'

def by_pupil(nets):
    pupils = nets[nets['learned from'] == 'teachers'].reset_index(drop=True)
    pupils = pupils.join(pd.DataFrame([*map(lesson, pupils.wrong)]))
    columns = 'teachers', 'follows', 'own', 'mended', 'as trained', 'clean statistics', 'moved copies'
    means = pupils.groupby('net').agg(seeds=('seed', 'size'), **{k: (k, 'mean') for k in columns})
    means['seed by seed'] = pupils.groupby('net')['as trained'].apply(listed)
    of_fresh = pupils[pupils.net == fresh].sort_values('seed')['as trained']
    by_temperature = means.loc[[fresh, f'{fresh}, temperature 4']].set_axis([2, 4]).rename_axis('temperature')
    return dict(pupils=markdown(means.sort_values('as trained')), own=means.own,
                temperatures=markdown(by_temperature.drop(columns=['teachers', 'mended'])),
                fresh_first=listed(of_fresh[:3]), fresh_then=listed(of_fresh[3:]), fresh_mean=of_fresh.mean())

def by_temperature(path):
    df = read_results(path, 'agreement')
    df['temperature'] = df.recipe.str.extract(r'(\d)$')[0]
    df['otherwise'] = df.differs.map(lambda w: len(w['as trained']))
    table = df.pivot(index='temperature', columns='seed', values='otherwise').rename(columns='seed {}'.format)
    return dict(trials=markdown(table, 0))

def facts(path) -> dict:
    "Tables and numbers, by their names in the template"
    tests = read_tests(path)
    small = tests.net == '26 epochs'
    nets = tests[~small].reset_index(drop=True)
    return {**by_machine(nets, tests[small]), **by_way(nets), **overlap(nets), **by_vote(nets),
            **by_pupil(nets), **by_temperature(path)}

def render(path) -> str:
    return (here/'recipes_template.md').read_text(encoding='utf-8').format(**facts(path))

def write(path): (here/'recipes.md').write_text(render(path), encoding='utf-8')
