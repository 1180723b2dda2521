"Weight files: nothing in them is run, and they are what they say they are."
import os, pickle
import pytest, torch
from safetensors.torch import save_file
from conftest import refused
from finetune_course.base.weights import read_weights
from finetune_course.backbone import create_pretrained
from finetune_course.base.errors import InputError

class Evil:
    def __reduce__(self): return os.mkdir, ('evil-was-here',)

def test_a_pickle_runs_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with open('w.pth', 'wb') as f: pickle.dump(Evil(), f)
    torch.save({'w': Evil()}, 'v.pth')
    for w in 'w.pth', 'v.pth':
        assert 'nothing in it was run' in refused(capsys, 'run', '--weights', w, '--out', 'o')
    assert not os.path.exists('evil-was-here') and not list(tmp_path.glob('o*'))

def test_weights_of_another_net_and_of_another_hash(tmp_path):
    save_file({'a': torch.zeros(3)}, tmp_path/'a.safetensors')
    with pytest.raises(InputError, match='other names than ResNet'):
        create_pretrained('resnet18', tmp_path/'a.safetensors')
    torch.save({'a': torch.zeros(3)}, tmp_path/'net-01234567.pth')
    with pytest.raises(InputError, match='sha256'): read_weights(tmp_path/'net-01234567.pth')
    with pytest.raises(InputError, match='does not exist'): read_weights(tmp_path/'none.pth')
