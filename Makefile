# Two commands: `make demo` runs the whole pipeline on an embedded corpus, `make test` runs the tests.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STORE ?= .percepts
# PyPI has torch for CUDA 13; TORCH names another build that download.pytorch.org/whl has: cpu, or that of an older CUDA.
TORCH ?=
INSTALLED := $(VENV)/.installed

.PHONY: setup demo test check bench bench-gpu fuzz chaos ui clean

setup: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "percepts needs Python >= 3.11; name one: make setup PYTHON=python3.13" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(if $(TORCH),--extra-index-url https://download.pytorch.org/whl/$(TORCH)) \
		--constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: setup
	$(BIN)/percepts run demo --store $(STORE)

# Three files at a time, as many tests wait for something to start; in order, or the longest, with few tests, comes last. A plain `pytest` runs one after the other.
test: setup
	$(BIN)/python -m pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: setup
	$(BIN)/python -m tests.bench

# Needs a GPU: make bench-gpu MNIST=/data/mnist; any other option of tests.bench_gpu in ARGS.
bench-gpu: setup
	$(BIN)/python -m tests.bench_gpu $(if $(MNIST),--mnist $(MNIST)) $(ARGS)

# Harms videos, lists and archives at random: make fuzz MINUTES=10 SEED=7.
MINUTES ?= 5
SEED ?= 0

fuzz: setup
	$(BIN)/python -m tests.fuzz --minutes $(MINUTES) --seed $(SEED) --videos $(wildcard ../shared/data/odd ../shared/data/web)

chaos: setup
	$(BIN)/python -m tests.chaos --kills 20

ui: setup
	$(BIN)/percepts ui --store $(STORE)

clean:
	rm -rf $(VENV) *.egg-info
