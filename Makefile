# traceworld: `make demo` shows the main job, `make test` runs the tests. Both set up what they need and are safe to repeat.
SHELL := /bin/bash
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# `make demo INPUT=path` runs on your own video, RGB-D folder or folder of frames.
INPUT ?=
OUT ?= demo
# Extra arguments for pip, e.g. PIP_ARGS='--index-url https://download.pytorch.org/whl/cpu --extra-index-url https://pypi.org/simple'
PIP_ARGS ?=
export MUJOCO_GL ?= egl
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.PHONY: help setup dev system browser demo test test-slow test-openpi test-lerobot test-ray test-robotracer lint format types constraints clean

help:
	@echo 'make demo [INPUT=path]  set up and run the main job; writes $(OUT)/report.html'
	@echo 'make test               the test suite (with coverage)'
	@echo 'make test-slow          the slow tests'
	@echo 'make test-openpi        the published openpi client against the policy server (own environment)'
	@echo 'make test-ray           extraction on Ray, with workers that are killed (installs Ray into .venv)'
	@echo 'make test-robotracer    fine-tuning and reinforcement of RoboTracer through TRL (installs it into .venv)'
	@echo 'make test-lerobot       LeRobot reads, edits and trains on what is exported (own Python 3.12 environment)'
	@echo 'make lint               ruff (lint, format) and mypy'
	@echo 'make setup | dev        only install (for use | for development)'

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo 'traceworld needs Python 3.11 or newer; set PYTHON=/path/to/python3.11'; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { echo 'Could not make a virtual environment. On Debian: sudo apt-get install python3-venv'; exit 1; }

# torch goes first and pinned: a looser requirement would bring gigabytes of CUDA packages.
$(VENV)/.ready: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/pip install -q $(PIP_ARGS) -c constraints.txt torch
	$(BIN)/pip install -q $(PIP_ARGS) -c constraints.txt -e '.[sim,viewer]'
	@touch $@

$(VENV)/.ready-dev: $(VENV)/.ready
	$(BIN)/pip install -q $(PIP_ARGS) -c constraints.txt -e '.[dev]'
	@touch $@

setup: $(VENV)/.ready
dev: $(VENV)/.ready-dev

# What rendering needs from the system: installed if allowed, else the command is shown and the run goes on.
system:
	@$(PYTHON) tools/system_packages.py libEGL.so.1=libegl1 libGL.so.1=libgl1

# What the browser tests need; without it they are skipped with a reason.
browser:
	@$(PYTHON) tools/system_packages.py chromium=chromium chromedriver=chromium-driver

demo: setup system
	$(BIN)/traceworld demo $(if $(INPUT),--input '$(INPUT)') --out '$(OUT)'

test: dev system browser
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist worksteal -m 'not slow and not gpu and not network' --cov --cov-report=term:skip-covered --cov-fail-under=85

test-slow: dev system browser
	$(BIN)/python -m pytest -q -m slow

# The published client with its own NumPy, unmodified.
test-openpi: dev system
	@test -x .venv-openpi/bin/python || $(PYTHON) -m venv .venv-openpi
	.venv-openpi/bin/pip install -q $(PIP_ARGS) openpi-client typing_extensions
	TRACEWORLD_OPENPI_PYTHON=$(CURDIR)/.venv-openpi/bin/python $(BIN)/python -m pytest -q tests/serving/test_openpi_client.py

test-ray: dev system
	$(BIN)/pip install -q $(PIP_ARGS) -e '.[ray]'
	$(BIN)/python -m pytest -q --timeout 1800 tests/extract/test_ray_workers.py tests/extract/test_faults.py

test-robotracer: dev
	$(BIN)/pip install -q $(PIP_ARGS) trl==1.16.0 peft==0.21.2 accelerate==1.15.0 datasets==5.2.0
	$(BIN)/python -m pytest -q --timeout 1800 tests/training/robotracer

# LeRobot needs Python 3.12 and an older torch. Its torch is the default one without the CUDA packages (see cpu_torch.py).
PYTHON312 ?= $(firstword $(wildcard $(HOME)/.pyenv/versions/3.12*/bin/python) python3.12)
LEROBOT := .venv-lerobot
$(LEROBOT)/.ready: tests/lerobot_bridge/requirements.txt tests/lerobot_bridge/requirements-no-deps.txt
	$(PYTHON312) -m venv $(LEROBOT)
	$(LEROBOT)/bin/pip install -q $(PIP_ARGS) -r tests/lerobot_bridge/requirements.txt
	$(LEROBOT)/bin/pip install -q $(PIP_ARGS) --no-deps -r tests/lerobot_bridge/requirements-no-deps.txt
	$(LEROBOT)/bin/python tests/lerobot_bridge/cpu_torch.py
	$(LEROBOT)/bin/pip install -q --no-deps --no-build-isolation -e . -e packages/lerobot_policy_traceworld
	@touch $@

test-lerobot: $(LEROBOT)/.ready
	$(LEROBOT)/bin/python -m pytest -q -o addopts=--import-mode=importlib --timeout 1800 tests/lerobot_bridge

lint: dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

constraints: dev
	@{ head -1 constraints.txt; $(BIN)/pip freeze --exclude-editable | sed 's/ @ .*//' | grep -v '^torch'; $(BIN)/pip list --format=freeze | grep '^torch=='; } > constraints.txt.tmp && mv constraints.txt.tmp constraints.txt

clean:
	rm -rf $(VENV) .venv-openpi $(LEROBOT) $(OUT) build dist src/*.egg-info .pytest_cache .mypy_cache .ruff_cache .coverage
