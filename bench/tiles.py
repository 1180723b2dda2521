"""Colour images without a download: tiles cut out of the pictures in scikit-image's wheel.

    python -m bench.tiles FOLDER [--seed 0]

writes FOLDER/train and FOLDER/test, a folder a picture. The question is which picture a tile belongs to. Tiles to learn
from come from its left three fifths, tiles to be tested on from the rest, so no pixel is in both.
Then `python -m bench.photos run --photos FOLDER`. Needs `pip install scikit-image`."""
import argparse, sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image
from bench.harness import refuse, told
from finetune_course.base.errors import InputError

pictures = ('astronaut', 'brick', 'chelsea', 'coffee', 'grass', 'gravel', 'hubble_deep_field', 'immunohistochemistry',
            'retina', 'rocket')   # large enough, and inside the wheel
px, counts = 64, dict(train=100, test=60)

def halves(picture: np.ndarray) -> dict[str, np.ndarray]:
    "H×W×3: what `train` is cut from, and `test`"
    picture = np.atleast_3d(picture)
    picture = np.broadcast_to(picture, (*picture.shape[:2], 3))   # grey ones too
    middle = picture.shape[1]*3//5
    return dict(train=picture[:, :middle], test=picture[:, middle:])

def tiles(area: np.ndarray, n: int, rng: np.random.Generator):
    "`n` squares at random places"
    tops, lefts = (rng.integers(0, side - px, n) for side in area.shape[:2])
    for top, left in zip(tops, lefts): yield Image.fromarray(area[top:top+px, left:left+px])

def write_tiles(folder: Path, seed: int = 0):
    "A data set as `bench.photos` takes it"
    from skimage import data
    rng = np.random.default_rng(seed)
    for name in pictures:
        for part, area in halves(getattr(data, name)()).items():
            (sub := folder/part/name).mkdir(parents=True)
            for i, tile in enumerate(tiles(area, counts[part], rng)): tile.save(sub/f'{i:03}.png')

def command(argv=None):
    p = argparse.ArgumentParser('python -m bench.tiles', description=__doc__,
                                formatter_class=argparse.RawDescriptionHelpFormatter)
    p.error = refuse
    p.add_argument('folder', type=Path, metavar='FOLDER', help='a new one')
    p.add_argument('--seed', type=int, default=0, help='of the places; default: 0')
    try:
        a = p.parse_args(argv)
        if a.folder.exists(): refuse(f'{a.folder} exists; give a new folder.')
        if not find_spec('skimage'): refuse('scikit-image is not installed: pip install scikit-image')
    except InputError as e: sys.exit(told(e))
    write_tiles(a.folder, a.seed)
    print(f'{len(pictures)} classes in {a.folder}')

if __name__ == '__main__': command()
