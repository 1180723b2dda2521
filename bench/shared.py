"What the benchmarks share: results that are written whole and belong together, and digits as files."
import argparse, json, sys, time
from pathlib import Path

from PIL import Image
from finetune_course.data import Images, InputError
from finetune_course.evaluate import environment
from finetune_course.export import write_atomic

here = Path(__file__).parent

def arguments(doc: str, out: str) -> argparse.ArgumentParser:
    "The command line that all have"
    p = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--out', type=Path, default=here/'results'/out)
    return p

def command(main):
    "Run `main`; bad input is one sentence and exit code 2"
    try: main()
    except InputError as e:
        print(f'error: {e}', file=sys.stderr)
        sys.exit(2)

def known(names: list[str], there):
    "Raise `InputError` for a name that is not there"
    if unknown := [n for n in names if n not in there]: raise InputError(f'{unknown[0]!r} is unknown; choose among {"; ".join(there)}.')

def read(path: Path, **new) -> dict:
    "What a file of results holds; `new` where there is none"
    return json.loads(path.read_text(encoding='utf-8')) if path.is_file() else new

def keep(path: Path, results: dict):
    "Write a file of results, whole or not at all"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, json.dumps(results, indent=1) + '\n')

same_images = 'give the same --idx, or another --out'   # remedy

def unmixed(path: Path, what: str, was, now, remedy: str = 'give another --out'):
    "Raise `InputError` where a file of results holds others than would be added"
    if others := [w for w in was if w != now]: raise InputError(f'{path} holds results of {what} {others[0]}, not {now}; {remedy}.')

def machine(env: dict) -> str:
    "What results have to share: processor, cores, versions"
    return f'{env["cpu"]}, {env["cores"]} cores, ' + ', '.join(f'{k} {v}' for k, v in env['versions'].items())

def read_here(path: Path, **new) -> dict:
    "`read`, with the machine in it; raises `InputError` where the results are another's"
    res = read(path, environment=environment(), **new)
    unmixed(path, 'the machine', [machine(res['environment'])], machine(environment()))
    return res

def as_pngs(ds: Images, folder: Path):
    "Write images as files in a folder of class folders"
    for i, (x, c) in enumerate(zip(ds.x, ds.y)):
        (sub := folder/ds.vocab[c]).mkdir(parents=True, exist_ok=True)
        Image.fromarray(x[0].numpy()).save(sub/f'{i:05}.png')

def epoch(dl) -> float:
    "Images a second over one epoch of batches"
    t, n = time.perf_counter(), 0
    for xb, _ in dl: n += len(xb)
    return n/(time.perf_counter() - t)
