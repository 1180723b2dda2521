"Results of measurements: one record a line of JSON, with what it was measured on."
import json, os, platform, subprocess
from datetime import date
from importlib.metadata import distributions
from pathlib import Path

import pandas as pd

packages = 'torch', 'torchvision', 'timm', 'fastai', 'onnx', 'onnxruntime', 'torch-pruning'
int8_features = 'amx_int8', 'avx512_vnni', 'avx_vnni', 'avx512f', 'avx2'   # the first one tells

def cpu_name() -> str:
    "The processor's model and its best instructions for 8-bit integers"
    name, info = platform.processor() or platform.machine(), Path('/proc/cpuinfo')
    if not info.is_file(): return name
    pairs = (line.partition(':') for line in info.read_text().splitlines())
    about = {key.strip(): value.strip() for key, _, value in pairs}
    flags = about.get('flags', '').split()
    return ' '.join([about.get('model name', name), *[f for f in int8_features if f in flags][:1]])

def environment(more=()) -> dict:
    "The machine and the versions that a measurement belongs to, those of `more` packages too."
    versions = {p: next((d.version for d in distributions(name=p)), 'missing') for p in (*packages, *more)}
    return dict(cpu=cpu_name(), cores=os.cpu_count(), os=f'{platform.system()} {platform.machine()}',
                python=platform.python_version(), versions=versions, date=date.today().isoformat())

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

def read_results(
    path: str | Path,               # a file of records
    experiment: str | None = None,  # default: all of them
) -> pd.DataFrame:                  # a row a record
    "Columns experiment, seed, machine, versions, commit, date, and one for each setting and each result."
    records = [json.loads(line) for line in Path(path).read_text(encoding='utf-8').splitlines()]
    rows = [{**r, **r['settings'], **r['result']} for r in records if experiment in (None, r['experiment'])]
    return pd.DataFrame(rows).drop(columns=['settings', 'result'], errors='ignore')
