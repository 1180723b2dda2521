"How the course reads, in figures; exercises and what a reader keeps."
import ast, json, re
from pathlib import Path
import pytest
from finetune_course.base import practice
from finetune_course.base.practice import all_exercises, check, check_author, guess, hint, outcome, progress, solution

nbs = Path(__file__).parent.parent/'nbs'
chapters, models = sorted(nbs.glob('[01]*.ipynb')), [nbs/'03_finetune.ipynb', nbs/'06_prune.ipynb']
def each(paths): return pytest.mark.parametrize('path', paths, ids=lambda p: p.stem)
def cells(path, kind):
    return [c for c in json.loads(path.read_text(encoding='utf-8'))['cells'] if c['cell_type'] == kind]
def source(cell): return ''.join(cell['source'])
def text(path): return '\n\n'.join(source(c) for c in cells(path, 'markdown'))
unseen = re.compile(r'#\|\s*(hide|default_exp|eval:\s*false|echo:\s*false|export)')

# --- What holds for every chapter

@each([*chapters, nbs/'index.ipynb'])
def test_every_figure_has_a_text(path):
    def pictures(c): return [o for o in c['outputs'] if {'image/png', 'image/svg+xml'} & {*o.get('data', {})}]
    assert not [source(c) for c in cells(path, 'code') if pictures(c) and '#| fig-alt: ' not in source(c)]

@each(chapters)
def test_a_chapter_asks_ten_questions_and_answers_them(path):
    asked = re.findall(r'<details><summary>(\d+)\. .+?</summary>\n\n(.+?)\n\n</details>', text(path), re.S)
    assert len(asked) >= 10 and [int(n) for n, _ in asked] == [*range(1, len(asked) + 1)]
    assert text(path).count('## Questionnaire') == 1

# --- The model chapters

def prose(path):
    "Paragraphs and items without tables, headings, code and markup"
    md = re.sub(r'```.*?```', ' ', text(path), flags=re.S)
    md = re.sub(r'^\|.*$|^#.*$|!\[.*?\]\(.*?\)|<[^>]+>', ' ', md, flags=re.M)
    md = re.sub(r'\[([^\]]*)\]\([^)]*\)', r'\1', md)
    return [' '.join(p.split()) for p in re.split(r'\n\s*\n|\n\s*[-*] |\n\s*\d+\. ', md) if p.strip()]

def sentences(path):
    found = [s for p in prose(path) for s in re.split(r'(?<=[.!?:])\s+(?=[A-Z*`_])', p)]
    return [s for s in found if len(s.split()) > 2]

@each(models)
def test_sentences_are_short(path):
    lengths = [len(s.split()) for s in sentences(path)]
    assert sum(lengths)/len(lengths) <= 18
    assert not [s for s in sentences(path) if len(s.split()) > 35]

@each(models)
def test_a_section_has_one_long_parenthesis_at_most(path):
    for section in re.split(r'^## ', text(path), flags=re.M):
        assert len(re.findall(r'(?<!\])\((?!http)[^)]{40,}\)', section)) <= 1, section[:40]

@each(models)
def test_most_cells_show_something(path):
    shown = [c for c in cells(path, 'code') if not unseen.search(source(c))]
    shown = [c for c in shown if not all(re.match(r'(from|import|%|\s|$)', line) for line in source(c).splitlines())]
    silent = [source(c) for c in shown if not c['outputs']]
    assert len(silent) <= .25*len(shown), silent

@each(models)
def test_a_model_chapter_sets_its_exercises(path):
    number = path.name[:2]
    asked = re.findall(rf"check\('({number}-\d)'", ''.join(map(source, cells(path, 'code'))))
    assert asked == sorted(n for n in all_exercises() if n.startswith(f'{number}-')) and len(asked) >= 4
    assert len(re.findall(r"guess\('", ''.join(map(source, cells(path, 'code'))))) >= 2

# --- Exercises, guesses, progress

def test_solutions_are_right_and_wrong_answers_get_their_hint(): check_author(all_exercises())

@pytest.fixture
def reader(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path/'progress.json'

def keep_rows(w, share):
    ...

def test_what_nobody_tried_is_not_judged(reader):
    for answer in (..., None, keep_rows): assert 'waits for you' in str(check('06-1', answer))
    assert not reader.exists()

def test_a_reader_at_work(reader):
    assert 'read' in str(check('06-3', .5)) and str(check('06-3', .25)) == 'Right.'
    assert str(check('06-1', lambda w, share: 1/0)).startswith('Your answer stops with ZeroDivisionError')
    first, second = str(hint('06-1')), str(hint('06-1'))
    assert first != second and 'norm' in first and 'solution(' in second
    ast.parse(solution('06-1').code)
    kept = json.loads(reader.read_text())['exercises']
    assert kept == {'06-3': {'tries': 2, 'right': True}, '06-1': {'tries': 1, 'hints': 2, 'shown': True}}
    assert f'1 of {len(all_exercises())} exercises done.' == str(progress())

def test_the_first_guess_counts(reader):
    assert 'Put a number' in str(guess('06-1', ...)) and 'No guess' in str(outcome('06-1', 5))
    guess('06-1', 4)
    assert 'off by 1' in str(outcome('06-1', 5)) and 'guess of 4 stays' in str(guess('06-1', 5))
    assert 'off by 20%' in str(progress()) and '<td>06-1</td>' in progress()._repr_html_()

def test_a_damaged_file_or_a_folder_without_rights_stops_nobody(reader, monkeypatch):
    reader.write_text('{"exercises": [')
    assert practice.read_progress() == {'exercises': {}, 'guesses': {}}
    def full(*args): raise OSError('no space')
    monkeypatch.setattr(practice, 'write_atomic', full)
    assert str(check('06-3', .25)) == 'Right.'

def test_an_unknown_number_names_those_that_there_are():
    with pytest.raises(KeyError, match='06-1'): check('99-9', 1)

def test_the_glossary_is_made_of_the_words_of_the_chapters():
    outputs = [o for c in cells(nbs/'glossary.ipynb', 'code') for o in c['outputs']]
    shown = ''.join(''.join(o['data']['text/markdown']) for o in outputs)
    for path in chapters:
        words = re.findall(r'^- (\*\*.+?)(?=\n- |\n\n|\Z)', text(path).partition('## Words')[2], re.M | re.S)
        assert '## Words' not in text(path) or words
        assert not [w for w in words if w.startswith('**') and ' '.join(w.split()) not in shown]
