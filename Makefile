# make demo, make test: each works as the only command on a fresh Debian machine; they install what is missing first.
PYTHON ?= python3
VENV := .venv
BIN := $(CURDIR)/$(VENV)/bin

# What pyfuse3 is built with (it has no wheels), and what mounts; then what only the tests use.
NEEDED_PACKAGES := libfuse3-dev fuse3 pkg-config gcc libc6-dev python3-dev python3-venv
PACKAGES := $(NEEDED_PACKAGES) attr g++ git imagej rsync strace xauth xvfb
# What only `make posix` (its suite makes names with openssl) and `make stress` run.
POSIX_PACKAGES := openssl
STRESS_PACKAGES := dbench fio stress-ng

.PHONY: setup docs install uninstall demo test both lint unit soak crash bench gpu posix stress clean

# Asks the package manager only for what is not there, so that the second time costs nothing.
define install
	@missing=$$(for p in $(1); do dpkg-query -W -f='$${Status}' $$p 2>/dev/null | grep -q 'ok installed' || echo $$p; done); \
	if [ -n "$$missing" ]; then \
	  if ! command -v apt-get >/dev/null; then echo "Please install by hand: $$missing" >&2; exit 1; fi; \
	  root=; [ "$$(id -u)" = 0 ] || root=sudo; \
	  echo "Installing: $$missing"; \
	  $$root apt-get update -qq && DEBIAN_FRONTEND=noninteractive $$root apt-get install -y -qq --no-install-recommends $$missing >/dev/null; \
	fi
endef

setup: $(VENV)/.ready

$(VENV)/.system: Makefile
	$(call install,$(PACKAGES))
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "vfsd needs Python 3.11 or newer; say which: make PYTHON=python3.12" >&2; exit 1; }
	@[ -x $(BIN)/python ] || $(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.ready: $(VENV)/.system pyproject.toml constraints.txt $(wildcard vfsd/codec/*.c vfsd/codec/*.h)
	@echo "Installing vfsd and what it needs into $(VENV) (a few minutes the first time)"
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --constraint constraints.txt --editable '.[test,docs]'
	@touch $@

# For the whole machine, with an environment of its own: the program, its mount helpers and units.
PREFIX ?= /usr/local
AS_ROOT := $(if $(filter 0,$(shell id -u)),,sudo)

install:
	$(call install,$(NEEDED_PACKAGES))
	@$(AS_ROOT) $(PYTHON) -m venv $(PREFIX)/lib/vfsd
	@echo "Installing vfsd and what it needs into $(PREFIX)/lib/vfsd (a minute or two)"
	@$(AS_ROOT) $(PREFIX)/lib/vfsd/bin/python -m pip install -qq --disable-pip-version-check --constraint constraints.txt .
	@$(AS_ROOT) mkdir -p $(PREFIX)/bin && $(AS_ROOT) ln -sfn $(PREFIX)/lib/vfsd/bin/vfsd $(PREFIX)/bin/vfsd
	@$(AS_ROOT) $(PREFIX)/bin/vfsd install-helpers

uninstall:
	@[ ! -x $(PREFIX)/bin/vfsd ] || $(AS_ROOT) $(PREFIX)/bin/vfsd install-helpers --uninstall
	@$(AS_ROOT) rm -rf $(PREFIX)/lib/vfsd $(PREFIX)/bin/vfsd

demo: setup
	@PATH="$(BIN):$$PATH" docs/demo/run.sh

# Most tests wait for daemons and disks: one worker more than there are cores. Tests of one file stay together.
WORKERS ?= $(shell expr $$(nproc) + 1)

test: lint
	@$(BIN)/python -m pytest -q -n $(WORKERS) --dist loadscope

# Every test of a mount over both transports; `make test` takes over pyfuse3 only those that look at the transport itself.
both: lint
	@VFSD_TEST_TRANSPORTS=kernel,pyfuse3 $(BIN)/python -m pytest -q -n $(WORKERS) --dist loadscope

unit: setup
	@$(BIN)/python -m pytest -q tests/unit

# The model of tests/model without an end; what it says at its top chooses layers, seed and limits.
soak: setup
	@cd tests && $(BIN)/python -m model.soak

# vfsd killed again and again while programs write, and power failing (root alone can try that); SEED, ROUNDS and FAILURES (of
# each of ten disks) choose, and the seeds are printed.
crash: setup
	@cd tests && $(BIN)/python -m crash.rounds $(if $(ROUNDS),--rounds $(ROUNDS)) $(if $(SEED),--seed $(SEED)) $(ARGS)
	@cd tests && $(BIN)/python -m crash.power --disks 10 $(if $(FAILURES),--failures $(FAILURES)) $(if $(SEED),--seed $(SEED)) $(ARGS)

lint: setup
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --quiet --check .
	@$(BIN)/mypy --no-error-summary
	@if [ -f ../shared/tools/house.py ]; then $(BIN)/python ../shared/tools/house.py .; fi

docs: setup
	@$(BIN)/sphinx-build -W -q -E docs build/docs
	@echo "build/docs/index.html"

bench: setup
	@$(BIN)/python -m benchmarks

# On a GPU: is it right, how fast is it; the figures go into docs/gpu.md. Wants numpy, cupy and numcodecs, nothing of setup.
gpu:
	@$(PYTHON) -m benchmarks.gpu --json build/gpu.json --document docs/gpu.md $(ARGS)

# Programs of others that look for differences from a local file system: see tests/conformance/.
posix: setup
	$(call install,$(POSIX_PACKAGES))
	@PYTHONPATH=tests $(BIN)/python -m conformance.posix $(PJDFSTEST) $(ARGS)

stress: setup
	$(call install,$(STRESS_PACKAGES))
	@PYTHONPATH=tests $(BIN)/python -m conformance.stress $(ARGS)

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
