# `make` lists the targets. Needs Python 3.11 or newer; everything goes into ./.venv and ./demo.

PYTHON  ?= python3
VENV    ?= .venv
EXTRAS  ?= demo,test,lint,web
AUDIO   ?=
ENCODER ?= musicnn
MUSIC   := $(strip $(subst ~/,$(HOME)/,$(AUDIO)))
STORE   ?= $(if $(MUSIC),demo/my-store,demo/store)
LABELS  ?= $(if $(MUSIC),folder,demo/audio/metadata.csv)
REPORT  ?= $(if $(MUSIC),demo/my-report,demo/report)

BIN        := $(VENV)/bin
EMBEDSTORE := $(BIN)/embedstore
INSTALLED  := $(VENV)/.installed-$(EXTRAS)
AGAIN       = make $(MAKECMDGOALS) PYTHON=
# the store's first track or first genre, quoted for the shell
FIRST       = $(shell $(BIN)/python -c 'import shlex; from embedstore import EmbeddingStore; tracks = EmbeddingStore.open("$(STORE)").tracks(); print(shlex.quote($(1)))')

.DEFAULT_GOAL := help
.PHONY: help setup demo corpus tour test test-slow lint check bench docs

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' Makefile

setup: $(INSTALLED)  ## install into ./.venv what the demo, the tests and the linters need

$(INSTALLED): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo 'make: $(PYTHON) is not Python 3.11 or newer; try: $(AGAIN)python3.12' >&2; exit 1; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV) \
		|| { rm -rf $(VENV); echo 'make: "$(PYTHON) -m venv" fails; Debian, Ubuntu: apt-get install python3-venv; or: $(AGAIN)/another/python3' >&2; exit 1; }
	@echo 'installing into $(VENV): PyTorch and its libraries, about 5 GB, a few minutes'
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-input -e '.[$(EXTRAS)]'
	@touch $@

demo: $(INSTALLED) $(if $(MUSIC),,corpus)  ## build, search, probe: a small corpus, or AUDIO=~/Music [LABELS=folder|FILE.csv|none ENCODER=musicnn]
	$(EMBEDSTORE) build "$(or $(MUSIC),demo/audio)" --store $(STORE) --encoder $(ENCODER) --labels "$(LABELS)"
	@echo
	@$(MAKE) --no-print-directory tour

corpus: $(INSTALLED)
	$(BIN)/python benchmarks/make_demo_corpus.py demo/audio
	@echo

# a make of its own: when it starts, there is a store that can be asked what to look for
tour: TRACK = $(if $(MUSIC),$(call FIRST,tracks[0].id),demo/audio/reel/reel_00.ogg)
tour: GENRE = $(if $(MUSIC),$(call FIRST,min((g for t in tracks for g in t.labels.genres), default="none")),reel)
tour:
	$(EMBEDSTORE) info --store $(STORE)
	@echo
	$(EMBEDSTORE) index --store $(STORE)
	@echo
	$(EMBEDSTORE) search $(TRACK) -k 5 --store $(STORE)
	$(if $(filter none,$(GENRE)),,$(EMBEDSTORE) search --genre $(GENRE) -k 5 --store $(STORE))
	$(EMBEDSTORE) probe --probe logistic --store $(STORE) --report $(REPORT)$(if $(MUSIC), || echo 'not probed: the line above says why')
	@echo
	@echo 'explore it in a browser: $(EMBEDSTORE) serve --store $(STORE)'

test: $(INSTALLED)  ## run the test suite
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 4

test-slow: $(INSTALLED)  ## run the tests that take minutes: real weights, kill -9, the wheel in a clean environment
	$(BIN)/python -m pytest -m slow --timeout 1200

lint: $(INSTALLED)  ## check style, types and who may import whom
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

check: test lint test-slow  ## all of the above: what CI runs

bench: $(INSTALLED)  ## measure every claim again and write benchmarks/RESULTS.md
	-@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-input -e '.[bench]'
	$(BIN)/python benchmarks/run_all.py

docs: $(INSTALLED)  ## write the command reference in README.md again
	$(BIN)/python tests/test_readme.py
