"What settings.ini says, told to setuptools; pyproject.toml has the rest."
from configparser import ConfigParser
from setuptools import setup

cfg = ConfigParser(delimiters='=')
cfg.read('settings.ini', encoding='utf-8')
def lines(key): return cfg['DEFAULT'][key].strip().splitlines()

setup(
    packages=['finetune_course', 'finetune_course.nbs', 'finetune_course.bench.results'],
    package_dir={'finetune_course.nbs': 'nbs', 'finetune_course.bench.results': 'bench/results'},  # for `finetune-course lab`
    package_data={'finetune_course.nbs': ['*.ipynb'], 'finetune_course.bench.results': ['*.json*']},
    install_requires=lines('requirements'),
    extras_require={k: lines(f'{k}_requirements') for k in ('dev', 'peers')},
    entry_points={'console_scripts': lines('console_scripts'), 'nbdev': ['finetune_course = finetune_course._modidx:d']},
)
