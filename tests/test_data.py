"How the images are shared out."
import numpy as np, torch
from finetune_course.data import mnist5k, split

def test_split_is_stratified_seeded_and_disjoint():
    from sklearn.model_selection import train_test_split
    ds = mnist5k(8)
    rest, part = split(ds, .2)
    _, theirs = train_test_split(ds.y.numpy(), test_size=.2, stratify=ds.y.numpy(), random_state=0)
    assert (part.y.bincount() == torch.from_numpy(np.bincount(theirs))).all() and len(rest) + len(part) == len(ds)
    assert part.digest == split(ds, .2)[1].digest != split(ds, .2, seed=1)[1].digest
