# The verbs of this repository; a blank `make` prints them. `make up ARGS="--nodes 5"` hands arguments on.
SHELL := /bin/bash
PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3; do command -v $$p >/dev/null 2>&1 && $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := .build/installed
GENERATED := .build/generated
SOURCES := $(shell find protos -name '*.proto') protos/hatch_build.py $(wildcard nodeagent/helper/*.[ch])
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help setup up down status demo test test-unit test-kernel test-cluster lint fmt types protos images bench bench-up bench-pods lock engine-stop clean

help: ## print this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

setup: $(INSTALLED) $(GENERATED) ## virtual environment, stubs and the helper (the other verbs do this by themselves)

up: setup ## start the cluster (docker driver, or local where no engine can be had)
	@if $(BIN)/python -m compose.engine start; then $(BIN)/podwire up --driver docker $(ARGS); \
	else echo "starting the cluster with the local driver instead" >&2; $(BIN)/podwire up --driver local $(ARGS); fi

down: setup ## remove the cluster, and the engine if it was started for it and nothing else runs there
	@$(BIN)/podwire down $(ARGS)
	@$(BIN)/python -m compose.engine stop-if-idle

status: setup ## what runs and how it is
	@$(BIN)/podwire status $(ARGS)

demo: up ## two pods on two nodes that talk
	@$(BIN)/podwire apply --wait -f examples/two-pods.yaml
	@$(BIN)/podwire get pods -o wide
	@$(BIN)/podwire test pingall

test: test-unit test-kernel test-cluster ## every tier

test-unit: setup ## pure logic, fakes and whole simulated clusters
	$(BIN)/pytest -q tests/unit tests/sim tests/conformance $(ARGS)

test-kernel: setup ## the real kernel, in throw-away namespaces (root)
	@$(BIN)/python -m compose.host_packages node tools
	$(BIN)/pytest -q tests/kernel $(ARGS)

test-cluster: setup ## whole clusters with real packets (docker and local driver)
	@$(BIN)/python -m compose.host_packages node tools
	@$(BIN)/python -m compose.engine start || echo "clusters of the docker driver are skipped" >&2
	$(BIN)/pytest -q tests/cluster $(ARGS)

lint: setup ## style, layers and contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-logo
	$(BIN)/buf lint

fmt: setup ## rewrite in the house style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: setup ## mypy, strict, tests too
	$(BIN)/mypy
	$(BIN)/mypy --explicit-package-bases tests

protos: $(INSTALLED) ## stubs and the helper, again
	$(BIN)/python protos/hatch_build.py

images: setup ## base image and the podwire image
	@$(BIN)/python -m compose.image

bench: bench-up bench-pods ## the published numbers (root), as tables and in benchmarks/results

bench-up: setup ## command to "every node pair probed", by driver
	@$(BIN)/python benchmarks/bench_up.py $(ARGS)

bench-pods: setup ## pods per second beside the hand-packed floor
	@$(BIN)/python benchmarks/bench_pods.py $(ARGS)

lock: ## resolve anew and write both lock files (needs uv)
	uv lock --upgrade
	uv export --frozen -q --format requirements-txt --no-header --no-emit-project --no-dev -o compose/requirements.lock
	uv export --frozen -q --format requirements-txt --no-header --no-emit-project -o requirements-dev.lock

engine-stop: setup ## stop the Docker Engine that podwire started, if it did
	@$(BIN)/python -m compose.engine stop

clean: ## remove build files, caches and images; clusters go with `make down`
	@if test -x $(BIN)/python && docker info >/dev/null 2>&1; then \
	  { docker images -q --filter label=dev.podwire.image; docker images -q --filter label=dev.podwire.base; } | sort -u | xargs -r docker rmi -f >/dev/null; fi
	rm -rf .build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

# Only the standard library is needed until the environment stands; pip takes its index from the machine's own settings.
$(INSTALLED): requirements-dev.lock pyproject.toml
	@mkdir -p $(@D)
	@if test -z "$(PYTHON)"; then echo "podwire needs Python 3.11 or later; on Debian or Ubuntu: apt-get install python3 python3-venv" >&2; exit 1; fi
	@test -x $(BIN)/python || $(PYTHON) -m compose.host_packages venv
	@test -x $(BIN)/python || { echo "making the virtual environment"; $(PYTHON) -m venv $(VENV); }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(BIN)/python -m ensurepip >/dev/null
	@$(BIN)/python -m compose.host_packages compiler
	@echo "installing Python packages"
	@$(BIN)/python -m pip install -q --disable-pip-version-check --require-hashes --no-deps -r requirements-dev.lock
	@$(BIN)/python -m pip install -q --disable-pip-version-check --no-build-isolation --no-deps -e .
	@touch $@

$(GENERATED): $(SOURCES) $(INSTALLED)
	@$(BIN)/python -m compose.host_packages compiler
	@$(BIN)/python protos/hatch_build.py
	@touch $@
