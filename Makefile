# Everything from a fresh machine: Python 3.11 or newer with pip, and make. See README.md.
#   make demo    fill a made-up scene, score it, write demo/
#   make scores  score every method on real data that nothing was trained on, write docs/scores.md
#   make test    the whole test suite
#   make integration  the tests that kill runs, make faults, and try a real Slurm from Debian's packages (as root)
#   make faults  make a hundred faults, write what came of them into docs/faults.md
#   make lint    what a change must pass besides the tests
#   make wheel   dist/stpipe-*.whl
#   make clean   remove all that make has made here, the virtual environment too

VENV ?= .venv
BIN := $(VENV)/bin
# Test processes: TensorFlow takes 0.7 GB in each that needs it.
JOBS ?= 2
# Those of make integration wait as much as they work: for jobs, for leases that run out, for processes that start.
WAITING_JOBS ?= 3
# What pytest, or the scores, should take besides, such as ARGS="tests/core -k blocks" or ARGS=--quick.
ARGS ?=

.PHONY: help demo scores test integration faults services lint format wheel clean
.DELETE_ON_ERROR:

help:
	@sed -n '2,9s/^#   //p' Makefile

demo: $(VENV)/.stamp-test
	$(BIN)/stpipe demo -o demo

test: $(VENV)/.stamp-test
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile $(ARGS)

integration: services $(VENV)/.stamp-test
	rm -rf build/faults
	$(BIN)/python -m pytest -n $(WAITING_JOBS) --dist loadgroup --integration -m integration --fault-outcomes build/faults $(ARGS)

# Ten minutes on two cores; what came of each fault stays in build/faults, so that a part of them can be tried again.
faults: $(VENV)/.stamp-test
	$(BIN)/python -m pytest -n $(JOBS) --integration tests/integration/faults --fault-outcomes build/faults \
	    --fault-table docs/faults.md $(ARGS)

# What the integration tests start: Slurm and its key service. Without them those tests say so and are skipped.
SERVICES := slurm-wlm munge
services:
	@PATH="$$PATH:/usr/sbin"; \
	if (command -v slurmctld && command -v slurmd && command -v munged) > /dev/null; then exit 0; \
	elif [ "$$(id -u)" = 0 ] && command -v apt-get > /dev/null; then \
	    echo "make: installing $(SERVICES) from Debian's packages"; \
	    apt-get update -qq && DEBIAN_FRONTEND=noninteractive \
	        apt-get install -y -qq --no-install-recommends $(SERVICES) > /dev/null; \
	else echo "make: no Slurm here; on Debian, as root: apt-get install $(SERVICES)"; fi

# An hour and a half on two cores; results stay in build/scores, so that a run that was interrupted goes on.
scores: $(VENV)/.stamp-test
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/scores.py -o build/scores --jobs $(JOBS) --page docs/scores.md --card stpipe/model/packaged/MODEL_CARD.md $(ARGS)

lint: $(VENV)/.stamp-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.stamp-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

wheel: $(VENV)/.stamp-test
	rm -rf dist
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .
	@ls dist

clean:
	rm -rf $(VENV) demo dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find stpipe tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

# A stamp says which extras are installed; it is older than pyproject.toml after a change there.
$(VENV)/.stamp-%: pyproject.toml $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[$*]'
	@touch $@

$(VENV)/bin/python:
	@for python in $(PYTHON) python3 python3.13 python3.12 python3.11; do \
	    if $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	        $$python -m venv $(VENV) && exit 0; \
	        echo "make: $$python can't make a virtual environment; install its venv module (Debian: python3-venv)" >&2; \
	        rm -rf $(VENV); exit 1; \
	    fi; \
	done; \
	echo "make: stpipe needs Python 3.11 or newer; python3 is $$(python3 --version 2>&1 || true)." \
	    "Install one, or name it: make PYTHON=/path/to/python3.12 ..." >&2; exit 1
