"""The default run with its control, seed by seed: accuracy, size and speed of every stage.

    python -m bench.pipeline [--seeds 0 1 2] [--mnist FOLDER]"""
import tempfile
from dataclasses import asdict
from functools import partial

from bench.harness import device, main, mnist, seeds, test_images
from finetune_course.app.config import Config, digit_recipe
from finetune_course.app.run import evaluate_run, run

def run_once(folder=None, **options):
    "Rows of the ledger, on the held-out images of the run or on those in `folder`; `options` of `Config`"
    with tempfile.TemporaryDirectory() as tmp:
        path, report = run(Config(out=f'{tmp}/run', **options))
        measured = evaluate_run(path, str(folder)) if folder else report
    print(measured.ledger)
    return dict(seconds=report.seconds, training_seconds=report.training_seconds, shipped=report.shipped,
                rows=[asdict(row) for row in measured.rows])

def default(results, a, names):
    cfg = Config(baseline=True, **digit_recipe)   # what a run on digits chooses
    name, _ = test_images(a.mnist, cfg.small_px)
    settings = dict(data=cfg.data, arch=cfg.arch, px=cfg.size, small_px=cfg.small_px, epochs=cfg.epochs,
                    recovery=cfg.recovery_epochs, prune=cfg.prune, batch_size=cfg.batch_size, test=name)
    for seed in a.seeds:
        measure = partial(run_once, a.mnist, seed=seed, baseline=True, device=a.device)
        results.once('run', settings, seed, measure, timed=True)

experiments = dict(default=(default, ()))
command = partial(main, 'pipeline', __doc__, experiments, seeds=seeds, device=device, mnist=mnist)

if __name__ == '__main__': command()
