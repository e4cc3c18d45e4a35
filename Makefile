# Entry points of the project; `make` alone explains them. Each sets up what it needs first.

PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python

# Sealing: make STATIC=1 MODEL_PATH=… TOKENIZER_PATH=… [TARGET_ARCH=…] [PIE=0] [OUTPUT=…]
STATIC ?= 1
PIE ?= 1
TARGET_ARCH ?= $(shell uname -m)
OUTPUT ?= bitnet-infer

.DEFAULT_GOAL := $(if $(MODEL_PATH)$(TOKENIZER_PATH),bitnet-infer,help)
.SUFFIXES:
MAKEFLAGS += --no-builtin-rules

SETUP_RUNTIME := $(VENV)/.setup-runtime
SETUP_TEST := $(VENV)/.setup-test
SETUP_BENCH := $(VENV)/.setup-bench
LOCK_RUNTIME := pyproject.toml scripts/setup.sh requirements/build.txt requirements/runtime.txt
LOCK_TEST := $(LOCK_RUNTIME) requirements/test.txt requirements/torch-cpu.txt requirements/torch.txt

.PHONY: help
help:
	@echo 'make demo         seal the bundled model for this host and ask it three questions'
	@echo 'make test         run all tests'
	@echo 'make unit         run the unit tests only'
	@echo 'make lint types   check style; check types'
	@echo 'make exactness    hash of the logits on every instruction set, thread count and chunk size'
	@echo 'make attack       try every system call from inside a locked process'
	@echo 'make audit        lines, system calls and symbols of what runs in the gap'
	@echo 'make conformance  attacks on signatures, roots, releases and updates, as a table'
	@echo 'make powerloss    stop, fail and cut off from power every call of every update; minutes'
	@echo 'make fuzz SECONDS=60  every parser of the gap under a coverage-guided fuzzer, CPU seconds each'
	@echo 'make bench        measure'
	@echo 'make bench-update verify and install a bundle of 1 GB against sha384sum, zstd and tar'
	@echo 'make bench-hardening  what locking down costs'
	@echo 'make bench-peers  measure beside llama.cpp and ONNX Runtime; set-up compiles llama.cpp'
	@echo 'make setup        set up everything that the tests need, without running them'
	@echo 'make clean        remove what was built; the Python environment stays'
	@echo
	@echo 'make STATIC=1 MODEL_PATH=model.bin TOKENIZER_PATH=tokenizer.json TARGET_ARCH=x86_64'
	@echo '                  seal a model into ./bitnet-infer'
	@echo '  TARGET_ARCH     x86_64 or aarch64 (this host: $(TARGET_ARCH))'
	@echo '  PIE=0           at a fixed address instead of position-independent'
	@echo '  OUTPUT=PATH     another name than ./bitnet-infer'

$(SETUP_RUNTIME): $(LOCK_RUNTIME)
	@PYTHON='$(PYTHON)' bash scripts/setup.sh runtime

$(SETUP_TEST): $(LOCK_TEST)
	@PYTHON='$(PYTHON)' bash scripts/setup.sh test
	@touch $(SETUP_RUNTIME)

$(SETUP_BENCH): requirements/bench-build.txt requirements/bench.txt | $(SETUP_RUNTIME)
	@PYTHON='$(PYTHON)' bash scripts/setup.sh bench

.PHONY: setup
setup: $(SETUP_TEST)

# What the command line asks for is checked before anything is set up.
.PHONY: check-seal
check-seal:
	@fail() { printf 'error: %s\n' "$$1" >&2; \
	  if [ -n "$$2" ]; then printf '\nhint: %s\n' "$$2" >&2; fi; exit 2; }; \
	[ '$(STATIC)' = 1 ] || fail 'executable cannot be linked dynamically: `STATIC=$(STATIC)`' \
	  'leave STATIC=1; the target machine needs no library, so there is no other form'; \
	case '$(PIE)' in 0|1) ;; *) fail 'not 0 or 1: `PIE=$(PIE)`' '';; esac; \
	case '$(TARGET_ARCH)' in x86_64|aarch64) ;; \
	  *) fail 'architecture is not supported: `TARGET_ARCH=$(TARGET_ARCH)`' 'use x86_64 or aarch64';; esac; \
	[ -n "$$MODEL_PATH" ] || fail 'model is not given: `MODEL_PATH`' \
	  'make one with `bitnet.quantize`, then set MODEL_PATH to it'; \
	[ -n "$$TOKENIZER_PATH" ] || fail 'tokenizer is not given: `TOKENIZER_PATH`' \
	  'set TOKENIZER_PATH to the tokenizer.json of the model'; \
	[ -f "$$MODEL_PATH" ] || fail "model does not exist: \`$$MODEL_PATH\`" ''; \
	[ -f "$$TOKENIZER_PATH" ] || fail "tokenizer does not exist: \`$$TOKENIZER_PATH\`" ''

export MODEL_PATH TOKENIZER_PATH OUTPUT

.PHONY: bitnet-infer
bitnet-infer: check-seal
	@$(MAKE) --silent --no-print-directory $(SETUP_RUNTIME)
	@$(VENV)/bin/bitnet seal --model "$$MODEL_PATH" --tokenizer "$$TOKENIZER_PATH" \
	  --arch $(TARGET_ARCH) $(if $(filter 0,$(PIE)),--no-pie) --output "$$OUTPUT"

.PHONY: demo
demo: $(SETUP_RUNTIME)
	@$(RUN) scripts/demo.py

.PHONY: test
test: $(SETUP_TEST)
	@$(RUN) -m pytest tests -q

.PHONY: unit
unit: $(SETUP_TEST)
	@$(RUN) -m pytest tests/unit -q

.PHONY: lint
lint: $(SETUP_TEST)
	@$(RUN) -m ruff check src tests scripts bench
	@$(RUN) -m ruff format --check src tests scripts bench
	@$(VENV)/bin/clang-format --dry-run -Werror $$(git ls-files "*.cc" "*.h")

.PHONY: types
types: $(SETUP_TEST)
	@$(RUN) -m mypy --strict src

.PHONY: exactness
exactness: $(SETUP_TEST)
	@$(RUN) -m tests.pipeline.exactness

.PHONY: conformance
conformance: $(SETUP_TEST)
	@PYTHONPATH=. $(RUN) tests/conformance/table.py

.PHONY: attack
attack: $(SETUP_TEST)
	@$(RUN) -m tests.support.attacks $(if $(KERNEL),--kernel '$(KERNEL)')

.PHONY: audit
audit: $(SETUP_TEST)
	@$(RUN) scripts/audit.py

SECONDS ?= 60
.PHONY: fuzz
fuzz: $(SETUP_TEST)
	@$(RUN) -m tests.fuzz.run --seconds $(SECONDS)

.PHONY: bench
bench: $(SETUP_TEST)
	@$(RUN) scripts/demo.py > /dev/null
	@$(RUN) -m bench

.PHONY: powerloss
powerloss: $(SETUP_TEST)
	@$(RUN) -m tests.powerloss

.PHONY: bench-update
bench-update: $(SETUP_TEST)
	@$(RUN) bench/update.py

.PHONY: bench-peers
bench-peers: $(SETUP_BENCH)
	@$(RUN) -m bench.peers $(PEERS_OPTIONS)

.PHONY: bench-hardening
bench-hardening: $(SETUP_TEST)
	@$(RUN) -m bench.hardening

.PHONY: clean
clean:
	rm -rf build dist bitnet-infer
