# Everything a person does with this checkout. `make` alone lists it.
#
#   make run HOST=0.0.0.0 PORT=9000      make test ARGS="tests/outbox -x"      make setup PYTHON=python3.13

PYTHON ?= python3
HOST ?= 127.0.0.1
PORT ?= 8000
ARGS ?=
EXAMPLES ?= 100000
SEED ?= 1
SECONDS ?= 60
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PEERS := .peers

.DEFAULT_GOAL := help
.PHONY: help setup run test check servers servers-stop fuzz bench load models torture-messaging peers clean

help: ## list the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-17s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(READY) ## make .venv with everything to develop and test

# The stamp makes a second setup free, until pyproject.toml changes. Debian's python3 has venv without ensurepip;
# virtualenv brings its own pip. A venv that was left half made is made again.
$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "$(PYTHON) is older than 3.11; write: make setup PYTHON=python3.11" >&2; exit 1; }
	@if [ ! -x $(BIN)/pip ]; then \
		if $(PYTHON) -c 'import ensurepip' 2>/dev/null; then $(PYTHON) -m venv --clear $(VENV); \
		elif $(PYTHON) -m virtualenv --version >/dev/null 2>&1 \
			|| $(PYTHON) -m pip install --quiet --user virtualenv 2>/dev/null; then $(PYTHON) -m virtualenv --quiet $(VENV); \
		else echo "$(PYTHON) cannot make virtual environments; run: apt-get install python3-venv" >&2; exit 1; fi; fi
	$(BIN)/pip install --quiet --editable '.[all,dev]'
	@touch $@

# `exec` leaves no shell between make and the server, which drains on SIGTERM and Ctrl-C and then exits 0. make itself, if
# it gets the signal, passes it on, waits, and ends by the same signal (status 143).
run: setup ## migrate the database and serve the example application
	$(BIN)/alembic upgrade head
	@exec $(BIN)/python -m example_app.entrypoints.serve --host $(HOST) --port $(PORT)

test: setup ## run the tests on all cores; real servers are started as needed
	$(BIN)/python -m pytest -n auto $(ARGS)

check: setup ## lint, formatting, types and layers
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy --strict cqrs_fastapi
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports

servers: setup ## start PostgreSQL and Kafka, and print how to use them
	@$(BIN)/python -m tools.servers start
	@$(BIN)/python -m tools.servers env

servers-stop: ## stop them and remove their data
	@if [ -x $(BIN)/python ]; then $(BIN)/python -m tools.servers stop; fi

models: setup ## search the models of the protocols with spin; ARGS=--all for the larger ones
	@if ! command -v spin >/dev/null || ! command -v gcc >/dev/null; then \
		if [ "$$(id -u)" = 0 ]; then apt-get update -qq && apt-get install -qq -y spin gcc libc6-dev; \
		else echo "spin or gcc is missing; run: sudo apt-get install spin gcc libc6-dev" >&2; exit 1; fi; fi
	$(BIN)/python -m tools.models $(ARGS)

fuzz: setup ## search for messages that bring a consumer down; EXAMPLES=1000000 for longer
	CQRS_FUZZ_EXAMPLES=$(EXAMPLES) $(BIN)/python -m pytest --timeout=0 tests/inbox/test_envelope_bad_input.py -k "bytes or change or name"

bench: setup ## measure
	$(BIN)/python -m benchmarks $(ARGS)

torture-messaging: setup ## kill, stop and restart everything under load and judge what is left; SEED, SECONDS, ARGS
	$(BIN)/python -m tools.messaging_torture --seed $(SEED) --seconds $(SECONDS) $(ARGS)

peers: setup $(PEERS)/.ready ## the same faults on python-cqrs and FastStream, as a table
	$(BIN)/python -m tools.peers --peers $(PEERS)/bin/python $(ARGS)

$(PEERS)/.ready: tools/peers/requirements.txt | setup
	$(BIN)/python -m venv --clear $(PEERS)
	$(PEERS)/bin/pip install --quiet --requirement $<
	@touch $@

load: setup ## drive a running example application
	$(BIN)/python -m example_app.entrypoints.load $(ARGS)

clean: servers-stop ## remove what these commands made, the virtual environment too
	rm -rf $(VENV) $(PEERS) .servers .ruff_cache .mypy_cache .pytest_cache .hypothesis .import_linter_cache build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
