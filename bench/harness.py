"""What all measurements share: one record a line, nothing measured twice, one command line.

A record with the same experiment, settings and seed is not made again. If it tells times, then only on the
same machine with the same versions."""
import argparse, json, os, subprocess, sys, warnings
from functools import cache
from pathlib import Path

import torch
from PIL import Image
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from finetune_course.base.results import environment
from finetune_course.base.errors import InputError
from finetune_course.data import Images, idx_folder, load

here = Path(__file__).parent
nets_folder = here/'teachers'   # trained nets that other measurements start from
seeds = dict(type=int, nargs='+', default=[0, 1, 2], help='default: 0 1 2')
device = dict(default='auto', help='auto, cpu, cuda or mps; default: auto')
mnist = dict(type=Path, metavar='FOLDER', help="folder with MNIST's four files")

def git_commit(
    folder: str | Path,    # inside a checkout
    ignore: str = 'none',  # a path whose changes do not count, seen from `folder`
) -> str | None:           # 40 hex digits, with '-dirty' if files differ from it; None outside a repository
    "The commit that is checked out."
    def git(*args): return subprocess.run(['git', '-C', str(folder), *args], capture_output=True, text=True)
    try: head = git('rev-parse', 'HEAD')
    except OSError: return None   # there is no git
    if head.returncode: return None
    changed = git('diff', '--quiet', 'HEAD', '--', ':/', f':(exclude){ignore}').returncode
    return head.stdout.strip() + '-dirty'*bool(changed)

def record(
    experiment: str,
    settings: dict,            # what tells this measurement from others of the experiment
    seed: int | None,
    result: dict,              # none of its names is in `settings`
    gpu: str | None = None,    # name of the GPU that did the work
    commit: str | None = None,
    more=(),                   # packages, as for `environment`
) -> dict:
    "One line of a file of results; `machine` names processor and cores, or the GPU before them."
    env = environment(more)
    machine = ', '.join([*([gpu] if gpu else []), env['cpu'], f'{env["cores"]} cores'])
    return dict(experiment=experiment, settings=settings, seed=seed, result=result, machine=machine,
                versions=dict(python=env['python'], **env['versions']), commit=commit, date=env['date'])

@cache
def commit(): return git_commit(here, ignore='results')   # a record more is no change

class Results:
    "A file of records, one a line."
    def __init__(self, path: Path): self.path = Path(path)

    def records(self) -> list[dict]:
        "All that are there; raises `InputError` for a line that is none"
        if not self.path.is_file(): return []
        lines = self.path.read_text(encoding='utf-8').splitlines()
        return [self._parsed(i, line) for i, line in enumerate(lines, 1)]

    def _parsed(self, i, line):
        try: r = json.loads(line)
        except ValueError: r = None
        if isinstance(r, dict) and r.keys() >= {'experiment', 'settings', 'seed', 'result'}: return r
        raise InputError(f'line {i} of {self.path} is no record; remove it or give another --out.')

    def find(self, new: dict, timed: bool = False) -> dict | None:
        "The record of the measurement that `new` would be, if it was made"
        new = json.loads(json.dumps(new))   # as it would be read
        keys = ['experiment', 'settings', 'seed', *(['machine', 'versions'] if timed else [])]
        return next((r for r in self.records() if all(r.get(k) == new[k] for k in keys)), None)

    def check_same(self, new: dict, names):
        "Raise `InputError` if results would be mixed that no table should show together"
        for r in self.records():
            was, now = r['settings'], new['settings']
            differs = [n for n in names if r['experiment'] == new['experiment'] and was.get(n) != now.get(n)]
            for n in differs:
                refuse(f'{self.path} holds results with {n} {was.get(n)}, not {now.get(n)}; give another --out.')

    def append(self, rec: dict):
        "Add a line in one write, so that several processes may add lines to one file"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, 'ab', buffering=0) as f:
            f.write((json.dumps(rec, ensure_ascii=False) + '\n').encode())
            os.fsync(f.fileno())

    def once(self,
        experiment: str, settings: dict, seed: int | None,
        measure,                 # () → result; called only if the record is not there
        timed: bool = False,     # the result holds for this machine and these versions
        same=('test',),          # settings that all records of the experiment share
        **kwargs,                # `gpu` and `more` of `record`
    ) -> dict:
        "The result of one measurement, made now or read from the file"
        new = record(experiment, settings, seed, {}, commit=commit(), **kwargs)
        self.check_same(new, same)
        if found := self.find(new, timed): return found['result']
        new['result'] = measure()
        self.append(new)
        print(experiment, {**settings, 'seed': seed}, brief(new['result']), flush=True)
        return new['result']

def brief(o):
    "A result for the terminal: lists by their lengths, floats in four digits"
    if isinstance(o, dict): return {k: brief(v) for k, v in o.items()}
    if isinstance(o, list): return f'[{len(o)}]'
    return float(f'{o:.4g}') if isinstance(o, float) else o

def chosen(given: list[str], names) -> list[str]:
    "The names that are given, or begin so; all if none is. Raises `InputError` for an unknown one."
    asked = []
    for g in given:
        found = [g] if g in names else [n for n in names if n.startswith(g)]
        if not found: refuse(f'{g!r} is unknown; choose among: {"; ".join(names) or "no names"}.')
        asked += found
    return [n for n in names if n in asked or not given]

def refuse(message): raise InputError(message)

def told(error: InputError) -> int:
    "One sentence for whoever called, and the exit code"
    print(f'error: {error}', file=sys.stderr)
    return 2

def main(
    topic: str,         # its results are in results/TOPIC.jsonl
    doc: str,           # what is measured, and how to call it
    experiments: dict,  # name → function of `Results`, arguments and names; all names that it knows
    argv=None,
    **options,          # name → keyword arguments of `add_argument`
):
    "A topic's command; bad input is one sentence and exit code 2."
    p = argparse.ArgumentParser(f'python -m bench.{Path(sys.argv[0]).stem}', description=doc,
                                formatter_class=argparse.RawDescriptionHelpFormatter)
    p.error = refuse
    if len(experiments) > 1: p.add_argument('experiment', help=', '.join(experiments))
    else: p.set_defaults(experiment=next(iter(experiments)))
    p.add_argument('names', nargs='*', metavar='name', help='or its beginning; default: all')
    p.add_argument('--out', type=Path, default=here/'results'/f'{topic}.jsonl')
    for name, kwargs in options.items(): p.add_argument(f'--{name}', **kwargs)
    warnings.filterwarnings('ignore')
    try:
        a = p.parse_args(argv)
        if a.out.is_dir(): refuse(f'{a.out} is a folder; give a file as --out.')
        results = Results(a.out)
        for experiment in chosen([a.experiment], experiments):
            measure, names = experiments[experiment]
            measure(results, a, chosen(a.names, names))
        print(f'{len(results.records())} records in {a.out}')
    except InputError as e: sys.exit(told(e))

# ---- digits

def test_images(folder: Path | None, px: int) -> tuple[str, Images]:
    "Name and images that are reported: MNIST's if its folder is given, else the embedded ones"
    ds = idx_folder(folder, px, ['test'])[0] if folder else load('mnist5k', px)[1]
    return f"MNIST's {len(ds):,}" if folder else f'{len(ds):,} held out', ds

def save_png(ds: Images, folder: Path):
    "Write images as files in a folder of class folders"
    for i, (x, c) in enumerate(zip(ds.x, ds.y)):
        (sub := folder/ds.vocab[c]).mkdir(parents=True, exist_ok=True)
        Image.fromarray(x[0].numpy()).save(sub/f'{i:05}.png')

# ---- nets

def flops(net: nn.Module, channels: int, px: int) -> int:
    "Operations of one image, forward: two for each multiplication"
    x = torch.zeros(1, channels, px, px)
    with FlopCounterMode(display=False) as counter, torch.no_grad(): net.cpu().eval()(x)
    return counter.get_total_flops()
