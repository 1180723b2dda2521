# One word each; `make help` lists them. Needs Python with venv, make and git; everything else goes into .venv.
PYTHON ?= python3
ARGS   ?=
MIN    := $(shell sed -n 's/^requires-python = ">=\(.*\)"/\1/p' pyproject.toml)
UV     := $(shell command -v uv)
STAMP  := .venv/installed-$(if $(NEWEST),newest,tested)
PINS   := $(if $(NEWEST),-U,-c constraints.txt)
MADE   := nbs finetune_course README.md README_files

BIN    := .venv/bin
# As many processes as there are cores, with one thread each
NBTEST := PYTHONWARNINGS=ignore OMP_NUM_THREADS=1 $(BIN)/nbdev-test --do-print --timing
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n logical --dist loadfile
NBVAL  := PYTHONWARNINGS=ignore $(PYTEST) -p tests.conftest \
    --nbval --nbval-current-env --nbval-sanitize-with tests/sanitize.cfg
export PATH := $(CURDIR)/.venv/bin:$(PATH)
.PHONY: help run test fast lint sync nbdev-test nbval lab docs export readme clean
.NOTPARALLEL:
.DEFAULT_GOAL := help

help:           ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-11s%s\n", $$1, $$2}' Makefile
	@echo '  PYTHON=python3.12 names another Python; NEWEST=1 installs the newest dependencies, not the tested ones'

run: $(STAMP)   ## digits in, a small model out: the whole chain (ARGS="--data mnist …")
	@$(BIN)/finetune-course run $(ARGS)

test: lint sync ## every check: lint, sync, each notebook once, pytest
	@echo 'nbval: the chapters print what they printed'
	@$(NBVAL) $(wildcard nbs/*.ipynb)
	@echo 'nbdev-test: the notebooks below and above them'
	@$(NBTEST) 'nbs/*/*.ipynb'
	@echo 'pytest'
	@$(PYTEST) --no-loadscope-reorder tests

fast: lint sync ## what can be checked in three minutes
	@$(PYTEST) --no-loadscope-reorder -m 'not slow' tests

lint: $(STAMP)  ## ruff
	@$(BIN)/ruff check

sync: $(STAMP)  ## modules, README and notebooks are in step
	@rm -rf build/sync && mkdir -p build/sync && cp -R $(wildcard $(MADE)) pyproject.toml _quarto.yml tools build/sync
	@cd build/sync && export PATH="$(CURDIR)/$(BIN):$$PATH" && nbdev-export && nbdev-clean && python tools/site.py readme > /dev/null
	@for f in $(MADE); do [ ! -e $$f ] && [ ! -e build/sync/$$f ] || diff -r -x __pycache__ -x .ipynb_checkpoints $$f build/sync/$$f || \
	    { echo "$$f is out of step with the notebooks: make export"; exit 1; }; done

nbdev-test: $(STAMP) ## every notebook runs from top to bottom
	@$(NBTEST)

nbval: $(STAMP) ## every notebook prints what it printed
	@$(NBVAL) nbs

lab: $(STAMP)   ## your own copy of the chapters, in JupyterLab
	@$(BIN)/finetune-course lab $(ARGS)

docs: $(STAMP)  ## the site, in _docs, its links checked
	@PYTHONWARNINGS=ignore $(BIN)/python tools/site.py docs

export: $(STAMP) ## modules and README from the notebooks; notebooks cleaned
	@export PATH="$(CURDIR)/$(BIN):$$PATH" && nbdev-export && nbdev-clean && python tools/site.py readme

readme: $(STAMP) ## README.md from nbs/index.ipynb
	@$(BIN)/python tools/site.py readme

clean:          ## away with what was installed and built here; runs/ and bench/teachers/ stay
	rm -rf .venv _docs _proc build dist *.egg-info .pytest_cache
	find . -name __pycache__ -prune -exec rm -rf {} +

$(STAMP): settings.ini setup.py pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < tuple(map(int, "$(MIN)".split("."))))' 2> /dev/null || \
	    { echo 'Python $(MIN) or newer is needed and "$(PYTHON)" is not: install it, or name one with make PYTHON=python$(MIN) …'; exit 1; }
	@$(if $(UV),:,$(PYTHON) -c 'import ensurepip, venv' 2> /dev/null) || \
	    { echo 'Python cannot make virtual environments here: install its venv module (Debian, Ubuntu: apt install python3-venv)'; exit 1; }
	@echo 'Installing into .venv: some minutes and 6 GB the first time'
	@$(if $(UV),uv venv -q --allow-existing --python $(PYTHON) .venv,$(PYTHON) -m venv .venv)
	@$(if $(UV),uv pip install -q --python .venv/bin/python,.venv/bin/python -m pip install -q) $(PINS) -e '.[dev]'
	@rm -f .venv/installed-* && touch $@
