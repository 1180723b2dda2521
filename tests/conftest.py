"What the tests share; and how nbval runs the chapters: the cells that nbdev-test runs, comparing what they print."
from functools import cache
from pathlib import Path
import pytest
from nbdev.config import get_config
from nbdev.test import nb_test_cells
from nbval.kernel import RunningKernel

rich = 'text/html', 'text/markdown', 'text/latex', 'image/svg+xml', 'image/png', 'image/jpeg'

@cache
def tested(path):
    "Ids of the cells that nbdev-test runs in this notebook."
    return {c.id for c in nb_test_cells(path, skip_flags=get_config().tst_flags)}

def printed(outputs):
    "Without what is drawn (tables, figures), which holds measurements, and without its stand-in text."
    return [o for o in outputs if not any(k in o.get('data', {}) for k in rich) and o.get('name') != 'stderr']

def execute(self, source, allow_stdin=None):
    "With history, as in a notebook; nbval goes without, and then a closing `;` silences nothing."
    return self.kc.execute(source, allow_stdin=allow_stdin, stop_on_error=False)
RunningKernel.execute_cell_input = execute

def pytest_collection_modifyitems(items):
    for item in items:
        if not hasattr(item, 'cell'): continue
        item.cell.execution_count = 1                       # nbdev-clean takes the counts away; nbval reads that as "never run"
        item.options['skip'] |= item.cell.id not in tested(item.path)
        compare = item.compare_outputs
        item.compare_outputs = lambda test, ref, compare=compare: compare(printed(test), printed(ref))

def pytest_sessionfinish(session):
    "Each collected chapter was really run: at least one of its cells."
    ran = {Path(i.path) for i in session.items if hasattr(i, 'cell') and i.test_outputs is not None}
    idle = {Path(i.path) for i in session.items if hasattr(i, 'cell')} - ran
    if idle and not session.config.option.collectonly: pytest.exit(f'not run: {", ".join(p.name for p in idle)}', 1)

def refused(capsys, *argv):
    "The one sentence a refused call prints"
    from finetune_course.cli import main
    capsys.readouterr()
    try: code = main([str(a) for a in argv])
    except SystemExit as e: code = e.code          # argparse's own way out
    assert code == 2
    out, err = capsys.readouterr()
    assert out == '' and err.startswith('finetune-course: ') and err.count('\n') == 1 and 'Traceback' not in err
    return err
