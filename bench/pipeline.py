"""The default run with its control, seed by seed: accuracy, size and speed of every stage, also on MNIST's 10,000 test images.

    python -m bench.pipeline [--idx FOLDER] [--seeds 0 1 2]

Seeds that are in the JSON already are skipped, so the command may be stopped and started again."""
import argparse, json, tempfile
from dataclasses import asdict
from pathlib import Path

from finetune_course.evaluate import environment
from finetune_course.pipeline import Config, evaluate_run, ledger_of, run

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--idx', type=Path, help="folder with MNIST's four files: measure on its 10,000 test images too")
    p.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2])
    p.add_argument('--keep', type=Path, help='keep the runs in this folder')
    p.add_argument('--out', type=Path, default=Path(__file__).parent/'results'/'pipeline.json')
    a = p.parse_args()
    done = json.loads(a.out.read_text()) if a.out.is_file() else dict(environment=environment(), runs=[])
    now = {k: v for k, v in asdict(Config(baseline=True)).items() if k not in ('seed', 'out')}
    if any({k: r['options'].get(k) for k in now} != now for r in done['runs']): p.error(f'{a.out} holds another recipe; remove it or give --out')
    for seed in sorted(set(a.seeds) - {r['seed'] for r in done['runs']}):
        with tempfile.TemporaryDirectory() as tmp:
            path, rep = run(Config(seed=seed, baseline=True, out=str((a.keep or Path(tmp))/f'seed{seed}')))
            rec = {k: rep[k] for k in ('seed', 'seconds', 'training_seconds', 'shipped', 'options', 'rows')}
            del rec['options']['out']
            print(ledger_of(rep), f'{rep["seconds"]} s, of which {rep["training_seconds"]} training', sep='\n')
            if a.idx:
                full = evaluate_run(path, str(a.idx))
                rec['mnist_test'] = full['rows']
                print(ledger_of(full), flush=True)
        done['runs'] = sorted([*done['runs'], rec], key=lambda r: r['seed'])
        a.out.parent.mkdir(exist_ok=True)
        a.out.write_text(json.dumps(done, indent=1) + '\n')

if __name__ == '__main__': main()
