"JupyterLab for real: cells run, a digit is drawn with the mouse and read, a slider moves a figure."
import json, os, shutil, socket, subprocess, sys, time
from pathlib import Path
from urllib.request import urlopen
import nbformat, pytest

playwright = pytest.importorskip('playwright.sync_api', reason='playwright is not installed: pip install playwright')
chromium = next(filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome'))), None)
missing = 'Chromium is not installed (Debian: apt install chromium)'
pytestmark = [pytest.mark.slow, pytest.mark.skipif(not chromium, reason=missing)]
root = Path(__file__).parent.parent
pictures = os.environ.get('SCREENSHOTS')   # a folder, to look at what the tests saw

def free_port():
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]

@pytest.fixture(scope='module')
def lab(tmp_path_factory):
    "A server in a folder with the first chapter and a notebook that holds one explorer; its address"
    home = tmp_path_factory.mktemp('lab')
    shutil.copy(root/'nbs'/'00_start.ipynb', home)
    cell = nbformat.v4.new_code_cell('from finetune_course.base.explore import explore_rates\nexplore_rates()')
    kernel = dict(kernelspec=dict(name='python3', display_name='python3', language='python'))
    nbformat.write(nbformat.v4.new_notebook(cells=[cell], metadata=kernel), home/'rates.ipynb')
    settings = home/'settings'/'@jupyterlab'/'notebook-extension'/'tracker.jupyterlab-settings'
    settings.parent.mkdir(parents=True)
    settings.write_text(json.dumps({'windowingMode': 'none'}))   # every cell is on the page
    port, log = free_port(), open(home/'log', 'w')
    env = os.environ | dict(JUPYTERLAB_SETTINGS_DIR=str(home/'settings'), PYTHONWARNINGS='ignore')
    options = f'--no-browser --allow-root --port={port} --IdentityProvider.token=t --expose-app-in-browser'.split()
    server = subprocess.Popen([sys.executable, '-m', 'jupyterlab', *options, '--ServerApp.root_dir', str(home)],
                              cwd=home, env=env, stdout=log, stderr=log)
    address = f'http://127.0.0.1:{port}'
    for _ in range(120):
        try: urlopen(f'{address}/api/status?token=t')
        except OSError: time.sleep(.5)
        else: break
    yield address
    server.terminate()
    server.wait(20)

@pytest.fixture
def page(lab):
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=chromium, args=['--no-sandbox'])
        page = browser.new_page(viewport=dict(width=1280, height=900))
        page.set_default_timeout(120_000)   # the first chapter trains
        yield page
        browser.close()

def wait_until_idle(page): page.wait_for_function("() => document.body.innerText.includes('| Idle')")   # status bar

def run_all(page, lab, notebook):
    page.goto(f'{lab}/lab/tree/{notebook}?token=t&reset')
    page.wait_for_selector('.jp-Notebook .jp-CodeCell')
    wait_until_idle(page)
    page.evaluate("() => { window.jupyterapp.commands.execute('notebook:run-all-cells') }")   # goes on by itself

def look(page, name):
    if pictures: page.screenshot(path=Path(pictures)/f'{name}.png')

def test_a_digit_is_drawn_and_read(page, lab):
    run_all(page, lab, '00_start.ipynb')
    page.wait_for_function("() => document.querySelectorAll('canvas[aria-label]').length == 2")
    wait_until_idle(page)
    canvas, said = page.locator('canvas[aria-label]').last, page.locator('.said').last
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    places = [(box['x'] + 280*x, box['y'] + 280*y) for x, y in ((.35, .25), (.66, .24), (.45, .78))]
    page.mouse.move(*places[0])
    page.mouse.down()
    for x, y in places[1:]: page.mouse.move(x, y, steps=12)
    page.mouse.up()
    page.wait_for_function("() => [...document.querySelectorAll('.said')].at(-1).innerText.includes('int8:')")
    look(page, 'drawn')
    assert all(f'{net}: 7' in said.inner_text() for net in ('fine-tuned', 'pruned', 'int8'))

def test_a_slider_moves_the_figure(page, lab):
    run_all(page, lab, 'rates.ipynb')
    handle = page.locator('.noUi-handle').first
    handle.wait_for()
    page.locator('.jp-OutputArea-output svg, .jp-OutputArea-output img').last.wait_for()
    before = page.locator('.jp-OutputArea').first.inner_html()
    handle.focus()
    page.keyboard.press('ArrowRight')
    page.wait_for_function("before => document.querySelector('.jp-OutputArea').innerHTML != before", arg=before)
    look(page, 'slider')
    assert page.locator('.widget-readout').first.inner_text() == '0.00178'   # a quarter of a factor of ten more
