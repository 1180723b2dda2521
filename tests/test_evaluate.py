"Oracles for the ruler."
import io
from dataclasses import replace
import numpy as np, pandas as pd, pytest
from conftest import random_images
from finetune_course.base.pictures import confusion_matrix, plot_confusion, plot_worst
from finetune_course.app.judge import classes_that_lost
from finetune_course.evaluate import wilson

@pytest.mark.parametrize('k, n', [(0, 10), (10, 10), (985, 1000), (1, 3)])
def test_wilson(k, n):
    z, p = 1.959964, k/n
    middle, half = p + z*z/(2*n), z*(p*(1-p)/n + z*z/(4*n*n))**.5
    assert np.allclose(wilson(k, n), ((middle - half)/(1 + z*z/n), (middle + half)/(1 + z*z/n)), atol=1e-4)

def test_a_class_that_pays_is_named():
    table = pd.DataFrame({'n': [100, 100], 'errors before': [1, 1], 'errors after': [21, 2],
                          'lost': [20, 1], 'gained': [0, 0], 'p': [4e-6, 1.]}, index=['a', 'b'])
    assert [str(f)[:12] for f in classes_that_lost(table)] == ['class a pays']

def test_class_names_are_no_formulas():
    import matplotlib.pyplot as plt
    ds = replace(random_images(9), vocab=['$a_$', '$\\x$', 'c'])
    wrong = (ds.y + 1) % 3
    figures = plot_worst(ds, np.eye(3)[wrong]), plot_confusion(confusion_matrix(ds.y, wrong, 3), ds.vocab).figure
    for fig in figures:
        fig.savefig(io.BytesIO())
        plt.close(fig)
