# make setup   prepare .venv with locked dependencies
# make run     the lab and the server on http://127.0.0.1:8000
# make test    every check: format, lint, types, tests, schema snapshots
# make clients every tool through the MCP Inspector, and all frameworks of docs/clients.md (minutes)
# make conformance  the official suite in all set-ups, and write docs/conformance.md (minutes)
# make coverage  which branches the tests of guard and stores take; fails under all of them (minutes)
# make schemas write the snapshots of the tools again
# make bench   measure, and write docs/performance.md (long)
# make faults  injected faults, all rows in their long size, and write docs/reliability.md (half an hour)
# make mutants  how many changes of the guard its tests notice: MODULES=… SAMPLE=… SEED=… (hours)
# make imagecheck  build and run the image's steps without a container engine (Linux, as root)
# make systemdcheck  units against a real systemd in namespaces of its own (Linux, as root)
# make wheel   dist/*.whl
# make bundle  dist/mcp-ops.mcpb, for Claude Desktop, validated
# make sbom    dist/mcp-ops.cdx.json: what the image holds, as CycloneDX
# make lock    resolve the dependencies anew (needs uv)

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PORT ?= 8000
# Tests run side by side, two processes a core: most of them wait for servers.
WORKERS ?= $(shell $(PYTHON) -c 'import os; print(2 * (os.cpu_count() or 1))')

# Where what is made for others goes.
DIST ?= dist

.PHONY: setup run test check clients conformance coverage schemas bench faults mutants lock clean
.PHONY: imagecheck systemdcheck wheel bundle sbom
.DEFAULT_GOAL := help

.PHONY: help
help:
	@sed -n 's/^# make/make/p' Makefile

setup: $(READY)

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "mcp-ops needs Python 3.11 or newer: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $(READY)

run: $(READY)
	@exec $(BIN)/mcp-ops lab --directory .lab --serve --port $(PORT)

test: check
	$(BIN)/python -m pytest -n $(WORKERS)

check: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/mcp-ops schemas --check

clients: $(READY)
	$(BIN)/python -m pytest -n $(WORKERS) tests/clients tests/clients/inspector_sweep.py \
	  tests/clients/field_sweep.py

conformance: $(READY)
	$(BIN)/python -m tests.conformance.run --write

# Every branch of what decides and of what it keeps; the others are shown.
COMPLETE := mcp_ops/guard/*,mcp_ops/stores/*,mcp_ops/server.py
MEASURED := tests/guard tests/stores tests/security tests/tools tests/auth tests/test_server.py \
  tests/test_cli_policy.py $(wildcard tests/test_redact*.py)

coverage: $(READY)
	$(BIN)/python -m coverage erase
	$(BIN)/python -m coverage run -m pytest -n $(WORKERS) $(MEASURED)
	$(BIN)/python -m coverage combine --quiet
	$(BIN)/python -m coverage report --include='$(COMPLETE),mcp_ops/redact*.py'
	$(BIN)/python -m coverage report --include='$(COMPLETE)' --fail-under=100 --format=total

schemas: $(READY)
	$(BIN)/mcp-ops schemas

bench: $(READY)
	$(BIN)/python -m benchmarks.run

faults: $(READY)
	$(BIN)/python -m tests.faults.run --long --write

mutants: $(READY)
	MODULES="$(MODULES)" SAMPLE="$(SAMPLE)" SEED="$(SEED)" $(BIN)/python -m tests.mutation.run

imagecheck: $(READY)
	$(BIN)/python -m pytest tests/deploy/imagecheck.py

systemdcheck: $(READY)
	$(BIN)/python -m tests.adapters.real_systemd

wheel: $(READY)
	$(BIN)/python -m hatchling build --target wheel --directory "$(DIST)"

bundle: $(READY)
	$(BIN)/python deploy/claude-desktop/build.py "$(DIST)/mcp-ops.mcpb"
	$(BIN)/python -m tests.deploy.tools "$(DIST)/mcp-ops.mcpb"

sbom: $(READY)
	$(BIN)/python -m tests.deploy.sbom "$(DIST)/mcp-ops.cdx.json"

LOCKED := --generate-hashes --universal --python-version 3.11 --no-annotate --no-header --quiet

lock:
	uv pip compile pyproject.toml --extra all --group dev $(LOCKED) --output-file requirements.lock
	uv pip compile requirements-clients.in $(LOCKED) --output-file requirements-clients.lock
	for each in agent fastmcp mcp1; do uv pip compile tests/clients/frameworks/$$each.in $(LOCKED) \
	  --output-file tests/clients/frameworks/$$each.lock || exit 1; done
	uv pip compile requirements-deploy.in $(LOCKED) --output-file requirements-deploy.lock
	uv pip compile tests/deploy/helm.in --no-deps $(LOCKED) --output-file tests/deploy/helm.lock
	# What is shipped is a part of what is tested.
	uv pip compile pyproject.toml --extra kubernetes --extra redis --extra azure --extra postgres --extra calendar \
	  --extra telemetry --extra azure-monitor --extra fast --constraint requirements.lock $(LOCKED) \
	  --output-file requirements-image.lock
	printf 'hatchling>=1.27\n' | uv pip compile - --constraint requirements.lock $(LOCKED) \
	  --output-file requirements-build.lock

clean:
	rm -rf $(VENV) .clients .deploy .lab .mutants .mypy_cache .ruff_cache .pytest_cache
