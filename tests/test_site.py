"What tools/site.py does to notebooks and links, without rendering."
import importlib.util, re
from pathlib import Path
import pytest, yaml
from fastai.callback.core import Callback
from fastcore.basics import patch
from fastcore.nbio import mk_cell, new_nb, write_nb
from nbdev.showdoc import show_doc

root = Path(__file__).parent.parent
spec = importlib.util.spec_from_file_location('build_site', root/'tools/site.py')    # not Python's own `site`
site = importlib.util.module_from_spec(spec)
spec.loader.exec_module(site)

def config(contents): return {'website': {'sidebar': {'contents': contents}}}

def write(folder, files):
    for name, text in files.items():
        (folder/name).parent.mkdir(parents=True, exist_ok=True)
        (folder/name).write_text(text)

# --- Notebooks

class Quiet(Callback):
    "It has no `__init__`, so fastai's takes an argument for each event."

@patch
def before_fit(self:Quiet, loud:bool=False): "A method."

class Patient(Callback):
    def __init__(self, epochs:int=3, **kwargs): self.epochs = epochs

def shown(symbol):
    "What the site shows of a symbol."
    data = {'text/markdown': show_doc(symbol)._repr_markdown_().splitlines(True)}
    output = {'output_type': 'display_data', 'data': data, 'metadata': {}}
    cell = mk_cell(f'show_doc({symbol.__name__})', outputs=[output])
    return site.tidy(new_nb([cell])).cells[0].outputs[0]['data']['text/markdown']

def test_a_callback_shows_no_events():
    assert 'before_fit:NoneType=None' in show_doc(Quiet)._repr_markdown_()
    assert '```python\ndef Quiet():\n```' in shown(Quiet)

def test_other_signatures_stay():
    for symbol in Quiet.before_fit, Patient, write: assert shown(symbol) == show_doc(symbol)._repr_markdown_()

def test_run_times_are_taken_out():
    cell = mk_cell('show_doc(f)', metadata={'execution': {'total': 0.1}, 'tags': ['slow']})
    assert site.tidy(new_nb([cell, mk_cell('text', 'markdown')])).cells[0].metadata == {'tags': ['slow']}

# --- Sidebar

@pytest.fixture
def folder(tmp_path):
    for name in '05_evaluate', '10_distribute', 'index', 'base/00_errors':
        (tmp_path/name).parent.mkdir(exist_ok=True)
        write_nb(new_nb([mk_cell(f'# {name[-6:].title()}\n\n> Why?', 'markdown')]), tmp_path/f'{name}.ipynb')
    return tmp_path

def test_globs_become_numbered_chapters_and_plain_pages(folder):
    base = {'section': 'Base', 'contents': ['base/*.ipynb']}
    contents = ['index.ipynb', {'section': 'Chapters', 'contents': ['*_*.ipynb', base]}]
    home, section = site.configure(config(contents), folder)['website']['sidebar']['contents']
    assert home == {'text': 'Index', 'href': 'index.ipynb'}
    assert [e['text'] for e in section['contents'][:2]] == ['5 Aluate', '10 Ribute']
    assert section['contents'][2]['contents'] == [{'text': 'Errors', 'href': 'base/00_errors.ipynb'}]

@pytest.mark.parametrize('contents, named', [
    (['*.ipynb', 'base/*.ipynb', 'app/*.ipynb'], 'app/*.ipynb'),
    (['*.ipynb'], 'base/00_errors.ipynb'),
    (['*.ipynb', 'base/*.ipynb', 'index.ipynb'], 'index.ipynb')])
def test_a_page_that_is_missing_or_in_no_section_or_in_two_is_an_error(folder, contents, named):
    with pytest.raises(SystemExit, match=re.escape(named)): site.configure(config(contents), folder)

def test_sidebar_holds_every_notebook_and_the_site_renders_it():
    conf = site.configure(yaml.safe_load((root/'_quarto.yml').read_text()))
    folders = {p.parent.relative_to(root/'nbs').as_posix() for p in site.nbglob(root/'nbs', as_path=True)}
    assert folders <= {Path(pattern).parent.as_posix() for pattern in conf['project']['render']}

# --- Links

def test_links_of_a_twin_lead_to_twins():
    def mended(link): return site.twin_links(f'[a]({link}) <a href="{link}">', '../')
    for link, twin in {'../05_evaluate.ipynb#exact': '../evaluate.html.md',
                       f'{site.site_url}base/errors.html#b': '../base/errors.html.md'}.items():
        assert mended(link) == f'[a]({twin}) <a href="{twin}">'
    for link in 'https://c.org/c.html', 'd_files/d.png', '#e':
        assert mended(link) == f'[a]({link}) <a href="{link}">'

def test_links_home_lead_to_the_page_beside():
    page = f'<a class="x" href="{site.site_url}data.html#d">'
    assert site.home_links(page, '../') == '<a class="x" href="../data.html#d">'

good = {'index.html': '<p id="p"><a href="sub/a.html#a"></a>',
        'index.html.md': '[a](sub/a.html.md), `[no](link)`',
        'sub/a.html': '<p id="a"><a href="../index.html#p"></a>', 'sub/a.html.md': '[home](/index.html.md#p)'}

def test_font_servers_are_dropped_and_nothing_else():
    address = 'https://fonts.example.org/css2?family=Some+Sans:wght@300;400;700&display=swap'
    rule = ':root{--color:#333}'
    for imported in f'url({address})', f'url("{address}")', f"'{address}'", f'"{address}" screen':
        assert site.without_font_servers(f'@charset "UTF-8";@import {imported};{rule}') == f'@charset "UTF-8";{rule}'
    other = f'@import "print.css";{rule}'
    assert site.without_font_servers(other) == other

def test_a_whole_site_has_no_broken_links(tmp_path):
    write(tmp_path, good)
    assert site.broken_links(tmp_path) == ([], 6)

@pytest.mark.parametrize('name, text, broken', [
    ('sub/a.html', '<p id="b">', ['index.html: sub/a.html#a']),
    ('index.html.md', '[a](01_a.ipynb)', ['index.html.md: 01_a.ipynb']),
    ('sub/a.html.md', '![](a.png)', ['sub/a.html.md: a.png'])])
def test_a_broken_link_of_a_page_or_twin_is_found(tmp_path, name, text, broken):
    write(tmp_path, good | {name: text})
    assert site.broken_links(tmp_path)[0] == broken

def test_a_page_without_its_twin_is_found(tmp_path):
    write(tmp_path, {name: text for name, text in good.items() if name != 'sub/a.html.md'})
    assert site.broken_links(tmp_path)[0] == ['index.html.md: sub/a.html.md', 'sub/a.html: a.html.md']
