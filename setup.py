"What settings.ini says, told to setuptools; pyproject.toml has the rest."
from configparser import ConfigParser
from setuptools import find_packages, setup

cfg = ConfigParser(delimiters='=')
cfg.read('settings.ini', encoding='utf-8')
def lines(key): return cfg['DEFAULT'][key].strip().splitlines()

copied = {'finetune_course.nbs': 'nbs', 'finetune_course.bench.results': 'bench/results'}   # by `finetune-course lab`

setup(
    packages=[*find_packages(include=['finetune_course', 'finetune_course.*']), *copied],
    package_dir=copied,
    package_data=dict.fromkeys(copied, ['*.ipynb', 'base/*.ipynb', 'exercises/*.ipynb', 'app/*.ipynb', '*.json*']),
    install_requires=lines('requirements'),
    extras_require={k: lines(f'{k}_requirements') for k in ('track', 'dev', 'peers')},
    entry_points=dict(console_scripts=lines('console_scripts'), nbdev=['finetune_course = finetune_course._modidx:d']),
)
