# Every target sets up what it needs, and costs seconds when that is there already.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUST_SOURCES := $(shell find rust -name '*.rs' -o -name Cargo.toml) Cargo.toml Cargo.lock

# What is installed of uv.lock: for the demo, for that of training, and for all else. A wheel needs "--only-group wheel" alone,
# the site "--group docs".
FETCHING := --no-default-groups --group example
TRAINING := $(FETCHING) --extra demo
DEPENDENCIES ?= --all-extras --group dev

SECONDS ?= 600
SEED ?= $(shell date +%s)
SCHEDULES ?= 20

# uv.lock names PyPI itself, whatever mirror this machine installs from.
PYPI := https://pypi.org/simple

.PHONY: help setup lock demo demo-dreambooth test rehearsal lint format typecheck docs rust-test fuzz asan memcheck attack faults wheel wheel-manylinux bench ci clean

help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  %-16s %s\n", $$1, $$2}'

setup: $(VENV)/.installed $(VENV)/.built | $(VENV)/.system-tests ## All packages, virtual environment, extension in release mode

lock: $(VENV)/.uv ## Bring uv.lock in step with pyproject.toml; UPGRADE=--upgrade takes the newest versions
	$(BIN)/uv lock --python $(BIN)/python --default-index $(PYPI) $(UPGRADE)

demo: $(VENV)/.built ## Build, serve real photographs on loopback, make a dataset of them, show it
	$(BIN)/python examples/demo.py

demo-dreambooth: $(VENV)/.training $(VENV)/.built ## Teach a small model a subject from four pictures, offline (some six CPU-minutes the first time)
	$(BIN)/turbo-fetch demo dreambooth --cache .cache --output .cache/demo-dreambooth

test: setup ## Run all tests, Rust and Python
	$(MAKE) rust-test
	$(BIN)/pytest --numprocesses auto

rehearsal: setup ## Train on a GPU that is not there with every pair of options (some 5 CPU-minutes; tests have each option once)
	EVERY_PAIR=1 $(BIN)/pytest tests/dreambooth/test_first_step_on_a_gpu.py

rust-test: $(VENV)/.system ## Run the Rust tests
	cargo test --release --quiet

fuzz: setup ## Damage pictures and lists for SECONDS (600) from SEED; what fails stays in .cache/fuzz/found and is tried first
	$(BIN)/python tests/fuzz_corpus.py .cache/fuzz/seeds
	cargo run --release --quiet -p turbo-fetch-fuzz -- .cache/fuzz/seeds .cache/fuzz/found $(SECONDS) $(SEED)

# C and C++ are checked, Rust's allocations as their borders; the assembler of libjpeg-turbo is switched off, since nothing checks it.
asan: $(VENV)/.fetching ## The same with AddressSanitizer in the C libraries (no nightly Rust needed; builds its own copy)
	$(BIN)/python tests/fuzz_corpus.py .cache/fuzz/seeds
	CFLAGS_x86_64_unknown_linux_gnu="-fsanitize=address -fno-omit-frame-pointer -g" \
	cargo rustc --release --quiet -p turbo-fetch-fuzz --target x86_64-unknown-linux-gnu --target-dir target/asan -- -C link-arg=-lasan
	LD_PRELOAD=$$(cc -print-file-name=libasan.so) ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1 JSIMD_FORCENONE=1 \
	target/asan/x86_64-unknown-linux-gnu/release/turbo-fetch-fuzz .cache/fuzz/seeds .cache/fuzz/found $(SECONDS) $(SEED)

memcheck: setup ## Hostile images through OpenCV and Pillow for SECONDS (600) from SEED under valgrind, which has to be installed
	cd tests && ../$(BIN)/python memory_check.py $(SECONDS) $(SEED)

attack: setup ## Attack runs, datasets and machines for SECONDS (600) from SEED; what fails stays in .cache/attack and is tried first
	cd tests && ../$(BIN)/python -m attack.campaign ../.cache/attack $(SECONDS) $(SEED) $(ONLY)

faults: setup ## Kill workers, nodes and drivers and cut links in SCHEDULES (20) runs on each engine; needs root
	$(BIN)/python tests/fault_schedules.py local ray spark --seeds $(SCHEDULES) --save

lint: setup ## What is checked before a commit, clippy, and whether the site builds
	$(BIN)/pre-commit run --all-files --show-diff-on-failure
	cargo clippy --release --all-targets --quiet -- -D warnings
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

wheel: $(VENV)/.installed ## Build sdist and wheel, and try the wheel in an empty virtual environment
	bash .ci/wheel

wheel-manylinux: $(VENV)/.installed ## The same for every Linux with glibc 2.28, by Zig
	bash .ci/wheel manylinux_2_28

bench: setup ## Measure against img2dataset (about an hour); see bench/README.md
	$(BIN)/python bench/throughput.py all

ci: lint typecheck test wheel ## Everything that must pass

clean: ## Remove what was built, keep downloads
	rm -rf $(VENV) target dist

$(VENV)/.system: ; @bash .ci/system && mkdir -p $(VENV) && touch $@
$(VENV)/.system-tests: ; @bash .ci/system tests && mkdir -p $(VENV) && touch $@

$(VENV)/.uv: | $(VENV)/.system
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade 'uv>=0.13,<1'
	touch $@

# Through a list of versions and hashes, since uv itself would take the files from where the lock has them, not from a mirror.
define install
	$(BIN)/uv export --python $(BIN)/python --quiet --frozen --no-emit-project --no-header $(1) --output-file $(VENV)/requirements.txt
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --requirements $(VENV)/requirements.txt
	touch $@
endef

$(VENV)/.fetching: uv.lock | $(VENV)/.uv
	$(call install,$(FETCHING))

$(VENV)/.training: uv.lock | $(VENV)/.uv
	@echo "Installing PyTorch, diffusers and transformers (once; some 7 GB on disk, since PyPI's PyTorch comes with CUDA)"
	$(call install,$(TRAINING))

$(VENV)/.installed: uv.lock | $(VENV)/.uv
	@echo "Installing what $(DEPENDENCIES) takes of uv.lock (once; all of it is some 9 GB on disk, since PyPI's PyTorch comes with CUDA)"
	$(call install,$(DEPENDENCIES))

$(VENV)/.built: $(VENV)/.fetching $(RUST_SOURCES)
	$(BIN)/maturin develop --uv --release --quiet --group example
	$(BIN)/python -m compileall -q python/turbo_fetch
	touch $@
