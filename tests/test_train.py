"What the trainings of a run share: memory, workers, checkpoints."
import pytest, torch
from conftest import digits_config
from finetune_course.export import Spec
from finetune_course.app.search import Job, read_splits
from finetune_course.app.train import Trainer
from finetune_course.base.checkpoint import Checkpoint

def test_a_batch_that_was_cut_stays_cut_on_resume(tmp_path):
    cfg, tried = digits_config(size=16), []
    job = Job(cfg, read_splits(cfg), tmp_path)
    spec = Spec(cfg.arch, job.splits[16].train.vocab, 16)
    def fit(dls, **kwargs):
        tried.append(dls.train.bs)
        raise torch.OutOfMemoryError if dls.train.bs > 20 else KeyboardInterrupt
    ckpt = tmp_path/'checkpoint'
    ckpt.mkdir()
    for name in 'fit0.pt', 'fit0.previous', 'fit1.pt': (ckpt/name).touch()   # as larger batches left them
    for resume in False, True:
        with pytest.raises(KeyboardInterrupt): Trainer(job, Checkpoint(ckpt, resume=resume))(spec, fit)
        assert [f.name for f in ckpt.iterdir()] == ['fit0.json']
    assert tried == [64, 32, 16, 16]

def test_a_stream_goes_on_with_as_many_workers(shards, tmp_path, monkeypatch):
    "The order of its batches depends on their number, which another machine would choose otherwise"
    cfg = digits_config(data=str(shards), size=28, device='cpu')
    job = Job(cfg, read_splits(cfg), tmp_path)
    def workers(n):
        monkeypatch.setattr('finetune_course.app.train.decode_workers', lambda device: n)
        trainer = Trainer(job, Checkpoint(tmp_path/'checkpoint', resume=True))
        return trainer.batches.keywords['num_workers']
    assert [workers(2), workers(0)] == [2, 2]
