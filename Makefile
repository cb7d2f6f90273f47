# make demo: from a fresh clone to a trained adapter. make test: from a fresh clone to green tests.
# Both need only Python >= 3.11 (python3, or PYTHON=...) and make everything else themselves, in .venv.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
TORCH := 2.13.0
OUTPUT ?= runs/demo
READY := $(VENV)/.ready

.PHONY: demo test fast faults soak check coverage pitfalls mutants lock clean

demo: $(READY)  ## four banks train one adapter together; results in runs/demo
	@test ! -e $(OUTPUT)/results.json || { echo "$(OUTPUT) holds a finished demo: open $(OUTPUT)/report.html, or run: make demo OUTPUT=runs/another"; exit 2; }
	@if test -e $(OUTPUT)/config.yaml; then $(BIN)/fedbank simulate resume=$(OUTPUT); else $(BIN)/fedbank simulate output=$(OUTPUT); fi
	@echo "Open $(OUTPUT)/report.html in a browser."

test: $(READY)  ## the whole suite, fast tests first
	$(BIN)/python -m pytest -m "not slow"
	$(BIN)/python -m pytest -m "slow and not long"

fast: $(READY)  ## the fast tests only
	$(BIN)/python -m pytest -m "not slow"

faults: $(READY)  ## the table of faults that a consortium survives: what was seen, how long it took; the long ones too
	$(BIN)/python -m pytest -q -m "fault or long"

soak: $(READY)  ## a campaign of 100 rounds in which something fails every 30 s; its books are checked after every fault
	$(BIN)/python tests/faults/soak.py --rounds 100 --seconds-between-faults 30 --steps 60

check: $(READY)  ## style, types, import arrows, documents
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -q tests/test_docs.py

coverage: $(READY)  ## every branch of fedbank/privacy is taken by its fast tests
	$(BIN)/python -m pytest -q -m "not slow" tests/privacy --cov=fedbank.privacy --cov-branch --cov-report=term-missing --cov-fail-under=100

pitfalls: $(READY)  ## every seeded defect of the 31 privacy pitfalls must make its test fail
	$(BIN)/python tests/mutants/run.py --pitfalls

mutants: $(READY)  ## every seeded defect of every guarantee must make its test fail; three quarters of an hour
	$(BIN)/python tests/mutants/run.py

$(READY): pyproject.toml constraints.txt deploy/install_torch.py
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "FedBank needs Python 3.11 or later, got " + sys.version.split()[0] + ". Name one with: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python deploy/install_torch.py $(TORCH)
	$(BIN)/python -m pip --disable-pip-version-check install -q -c constraints.txt -e '.[ray,postgres,redis,dev]'
	@touch $@

lock: $(READY)  ## write the versions of .venv to constraints.txt
	$(BIN)/python -m pip freeze --exclude-editable > $(VENV)/freeze.txt
	grep -viE '^(torch|uv|pip|setuptools)==' $(VENV)/freeze.txt > constraints.txt

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
