"""The default run with its control, seed by seed: accuracy, size and speed of every stage, also on MNIST's 10,000 test images.

    python -m bench.pipeline [--idx FOLDER] [--seeds 0 1 2]

Seeds that are in the JSON already are skipped, so the command may be stopped and started again."""
import tempfile
from dataclasses import asdict
from pathlib import Path

from bench.shared import arguments, command, keep, read_here, same_images, unmixed
from finetune_course.data import idx_folder, load
from finetune_course.pipeline import Config, evaluate_run, ledger_of, run

def main():
    p = arguments(__doc__, 'pipeline.json')
    p.add_argument('--idx', type=Path, help="folder with MNIST's four files: measure on its 10,000 test images too")
    p.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2])
    a = p.parse_args()
    done = read_here(a.out, runs=[])
    for k, v in asdict(Config(baseline=True)).items(): unmixed(a.out, k, [r['options'].get(k) for r in done['runs'] if k not in ('seed', 'out')], v)
    unmixed(a.out, 'test images', [r.get('mnist_test', r['rows'])[0]['n'] for r in done['runs']], len(idx_folder(a.idx, 28, ['test'])[0] if a.idx else load('mnist5k', 28)[1]), same_images)
    for seed in sorted(set(a.seeds) - {r['seed'] for r in done['runs']}):
        with tempfile.TemporaryDirectory() as tmp:
            path, rep = run(Config(seed=seed, baseline=True, out=f'{tmp}/run'))
            rec = {k: rep[k] for k in ('seed', 'seconds', 'training_seconds', 'shipped', 'options', 'rows')}
            del rec['options']['out']
            print(ledger_of(rep), f'{rep["seconds"]} s, of which {rep["training_seconds"]} training', sep='\n')
            if a.idx:
                full = evaluate_run(path, str(a.idx))
                rec['mnist_test'] = full['rows']
                print(ledger_of(full), flush=True)
        done['runs'] = sorted([*done['runs'], rec], key=lambda r: r['seed'])
        keep(a.out, done)

if __name__ == '__main__': command(main)
