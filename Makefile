# Every target sets up .venv by itself; none needs root, but `test` wants a few programs to be there.
PYTHON ?= python3
SEED ?= 1
MINUTES ?= 20
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: help venv demo docs test hosts-test chaos test-fast tools image image-test lint bench lock clean
.DEFAULT_GOAL := help

help: ## Show the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

venv: $(STAMP) ## Make .venv with everything the other targets need

$(STAMP): requirements.txt pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11 ...")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) '$(shell grep -o '^uv==[0-9.]*' requirements.txt)'
	# uv takes 10 s where pip takes a minute; pip is for machines whose certificates uv does not find.
	VIRTUAL_ENV=$(CURDIR)/$(VENV) $(BIN)/uv pip sync --quiet --compile-bytecode --system-certs --require-hashes requirements.txt \
	  || $(PIP) --no-deps --require-hashes -r requirements.txt
	$(PIP) --no-deps --no-build-isolation -e .
	touch $@

demo: venv ## Run the pipeline on sample photos and videos
	$(BIN)/lens demo

test: tools ## Run every test
	# A third of their time on two cores is waiting, in which a third process works.
	$(BIN)/python -m pytest -q -m "not hosts" -n 3 --dist loadfile --no-loadscope-reorder --durations=20

# Chromium and what else the tests need that no wheel has.
tools: venv
	@missing="$$($(BIN)/python -m lens_pipeline_tests.tools)"; \
	test -z "$$missing" && exit 0; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq --yes --no-install-recommends $$missing; \
	else \
	  echo "Their tests will fail without: apt install $$missing (Google Chrome will do for chromium)" >&2; \
	fi

hosts-test: tools ## Run the test with hosts in network namespaces: as root, alone on the machine
	$(BIN)/python -m pytest -q -m hosts

chaos: venv ## Break a running pipeline at random, then judge it (SEED=1 MINUTES=20)
	$(BIN)/python -m lens_pipeline_tests.chaos --seed $(SEED) --minutes $(MINUTES)

image: ## Build the container image (BASE=… another base, BUILDER=… another program)
	deploy/build-image.sh

image-test: venv ## Build the image on a Debian made here, and run every role in it (root, minutes)
	$(BIN)/python -m lens_pipeline_tests.deploy.try_image

test-fast: venv ## Run the tests that take no more than a second or so each
	$(BIN)/python -m pytest -q -m "not slow" -n 2

lint: venv ## Check style, types and definitions
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache
	$(BIN)/pyright
	# Names that macOS lacks.
	$(BIN)/pyright --pythonplatform Darwin lens_pipeline
	$(BIN)/dg check defs

bench: venv ## Measure, print a table, write benchmarks/results.json
	$(BIN)/python -m benchmarks

docs: venv ## Write the generated pages of docs/ anew
	$(BIN)/python -m docs

lock: venv ## Pin every dependency anew in requirements.txt
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links \
	  --all-extras --no-annotate --custom-compile-command 'make lock' -o requirements.txt pyproject.toml
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links \
	  --extra c2pa --no-annotate --custom-compile-command 'make lock' -o requirements-production.txt pyproject.toml

clean: ## Remove .venv and what the demo made
	rm -rf $(VENV) .lens
