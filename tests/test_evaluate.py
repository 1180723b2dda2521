"Oracles for the ruler."
import io
from dataclasses import replace
import numpy as np, pandas as pd, pytest
from sklearn.metrics import confusion_matrix
from conftest import random_images
from finetune_course import evaluate as ev

@pytest.mark.parametrize('k, n', [(0, 10), (10, 10), (985, 1000), (1, 3)])
def test_wilson(k, n):
    from scipy.stats import binomtest
    ci = binomtest(k, n).proportion_ci(method='wilson')
    assert np.allclose(ev.wilson(k, n), (ci.low, ci.high), atol=1e-4)

def test_confusion_is_sklearns():
    y, p = np.random.default_rng(0).integers(0, 5, (2, 200))
    assert (ev.confusion(y, p, 5) == confusion_matrix(y, p)).all()

def test_a_class_that_pays_is_named():
    table = pd.DataFrame({'n': [100, 100], 'errors before': [1, 1], 'errors after': [21, 2],
                          'lost': [20, 1], 'gained': [0, 0], 'p': [4e-6, 1.]}, index=['a', 'b'])
    assert [s[:12] for s in ev.losers(table)] == ['class a pays']

def test_class_names_are_no_formulas():
    import matplotlib.pyplot as plt
    ds = replace(random_images(9), vocab=['$a_$', '$\\x$', 'c'])
    wrong = (ds.y + 1) % 3
    figures = ev.plot_worst(ds, np.eye(3)[wrong]), ev.plot_confusion(ev.confusion(ds.y, wrong, 3), ds.vocab).figure
    for fig in figures:
        fig.savefig(io.BytesIO())
        plt.close(fig)
