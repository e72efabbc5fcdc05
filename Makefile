# Every target sets up what it needs, and costs seconds when that is there already.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUST_SOURCES := $(shell find rust -name '*.rs' -o -name Cargo.toml) Cargo.toml Cargo.lock

SECONDS ?= 600
SEED ?= $(shell date +%s)

.PHONY: help setup demo demo-dreambooth test lint format typecheck docs rust-test fuzz wheel bench ci clean

help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  %-16s %s\n", $$1, $$2}'

setup: $(VENV)/.built ## System packages, virtual environment, extension in release mode

demo: setup ## Build, serve real photographs on loopback, make a dataset of them, show it
	$(BIN)/python examples/demo.py

demo-dreambooth: setup ## Teach a small model a subject from four pictures, offline (some six CPU-minutes the first time)
	$(BIN)/turbo-fetch demo dreambooth --cache .cache --output .cache/demo-dreambooth

test: setup ## Run all tests, Rust and Python
	$(MAKE) rust-test
	$(BIN)/pytest --numprocesses auto -m "not cluster"
	$(BIN)/pytest -m cluster

rust-test: $(VENV)/.system ## Run the Rust tests
	cargo test --release --quiet

fuzz: setup ## Damage pictures and lists for SECONDS (600) from SEED; what fails stays in .cache/fuzz/found and is tried first
	$(BIN)/python tests/fuzz_corpus.py .cache/fuzz/seeds
	cargo run --release --quiet -p turbo-fetch-fuzz -- .cache/fuzz/seeds .cache/fuzz/found $(SECONDS) $(SEED)

lint: setup ## Formatting and lints of both languages, and whether the site builds
	cargo fmt --check
	cargo clippy --release --all-targets --quiet -- -D warnings
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/zensical build --strict --clean

format: setup ## Format both languages
	cargo fmt
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

typecheck: setup ## mypy, and the stubs against the compiled module
	$(BIN)/mypy
	cd python && ../$(BIN)/python -m mypy.stubtest --mypy-config-file ../pyproject.toml turbo_fetch._native

docs: setup ## Build the documentation site into site/; a warning is an error
	$(BIN)/python -m docs.generate
	$(BIN)/zensical build --strict --clean

wheel: setup ## Build sdist and wheel, and try the wheel in an empty virtual environment
	bash .ci/wheel

bench: setup ## Measure against img2dataset (about an hour); see bench/README.md
	$(BIN)/python bench/throughput.py all

ci: lint typecheck test wheel ## Everything that must pass

clean: ## Remove what was built, keep downloads
	rm -rf $(VENV) target dist

$(VENV)/.system: ; @bash .ci/system && mkdir -p $(VENV) && touch $@

$(VENV)/.installed: pyproject.toml | $(VENV)/.system
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade 'uv>=0.9'
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --requirements pyproject.toml --extra all --group dev
	touch $@

$(VENV)/.built: $(VENV)/.installed $(RUST_SOURCES)
	$(BIN)/maturin develop --uv --release --quiet
	$(BIN)/python -m compileall -q python/turbo_fetch
	touch $@
