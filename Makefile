# One virtual environment, made once per change of the pinned requirements; every target uses it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
BASE := $(VENV)/.installed-base
STAMP := $(VENV)/.installed

.PHONY: help setup base demo search page test check gpu-check format requirements clean

help:
	@echo "make demo          set up, make the SoundScenes data, train, evaluate, write a page to listen to"
	@echo "make test          set up and run the whole test suite"
	@echo "make check         ruff, mypy and the test suite: the gate for every change"
	@echo "make search        what searching recordings of your own needs (docs/search.md)"
	@echo "make page          after make demo: search its sounds in the browser"
	@echo "make setup         only the virtual environment with the pinned requirements"
	@echo "make gpu-check     check and time everything on GPU 0, in eight minutes; installs nothing"
	@echo "make format        let ruff lay out the code"
	@echo "make requirements  pin the .in files anew"

setup: $(STAMP)

base: $(BASE)

# What runs the project; enough for the demo and the search.
$(BASE): requirements/base.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 14))' || \
	  { echo "Python 3.10 to 3.13 is needed, the pinned numpy and scipy are for these; choose one with:" \
	  "make $(MAKECMDGOALS) PYTHON=/path/to/python3"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@echo "installing PyTorch and the rest into $(VENV) (on Linux this may fetch gigabytes of GPU"
	@echo "libraries; README.md says how to choose the CPU build)"
	@test -t 1 || quiet=--quiet; \
	$(BIN)/python -m pip install $$quiet --no-compile --disable-pip-version-check \
	  -r requirements/base.txt
	@touch $@

# What tests and checks it.
$(STAMP): $(BASE) requirements/dev.txt
	@test -t 1 || quiet=--quiet; \
	$(BIN)/python -m pip install $$quiet --no-compile --disable-pip-version-check \
	  -r requirements/dev.txt
	@touch $@

DEMO := data/demo
demo:
	@begun=$$(date +%s); \
	$(MAKE) --no-print-directory base && ready=$$(date +%s) && mkdir -p $(DEMO) && \
	printf '\n1/4  make the data set: sounds, captions, features\n' && \
	$(BIN)/python misc/make_soundscenes.py && \
	printf '\n2/4  train CE on both experts, test its best epoch\n' && \
	$(BIN)/python train.py --config configs/soundscenes/train-logmel-modulation.json && \
	printf '\n3/4  score the checkpoint again from its file\n' && \
	run=$$(ls -d data/saved/models/soundscenes-train-logmel-modulation/*/ | tail -1) && \
	$(BIN)/python eval.py --resume $${run}trained_model.pth --quiet && \
	printf '\n4/4  write the page\n' && \
	$(BIN)/python misc/report.py $$run --sounds data/SoundScenes/audio \
	  --out $(DEMO)/index.html > /dev/null && \
	echo "set-up: $$((ready - begun)) s; data, training, evaluation and page:" \
	  "$$(($$(date +%s) - ready)) s" && \
	echo "look at and listen to: $(CURDIR)/$(DEMO)/index.html" && \
	echo "search its sounds in the browser: make page"

search: $(BASE)
	@test -t 1 || quiet=--quiet; \
	$(BIN)/python -m pip install $$quiet --no-compile --disable-pip-version-check \
	  -r requirements/search.txt -r requirements/text.txt && \
	$(BIN)/python -m pip install $$quiet --no-compile --disable-pip-version-check --no-deps \
	  -r requirements/aisfx.txt

page: search
	@run=$$(ls -d data/saved/models/soundscenes-train-logmel-modulation/*/ | tail -1) && \
	$(BIN)/python misc/serve.py --run $$run --audio data/SoundScenes/audio

test: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(MAKE) test

gpu-check:
	$(or $(wildcard $(BIN)/python),$(PYTHON)) misc/gpu_check.py

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

requirements: $(STAMP)
	$(BIN)/python -m pip install --quiet pip-tools
	for name in base search dev; do \
	  $(BIN)/pip-compile --quiet --no-header --no-annotate --strip-extras --no-emit-index-url \
	    --no-emit-find-links --no-emit-trusted-host -o requirements/$$name.txt requirements/$$name.in && \
	  sed -i 's/+cpu$$//' requirements/$$name.txt; done

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis
