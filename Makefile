# Everything that an operator or a contributor does here, by name. `make` alone lists it.
#
# `make run` needs GNU make, a plain sh and Python 3.11 or newer, and makes .venv itself; the
# tests want Node 20 and npm beside them. An environment is made anew when its lock changes,
# and left alone otherwise. Settings are the server's own: RAGSOCKET_... and ragsocket.toml.

SHELL := /bin/sh
.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help run setup test lint types format bench bench-model bench-clients bench-page eval docs page \
	screenshots soak dist lock clean venv-run venv-test venv-bench-tutorial venv-lock node-modules \
	bench-retrieval bench-ingest

PYTHON ?= python3
# Unset, these leave the choice to the settings. Only the folder has a default of its own.
HOST ?=
PORT ?=
DATA ?= $(if $(RAGSOCKET_DATA),,$(shell grep -qs '^ *data *=' ragsocket.toml || echo data))
ARGS ?=
# Not every shell expands the tilde of DATA=~/papers.
FOLDER = $(patsubst ~/%,$(HOME)/%,$(DATA))

export PIP_DISABLE_PIP_VERSION_CHECK := 1
BIN := .venv/bin
TUTORIAL_BIN := .venv-bench-tutorial/bin

quoted = '$(subst ','\'',$(1))'

help: ## list these targets
	@echo 'usage: make TARGET [VARIABLE=value ...]'
	@echo
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1|\2/p' $(firstword $(MAKEFILE_LIST)) \
		| while IFS='|' read -r name text; do printf '  %-13s %s\n' "$$name" "$$text"; done
	@echo
	@echo 'variables:'
	@echo '  HOST    address to listen on (run; 127.0.0.1)'
	@echo '  PORT    port to listen on (run; 8000)'
	@echo '  DATA    folder of documents (run; data)'
	@echo '  ARGS    more arguments for what is run: make run ARGS="--llm-url URL --llm-model NAME"'
	@echo '  PYTHON  the Python that environments are made with (python3)'

run: venv-run ## set up what is missing, the model too, then answer from the folder DATA
	@exec $(BIN)/ragsocket serve --pull $(if $(HOST),--host $(call quoted,$(HOST))) \
		$(if $(PORT),--port $(call quoted,$(PORT))) $(if $(DATA),--data $(call quoted,$(FOLDER))) $(ARGS)

setup: venv-test venv-bench-tutorial node-modules ## set up everything that the tests need

test: setup lint types ## set up, then check style and types and run the tests
	@$(BIN)/python -m pytest -m 'not soak' -n 2 --dist loadfile $(ARGS)

lint: venv-test ## check style
	@$(BIN)/python -m ruff check .
	@$(BIN)/python -m ruff format --check .

types: venv-test node-modules ## check types
	@$(BIN)/python -m mypy --strict src clients/python/src tests benchmarks docs
	@tests/js/node_modules/.bin/pyright --project clients/python --pythonpath $(BIN)/python

format: venv-test ## bring the code into style
	@$(BIN)/python -m ruff check --fix .
	@$(BIN)/python -m ruff format .

bench: venv-test venv-bench-tutorial ## measure ragsocket beside the tutorial way
	@BENCH_TUTORIAL_PYTHON=$(call quoted,$(CURDIR)/$(TUTORIAL_BIN)/python) \
		$(BIN)/python -m benchmarks.run $(ARGS)

bench-ingest: venv-test ## measure ten thousand files: taken in, changed, beside streaming answers
	@PYTHONPATH=src:tests $(BIN)/python -m benchmarks.ingest $(ARGS)

bench-model: venv-test ## measure the default model through the whole server
	@$(BIN)/python -m benchmarks.local_model

bench-clients: venv-test node-modules ## measure how long a stop takes in each client
	@PYTHONPATH=$(call quoted,$(CURDIR)/clients/python/src:$(CURDIR)/tests) $(BIN)/python -m benchmarks.stop $(ARGS)

bench-page: venv-test ## measure the frames of the page while long answers are written
	@PYTHONPATH=tests $(BIN)/python -m benchmarks.page $(ARGS)

bench-retrieval: venv-test ## measure searches of 100,000 passages, and the event loop beside them
	@$(BIN)/python -m benchmarks.retrieval $(ARGS)

eval: venv-run ## ask data/questions.jsonl of the extracts, and of the default model if it is here
	@$(BIN)/ragsocket eval data/questions.jsonl --data data --llm-model none $(ARGS)
	@if model=`$(BIN)/ragsocket models path 2>/dev/null`; then \
		$(BIN)/ragsocket eval data/questions.jsonl --data data --llm-model "$$model" $(ARGS); \
	else echo 'the default model is not here (ragsocket models pull): its table is left out'; fi

docs: venv-test ## write the generated tables of the documentation anew
	@$(BIN)/python docs/generate.py

page: venv-test node-modules ## make the one file of JavaScript that the page loads anew
	@$(BIN)/python docs/page.py

screenshots: venv-test node-modules ## take the pictures of the page in docs/images anew
	@$(BIN)/python docs/screenshots.py

soak: venv-test ## run the tests that take long
	@$(BIN)/python -m pytest -m soak $(ARGS)

dist: venv-run ## build the wheel and the sdist into dist/
	@rm -rf dist
	@$(BIN)/python -m hatchling build

# `make lock` changes no version that still fits; `make lock ARGS=--upgrade` takes the newest.
# Each lock is bound by the one before it that shares its environment or its figures.
lock: venv-lock ## write requirements/*.txt anew
	@set -e; compile() { \
		echo "requirements/$$1.txt"; lock=$$1; shift; \
		.venv-lock/bin/uv pip compile --quiet --universal --python-version 3.11 --fork-strategy fewest \
			--generate-hashes --no-emit-index-url --no-emit-find-links \
			--custom-compile-command 'make lock' --output-file "requirements/$$lock.txt" "$$@" $(ARGS); \
	}; \
	compile run pyproject.toml --extra local --extra postgres; \
	compile base pyproject.toml --extra postgres --constraint requirements/run.txt; \
	compile test pyproject.toml --extra local --extra postgres --extra test --constraint requirements/run.txt; \
	compile build requirements/build.in --constraint requirements/test.txt; \
	compile bench-tutorial requirements/bench-tutorial.in --constraint requirements/run.txt; \
	compile lock requirements/lock.in
	@if grep -nE '://|--(extra-)?index-url|--find-links' requirements/*.txt; then \
		echo 'make lock: these lines name where packages came from; locks must not' >&2; exit 1; fi

clean: ## remove what make made; conversations and the index (.ragsocket) stay
	@rm -rf .venv .venv-bench-tutorial .venv-lock dist tests/js/node_modules \
		clients/js/node_modules clients/js/types .hypothesis .mypy_cache .pytest_cache .ruff_cache .schemathesis
	@find src tests benchmarks clients -type d -name __pycache__ -prune -exec rm -rf {} + 2>/dev/null || true

# --- environments -----------------------------------------------------------------------------

# Shell that ends with the fix when $(PYTHON) cannot make an environment.
define check_python
stop() { echo "make: $$*" >&2; exit 1; }; \
python=$(call quoted,$(PYTHON)); \
other=; for name in python3.14 python3.13 python3.12 python3.11; do \
	if [ -z "$$other" ] && $$name -c 'import ensurepip, venv' >/dev/null 2>&1; then other=$$name; fi; done; \
fix="install that (Debian, Ubuntu: apt install python3 python3-venv; macOS: brew install python3)"; \
if [ -n "$$other" ]; then fix="you have it as $$other: add PYTHON=$$other to the command"; fi; \
command -v "$$python" >/dev/null 2>&1 \
	|| stop "there is no '$$python' here. ragsocket needs Python 3.11 or newer; $$fix."; \
version=`"$$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null` \
	|| stop "'$$python' does not start. ragsocket needs Python 3.11 or newer; $$fix."; \
"$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	|| stop "'$$python' is Python $$version. ragsocket needs Python 3.11 or newer; $$fix."; \
"$$python" -c 'import ensurepip, venv' >/dev/null 2>&1 \
	|| stop "Python $$version is here without venv and ensurepip. Install them (Debian, Ubuntu: apt install python$$version-venv), then run this again."
endef

# $(call environment,FOLDER,LOCKS,OTHER FILES,HOW,THEN): FOLDER holds LOCKS. HOW is `anew` (the
# folder is emptied first) or `added`; THEN is one more command of that folder's Python. Nothing
# happens while the stamp, a checksum of place, locks and files, is right.
define environment
@set -e; \
stamp=$(1)/.holds-$(firstword $(2)); \
want=`{ echo $(call quoted,$(CURDIR)); cat $(2:%=requirements/%.txt) $(3); } | cksum`; \
if [ "`cat $$stamp 2>/dev/null`" = "$$want" ] && $(1)/bin/python -c '' 2>/dev/null; then exit 0; fi; \
if [ $(4) = anew ]; then \
	$(check_python); \
	echo "Setting up $(1) with Python $$version. This takes a minute or two, once."; \
	"$$python" -m venv --clear $(1); \
else \
	echo 'Adding requirements/$(firstword $(2)).txt to $(1).'; \
fi; \
$(1)/bin/python -m pip install -qq --require-hashes $(2:%=--requirement requirements/%.txt) \
	|| { echo 'make: the packages could not be installed; the reason stands above.' >&2; exit 1; }; \
$(if $(5),$(1)/bin/python $(5);) \
echo "$$want" > $$stamp
endef

venv-run:
	$(call environment,.venv,run build,pyproject.toml src/ragsocket/__init__.py,anew,\
		-m pip install -qq --no-deps --no-build-isolation --editable .)

venv-test: venv-run
	$(call environment,.venv,test,,added)

venv-bench-tutorial:
	$(call environment,.venv-bench-tutorial,bench-tutorial,,anew)

venv-lock:
	$(call environment,.venv-lock,lock,,anew)

node-modules:
	@set -e; for folder in tests/js clients/js; do ( \
		cd $$folder; \
		want=`cksum < package-lock.json`; \
		if [ "`cat node_modules/.holds 2>/dev/null`" = "$$want" ]; then exit 0; fi; \
		node -e 'process.exit(process.versions.node.split(".")[0] < 20 ? 1 : 0)' 2>/dev/null && command -v npm >/dev/null 2>&1 || { \
			echo 'make: the tests need Node 20 or newer, and npm. Install them (apt install nodejs npm, or brew install node), then run this again.' >&2; exit 1; }; \
		npm ci --loglevel=error >/dev/null; \
		echo "$$want" > node_modules/.holds \
	); done
