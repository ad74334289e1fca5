# One door. `make chat` and `make test` need git, make, a C++ compiler and Python 3.11 or newer.

PYTHON := $(firstword $(foreach name,python3 python3.14 python3.13 python3.12 python3.11,\
  $(shell $(name) -c 'import sys; sys.version_info >= (3, 11) and print("$(name)")' 2>/dev/null)))
BIN := .venv/bin
SOURCES := pyproject.toml CMakeLists.txt $(wildcard bobot/kernels/csrc/* bobot/*/__init__.py)

.PHONY: chat test test-slow test-isa sanitize accept lint types format clean
.DELETE_ON_ERROR:

chat: .venv/installed
	@$(BIN)/bobot chat

test: .venv/installed-dev
	@$(BIN)/python -m pytest -q

# One layer of each large model at its real size: up to 16 GiB of memory, some minutes.
test-slow: .venv/installed-dev
	@$(BIN)/python -m pytest -q -m slow

# Every test once more at each instruction level of this machine.
test-isa: .venv/installed-dev
	@for isa in $$($(BIN)/python -c 'from bobot import kernels; print(*(name for name, usable in kernels.features().items() if usable))'); do \
	  echo "BOBOT_ISA=$$isa"; BOBOT_ISA=$$isa $(BIN)/python -m pytest -q || exit 1; done

# The tests of the kernels with gcc's checks of memory and of undefined behaviour: an hour. Some of
# them: make sanitize SANITIZE="--isa avx2 tests/kernels/test_tiles.py".
sanitize: .venv/installed-dev
	@$(BIN)/python tests/sanitize $(SANITIZE)

# Clients and suites of others against the server: an hour, and the package registries. More of them
# with files that are not here: make accept ACCEPT="--spec openapi.yaml --gpt-oss FOLDER".
accept: .venv/installed-dev
	@$(BIN)/python tests/accept $(ACCEPT)

lint: .venv/installed-dev
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

types: .venv/installed-dev
	@$(BIN)/pyright

format: .venv/installed-dev
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

clean:
	rm -rf .venv build dist

# The package in place (an edit needs no reinstall) with its extension built; again when these change.
.venv/installed: $(SOURCES)
	@test -n "$(PYTHON)" || { echo "bobot needs Python 3.11 or newer; none was found." >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "Installing bobot into .venv (a few minutes the first time) ..."
	@$(BIN)/python -m pip install --upgrade 'pip>=25.1'
	@$(BIN)/python -m pip install --editable .
	@touch $@

.venv/installed-dev: .venv/installed
	@echo "Installing the tools for tests ..."
	@$(BIN)/python -m pip install --group dev
	@touch $@
