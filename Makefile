# Every command a person needs. `make` alone lists them.
# Each command makes the local environment .venv by itself when it is missing or out of date.

# The first Python that fits; say `make PYTHON=... TARGET` to choose another.
PYTHON ?= $(firstword $(foreach p,python3.11 python3.12 python3 python,$(if $(shell $(p) -c 'import sys; print(sys.version_info[:2] in ((3, 11), (3, 12)))' 2>/dev/null | grep True),$(p))) python3)
VENV := $(CURDIR)/.venv
PY := $(VENV)/bin/python
PORT ?= 8000
export PATH := $(VENV)/bin:$(PATH)

.DEFAULT_GOAL := help
.PHONY: help setup setup-dev book serve page-speed zip pdf watch test check lint labs labs-check labs-run lab api nbval grade mutation-score slides bench models lock release clean

help: ## list the commands
	@echo "Large Models on Small Machines"
	@echo
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

setup: ## make the local environment (the other commands do this themselves)
	@$(PYTHON) tools/setup_env.py base

setup-dev:
	@$(PYTHON) tools/setup_env.py dev

book: setup ## execute and build the book, and say where to open it
	@$(PY) tools/build_book.py

serve: setup ## serve the built book on this machine (PORT=8000)
	@$(PY) tools/serve.py --port $(PORT)

page-speed: setup-dev ## load every built page over a slow line, on a slow processor, and print the waits
	@$(PY) tools/page_speed.py

zip: setup ## pack the built book to be read without a network (_build/*.zip)
	@$(PY) tools/take_away.py zip

pdf: setup-dev ## print the whole built book into one PDF with Chromium (_build/*.pdf)
	@$(PY) tools/take_away.py pdf

watch: setup ## build, serve, and show every saved change in the browser (PORT=8000)
	@$(PY) tools/build_book.py --watch --port $(PORT)

lab: setup ## open the labs in JupyterLab
	@cd labs && $(VENV)/bin/jupyter lab --LabApp.news_url="" --LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate

api: setup ## serve a model of the book to OpenAI clients on this machine (MODEL=target API_PORT=8001)
	@$(PY) -m edgeinfer.memory.serving --model "$(or $(MODEL),target)" --port $(or $(API_PORT),8001)

test: setup-dev ## pass all tests: lint, types, import rules, library, evidence, labs, book
	@$(PY) tools/run_tests.py

lint: setup-dev ## style, types and import rules only
	@$(PY) tools/run_tests.py --only lint

check: setup-dev ## one stage of the tests: make check ONLY=lint (or labs-check library evidence papermill book nbval pages)
	@$(PY) tools/run_tests.py $(if $(ONLY),--only $(ONLY))

nbval: setup-dev ## every solution and every unsolved lab, with nbval where nothing else has run them
	@$(PY) tools/run_tests.py --only nbval

labs: setup ## write solutions/*.ipynb and labs/*.ipynb from solutions/*.py
	@$(PY) tools/build_labs.py

labs-check: setup ## say whether the committed notebooks are in step with their sources
	@$(PY) tools/build_labs.py --check

labs-run: setup ## execute every lab's solution with papermill; HTML reports under reports/labs
	@$(PY) tools/run_labs.py

grade: setup ## grade a class: make grade LAB=lab01_quantization SUBMISSIONS=folder-or-zip [SCHEDULER=tcp://...] [PARTIAL=1]
	@$(PY) -m edgeinfer.grading grade "$(LAB)" "$(SUBMISSIONS)" --out reports/grades \
		$(if $(SCHEDULER),--scheduler "$(SCHEDULER)") $(if $(filter 1,$(PARTIAL)),--partial)

release: setup ## write the public release, without solutions and hidden tests: make release OUT=../public
	@$(PY) tools/release.py "$(OUT)"

mutation-score: setup-dev ## run every wrong and right answer of the labs' suites; writes the instructors' table
	@$(PY) -m edgeinfer.grading score

slides: setup ## write slides for every chapter of the built book into _build/slides
	@$(PY) tools/slides.py

bench: setup-dev ## measure the kernels and the decoder against their peers; writes benchmarks/results
	@$(PY) benchmarks/run.py

models: setup-dev ## train the shipped model family again (hours; can be interrupted and goes on)
	@$(PY) -m edgeinfer.models.training

lock: setup-dev ## freeze the tested versions of .venv into constraints.txt
	@$(PY) tools/lock.py

clean: ## remove everything that is built (not the environment)
	@rm -rf _build reports .pytest_cache .hypothesis .mypy_cache .ruff_cache .import_linter_cache
