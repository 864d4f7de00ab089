# Needs make and a Python of at least 3.11; everything else goes into .venv.

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PINS := requirements/dev.txt
# A few processes with one thread each: many tests are small, and threads of several processes hinder each other.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

.PHONY: help demo setup browser page-pictures test test-fast test-slow lint format clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## */\t/' | expand -t 12

demo: $(STAMP)  ## train the tiny world's hand task on the CPU, then evaluate it
	$(BIN)/hero train --out runs/demo

setup: $(STAMP)  ## make .venv with the pinned requirements

# A version manager leaves commands on PATH that fail when they run, so each candidate is tried.
$(STAMP): pyproject.toml $(PINS)
	@set -eu; \
	if ! $(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	  found=; \
	  for python in python3.13 python3.12 python3.11 python3 python; do \
	    if $$python -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	      found=$$python; break; \
	    fi; \
	  done; \
	  if [ -z "$$found" ]; then \
	    echo "make: no Python of at least 3.11 with venv found; install one (on Debian also python3-venv)" >&2; exit 1; \
	  fi; \
	  echo "making $(VENV) with $$found"; \
	  $$found -m venv --clear $(VENV); \
	fi; \
	uv=$$(command -v uv || true); \
	if [ -z "$$uv" ] || ! "$$uv" --version >/dev/null 2>&1; then \
	  uv=$(BIN)/uv; \
	  $(BIN)/python -m pip --version >/dev/null 2>&1 || $(BIN)/python -m ensurepip >/dev/null; \
	  [ -x "$$uv" ] || $(BIN)/python -m pip install --quiet uv; \
	fi; \
	"$$uv" pip install --python $(BIN)/python -r $(PINS); \
	"$$uv" pip install --python $(BIN)/python --no-deps -e .
	@touch $@

# Tests of the labelling page need a real browser; without one they are skipped, and say how to get it.
browser:  ## a Chromium for the tests of the labelling page, where it can be installed here
	@set -u; \
	if command -v chromium || command -v chromium-browser || command -v google-chrome; then exit 0; fi >/dev/null; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  export DEBIAN_FRONTEND=noninteractive; \
	  install="apt-get install -y -qq --no-install-recommends chromium"; \
	  $$install >/dev/null 2>&1 || { apt-get update -qq >/dev/null 2>&1 && $$install >/dev/null 2>&1; } || \
	    echo "make: chromium could not be installed; the tests of the labelling page are skipped" >&2; \
	else \
	  echo "make: no chromium on PATH; install it, or the tests of the labelling page are skipped" >&2; \
	fi

page-pictures: $(STAMP) browser  ## make the pictures of the pages in docs/images anew, from real runs
	$(BIN)/python -m tests.browser.pictures
	$(BIN)/python -m tests.browser.studio_pictures

test: $(STAMP) browser  ## every test but the slow ones
	$(PYTEST) -m "not slow"

test-fast: $(STAMP)  ## the tests that do not train
	$(PYTEST) -m "not learns and not slow"

test-slow: $(STAMP) browser  ## every test
	$(PYTEST)

lint: $(STAMP)  ## ruff and mypy, changing nothing
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP)  ## let ruff format and mend what it can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:  ## remove caches and build products; runs/ and .venv stay
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +
