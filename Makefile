# Every target sets up what it needs. `make help` lists them.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed

.DEFAULT_GOAL := help
.PHONY: setup demo fmt lint types layers docs check test selftest web-test clients bench sanitize neon size clean help

NATIVE := $(wildcard native/*.cpp native/*.h native/CMakeLists.txt)

$(STAMP): pyproject.toml constraints.txt $(NATIVE)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and f"Python {sys.version.split()[0]} is too old: Aquila needs 3.11 or newer; run make PYTHON=python3.12 setup")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable '.[dev]' --constraint constraints.txt
	@touch $@

setup: $(STAMP) ## create .venv and install Aquila with its development tools
demo: setup ## pull a small model, complete code, chat once, show the speed
	@$(BIN)/aquila demo
fmt: setup ## format the code and mend what ruff can mend
	@$(BIN)/ruff format && $(BIN)/ruff check --fix
lint: setup ## style and formatting (ruff)
	@$(BIN)/ruff check && $(BIN)/ruff format --check
types: setup ## types (ty)
	@$(BIN)/ty check
layers: setup ## who imports whom (import-linter)
	@$(BIN)/lint-imports
docs: setup ## every path and command that a page names exists
	@$(BIN)/python tools/check_docs.py
check: lint types layers docs ## all of lint, types, layers, docs
test: setup ## the test suite, on two workers
	@$(BIN)/aquila pull --quiet smollm2-135m || echo 'no smollm2-135m: the test on its weights is skipped'
	@OMP_NUM_THREADS=1 $(BIN)/pytest -n 2
selftest: setup ## can the judge be trusted: Python and JavaScript in full, a dozen tasks of each compiled language
	@tools/toolchains.sh g++ javac go node npm
	@$(BIN)/aquila eval selftest --languages python,js --data ../shared/data/humaneval
	@$(BIN)/aquila eval selftest --languages cpp,java,go --tasks 12 --data ../shared/data/humaneval
web-test: setup ## the web page in a real Chromium
	@tools/toolchains.sh node npm chromium
	@npm --prefix tests/web --no-audit --no-fund --silent install
	@$(BIN)/pytest tests/web -q
clients: setup ## real clients of the server: openai, llm, litellm, aider, langchain, mistralai, lm-eval, codex, claude, cn, Neovim, Tabby's agent ...
	@$(BIN)/aquila pull --quiet smollm2-135m
	@tests/clients/install.sh
	@$(BIN)/pytest tests/clients -q
bench: setup ## every benchmark in its short form
	@for script in bench/*.py; do echo "== $$script" && $(BIN)/python "$$script" --quick || exit 1; done
sanitize: setup ## the native kernels under the address, undefined-behaviour and thread sanitizers
	@tools/sanitize.sh address,undefined && tools/sanitize.sh thread
neon: ## the NEON kernels against the portable ones, under an emulator
	@tools/agree.sh
size: ## lines of code and the longest files
	@git ls-files '*.py' | xargs wc -l | sort -rn | head -n 12
clean: ## remove caches and build output, keep .venv
	@rm -rf build dist .pytest_cache .ruff_cache .hypothesis .import_linter_cache && find src tests bench tools -name __pycache__ -type d -prune -exec rm -rf {} +
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
