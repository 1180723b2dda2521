"When memory runs out."
import pytest, torch
from finetune_course.base.errors import InputError
from finetune_course.base.memory import fit_in_memory

def test_one_of_several_processes_that_runs_out_of_memory_says_so(monkeypatch):
    def fit(bs, cbs): raise torch.OutOfMemoryError('pretended')
    monkeypatch.setattr('finetune_course.base.memory.num_distrib', lambda: 2)
    with pytest.raises(InputError, match='64 images on each device.*--batch-size'): fit_in_memory(fit, 64)
