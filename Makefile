# Needs make, git and Python 3.11 or newer with venv; everything else is fetched into this folder.
# No target needs an activated environment, and each works from a fresh clone.

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup run test test-fast test-containers chaos kill-table lint format up down status proto bench bench-all image clean

READY := .venv/.ready
# Compiled by `make setup` where there is a C compiler.
COMPILED := $(wildcard schemas/_*.p[xy][dx] agents/_*.p[xy][dx] ops/_*.p[xy][dx] streams/*/_*.p[xy][dx])
PY := .venv/bin/python
# Like `-m rookery.ops.servers`, but a Ctrl-C while Python is still importing ends it without a traceback.
SERVERS := $(PY) -c 'import runpy, signal; signal.signal(signal.SIGINT, signal.SIG_DFL); \
	runpy.run_module("rookery.ops.servers", run_name="__main__", alter_sys=True)'
CHECKED := $(wildcard tests examples bench)
FAST := not kafka and not slow and not simulation and not containers and not compiled
TAG := dev
export UV_PYTHON_DOWNLOADS = never
# Tests and tools of this folder only, whatever environment is active around it.
unexport VIRTUAL_ENV PYTHONPATH PYTHONHOME
# Some images set it; every process that is started here would compile what it imports, which takes longer than the rest.
unexport PYTHONDONTWRITEBYTECODE

help:  ## show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sort | awk -F ':.*## ' '{printf "make %-15s %s\n", $$1, $$2}'

setup: $(READY)  ## make .venv with everything in uv.lock; other targets do it when needed

# An environment that exists is brought up to date in place, with whatever else was installed in it: asked for a Python
# at another path, uv would remove it under the processes that run from it.
$(READY): pyproject.toml uv.lock hatch_build.py $(COMPILED)
	@command -v git >/dev/null || { echo "git is missing: install it (apt-get install git, brew install git)"; exit 1; }
	@for python in python3 python3.14 python3.13 python3.12 python3.11; do \
		$$python -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))' 2>/dev/null && break; \
		python=; \
	done; \
	[ "$$python" ] || { echo "Python 3.11 to 3.14 is missing: install it (apt-get install python3 python3-venv)"; exit 1; }; \
	uv=uv; \
	if ! uv --version >/dev/null 2>&1; then \
		uv=.rookery/uv/bin/uv; \
		[ -x $$uv ] || $$python -c 'import ensurepip, venv' 2>/dev/null \
			|| { echo "Python's venv is missing: install it (apt-get install python3-venv)"; exit 1; }; \
		[ -x $$uv ] || { echo "fetching uv"; $$python -m venv .rookery/uv && .rookery/uv/bin/pip install -q uv; } \
			|| { rm -rf .rookery/uv; echo "uv could not be fetched: check the network, or install uv"; exit 1; }; \
	fi; \
	if [ -x $(PY) ]; then keep=; else keep="--python $$(command -v $$python)"; fi; \
	$$uv sync --locked --inexact --compile-bytecode $$keep
	@touch $@

run: $(READY)  ## the main job on real input: starts a Kafka if none is configured, ends by itself
	@$(SERVERS) run --kafka -- $(PY) -m examples.flights.run

test: test-fast test-pure  ## all tests: the quick ones first, then many cases and seeds, real servers, and built packages
	@$(SERVERS) run --kafka -- $(PY) -m pytest -n 5 --dist loadfile --no-loadscope-reorder --hypothesis-profile thorough \
		-m "(hypothesis or not ($(FAST))) and not (containers or alone or pure)"
	@$(PY) -m pytest -m alone tests/cluster

MINUTES := 1
SEED := 1
chaos: $(READY)  ## a fleet under faults on a Kafka of its own, then everything checked: MINUTES=n SEED=s
	@$(PY) -m tests.chaos --minutes $(MINUTES) --seed $(SEED) $(CHAOS)

kill-table: $(READY)  ## each mechanism switched off in turn: the checker of make chaos must notice
	@$(PY) -m tests.chaos.killtable

test-fast: $(READY)  ## the quick tests, which need no server: unit, property, contract, some of the simulation
	@$(PY) -m pytest -n 2 --dist worksteal -m "$(FAST)" $(addprefix --ignore=tests/,cluster containers house)

test-pure: $(READY)  ## the same of the Python twins of what is compiled
	@ROOKERY_PURE=1 $(PY) -m pytest -n 2 --dist worksteal -m "$(FAST) or pure" \
		$(addprefix tests/,contract property simulation $(addprefix unit/,agents core engine schemas streams))

image: $(READY)  ## build both images, say how large they are, list what is in them in dist/rookery.cdx.json
	@docker info >/dev/null 2>&1 || { echo "no Docker engine answers: install one, or start it"; exit 1; }
	docker build --target rookery --tag rookery:$(TAG) .
	docker build --tag rookery-flights:$(TAG) .
	@mkdir -p dist
	@uv=$$(command -v uv || echo .rookery/uv/bin/uv); $$uv export --quiet --locked --no-default-groups --extra nats --extra rocksdb \
		--format cyclonedx1.5 --preview-features sbom-export --output-file dist/rookery.cdx.json
	@docker image ls --filter reference='rookery*:$(TAG)'

test-containers: $(READY)  ## tests of the image, with real servers in containers; needs a Docker engine
	@$(PY) -m pytest -m containers tests/containers

lint: $(READY)  ## formatting, style, types, who imports whom, generated code up to date
	@$(PY) -m ruff format --check --quiet .  || { echo "not formatted: run make format"; exit 1; }
	@$(PY) -m ruff check .
	@$(PY) -m mypy -p rookery
	@$(PY) -m mypy $(CHECKED)
	@.venv/bin/lint-imports --no-logo
	@$(PY) -m rookery.schemas.generate --check

format: $(READY)  ## format the code and mend what can be mended
	@$(PY) -m ruff check --fix-only --quiet .
	@$(PY) -m ruff format .

up: $(READY)  ## start Kafka and Redis and leave them running; run, test and bench find them
	@$(SERVERS) up

down: $(READY)  ## stop them and remove their data
	@$(SERVERS) down

status: $(READY)  ## which servers are configured or up, and whether they answer
	@$(SERVERS) status || true

proto: $(READY)  ## generate the Python code of the .proto files
	@$(PY) -m rookery.schemas.generate

bench: $(READY)  ## measurements that take less than ten minutes: BENCH="--list" for what there is
	@$(PY) -m bench $(BENCH)

bench-all: $(READY)  ## all measurements, with other stream processors beside ours
	@$(PY) -m bench --all $(BENCH)

clean:  ## stop servers, remove .venv and everything built, downloaded or cached here
	@if [ -x $(PY) ] && [ -d .rookery/servers ]; then $(SERVERS) down; fi
	@rm -rf .venv .rookery dist schemas/*.so streams/*/*.so .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
