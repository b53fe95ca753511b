# The accuracy-paradox book. `make` alone lists the targets. After the first installation nothing here needs a network.
PYTHON ?= python3
CONFIG ?= configs/quick.yaml
BIN := .venv/bin
INSTALLED := .venv/.installed

# Recipes read CONFIG and the options from the environment, in quotes: a name may hold a space or a `#`.
OPTIONS := WORKERS THREADS GPUS RUNS_PER_GPU PROFILE
KNOWN := PYTHON CONFIG BIN INSTALLED PARTS $(OPTIONS)
export CONFIG $(OPTIONS)
given_here := $(foreach name,$(.VARIABLES),$(if $(filter command,$(origin $(name))),$(name)))
of_others := MAKE% PIP_% HF_% TRANSFORMERS_% OMP_% MKL_% CUDA_% PYTEST_% SNAKEMAKE_% XDG_% LC_% PARADOX_% TMPDIR SHELL LANG HOME PATH
unknown := $(filter-out $(KNOWN) $(of_others),$(given_here))
$(if $(unknown),$(error $(unknown): no variable of this Makefile; there are $(KNOWN)))

export PYTHONHASHSEED := 0
export HF_HUB_DISABLE_TELEMETRY := 1
export PYDEVD_DISABLE_FILE_VALIDATION := 1
unexport MPLBACKEND # a backend from outside would keep figures out of the notebooks

.PHONY: help paper choose check test test-slow test-slurm lint quick unit notebooks book browser study record pages bench fixtures clean
.DEFAULT_GOAL := help
.NOTPARALLEL: # the targets of `test` share both cores already

help: ## list the targets
	@sed -nE 's/^([a-z-]+):.*## (.*)/make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 18

$(INSTALLED): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(not (3, 11) <= v[:2] <= (3, 12) and f"Python {v[0]}.{v[1]}: the lock is for 3.11 and 3.12; make PYTHON=python3.11 …")'
	test -x $(BIN)/pip || $(PYTHON) -m venv .venv || { rm -rf .venv; exit 1; }
	$(BIN)/python -m pip install --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --no-deps --no-build-isolation -e .
	@touch $@

paper: $(INSTALLED) ## run the quick study, build the book with its results, print the verdict
	$(MAKE) study CONFIG=configs/quick.yaml
	$(BIN)/python -m paradox_utils.pages stage --study results/quick
	$(BUILD)
	@echo && $(BIN)/python -m paradox_utils.pages verdict --study results/quick
	@echo && echo "The book: $(CURDIR)/_build/html/index.html"

check: lint quick ## while you work: lint, and the tests that train nothing and start nothing

test: lint unit notebooks browser ## lint, all tests but the slow ones, notebooks, the book built without a warning, its pages in a browser

lint: $(INSTALLED) # ruff's rules and its format, the arrows between the folders, and no unused name
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache --no-logo
	$(BIN)/python tests/unused.py

# Two workers, and the tests of a file in one of them: what they share is made once. In order, the long files come before the end.
PYTEST = HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --durations=12 --durations-min=5

quick: $(INSTALLED) # the tests that bear no mark
	$(PYTEST) -m "not heavy and not slow" --ignore=tests/pages/test_browser.py

unit: $(INSTALLED) # those and the heavy ones
	$(PYTEST) -m "not slow" --ignore=tests/pages/test_browser.py

test-slow: $(INSTALLED) ## the tests of what seldom happens, for CI: kills at any moment, faults in whole studies, several processes
	$(PYTEST) -m slow --ignore=tests/pages/test_browser.py

notebooks: $(INSTALLED) # every notebook really runs; those that train come first
	$(PYTEST) --nbval-lax --nbval-current-env --nbval-kernel-startup-timeout 900 notebooks

book: $(INSTALLED) ## render the committed pages
	$(BIN)/python -m paradox_utils.pages stage
	$(BUILD)
	@echo "The book: $(CURDIR)/_build/html/index.html"

browser: book ## open every page of the book in Chromium, wide and narrow, light and dark
	$(BIN)/python -m pytest -n 2 --dist worksteal tests/pages/test_browser.py

BUILD = $(BIN)/jupyter-book build _build/source --path-output . --all -W -n --keep-going

study: $(INSTALLED) ## run a study: CONFIG=configs/NAME.yaml [WORKERS=2 THREADS=1 GPUS=1 RUNS_PER_GPU=1 PROFILE=profiles/slurm]
	$(BIN)/python -m paradox_utils.study run "$$CONFIG" $(foreach option,$(OPTIONS),$(call given,$(option)))

given = $(if $($(1)),--$(subst _,-,$(shell echo $(1) | tr A-Z a-z)) "$$$(1)")

choose: CONFIG := $(if $(filter file,$(origin CONFIG)),configs/choose-atlas.yaml,$(CONFIG))
choose: $(INSTALLED) ## which of several reward models to train with: CONFIG=configs/choose-atlas.yaml
	$(BIN)/python -m paradox_utils.choose run "$$CONFIG"

record: $(INSTALLED) ## keep a finished study's tables in results/recorded, and draw the README's figure from them
	$(BIN)/python -m paradox_utils.study record "$$CONFIG"
	$(BIN)/python -c 'from paradox_utils.analysis.tables import load_summary; from paradox_utils.figures.study import in_brief; in_brief(load_summary("results/recorded/atlas")).savefig("book/static/atlas.png", dpi=150)'

pages: $(INSTALLED) ## execute the stale pages in notebooks/ again and stamp them
	$(BIN)/python -m paradox_utils.pages execute

test-slurm: $(INSTALLED) ## run the quick study through a SLURM of one node and compare it with the local run
	$(BIN)/python tests/slurm/one_node.py "$$CONFIG"

bench: $(INSTALLED) ## measure speed and memory, and write results/recorded/benchmarks.csv [PARTS="t5 trl"]
	$(BIN)/python -m benchmarks $(PARTS)

fixtures: $(INSTALLED) ## rebuild the small policy and reward models the notebooks start from
	$(BIN)/python -m paradox_utils.stages.fixtures

clean: ## remove builds and caches; results and the environment stay
	rm -rf _build .pytest_cache .ruff_cache .hypothesis .snakemake
	find paradox_utils tests book -name __pycache__ -type d -prune -exec rm -rf {} +
