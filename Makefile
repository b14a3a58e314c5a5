# make run   everything set up, a pool of two agents with the demo model on this machine, until Ctrl-C
# make test  everything set up, all tests
# make help  the rest

PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	command -v $$p >/dev/null && $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
BIN = .venv/bin
PYTEST_ARGUMENTS ?=
BENCH_ARGUMENTS ?=
SIM_ARGUMENTS ?=
CHAOS_ARGUMENTS ?=
RUNS ?= 30

.DEFAULT_GOAL := help
.PHONY: help setup run demo test compile test-compiled chaos check format proto freeze bench bench-failover clean sim growth

help: ## this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

setup: ## .venv with covey and the engine that fits this machine (once; then takes no time)
	@if [ -z "$(PYTHON)" ]; then echo "covey needs Python 3.11 or newer; on Debian and Ubuntu: sudo apt-get install -y python3 python3-venv" >&2; exit 1; fi
	@$(PYTHON) tools/setup.py

run: setup ## a real pool of two agents with the demo model on this machine, until Ctrl-C
	@$(BIN)/python -m covey.demo run

demo: setup ## the same, proving itself: kills the leader, streams on, prints measured times, exits
	@$(BIN)/python -m covey.demo prove

test: setup ## all tests
	@$(PYTHON) tools/setup.py --test-tools
	@$(BIN)/python -m pytest $(PYTEST_ARGUMENTS)

compile: setup ## the hot modules with mypyc, into build/compiled: covey then needs less CPU a request (needs a C compiler)
	@$(BIN)/python tools/compile.py

test-compiled: setup ## the unit tests of the compiled modules, against the compiled build
	@$(BIN)/python tools/compile.py --test $(PYTEST_ARGUMENTS)

chaos: setup ## every scenario of failure on a LAN of namespaces (root); writes docs/benchmarks/failover.md
	@$(BIN)/python -m tests.lan.chaos --report $(CHAOS_ARGUMENTS)

check: setup ## style, types, layers, freshness of generated code; changes nothing
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/python tools/proto.py --check

format: setup ## rewrite the code in the house's style
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

proto: setup ## generate mesh/covey_mesh/wire/v1 from proto/, and lock what is new
	@$(BIN)/python tools/proto.py
	@$(BIN)/python -m tools.wire_lock

freeze: setup ## write the versions in .venv to requirements/
	@$(BIN)/python tools/freeze.py

bench-failover: setup
	@$(BIN)/python -m bench.failover --report --runs $(RUNS) $(BENCH_ARGUMENTS)

bench-%: setup
	@$(BIN)/python -m bench.$(subst -,_,$*) $(BENCH_ARGUMENTS)

sim: setup ## the cluster simulator: make sim SEED=7 replays a seed, make sim HOURS=1 runs new ones (--help: more)
	@$(BIN)/python -m tests.sim.run $(if $(SEED),--first $(SEED) $(if $(HOURS),,--seeds 1)) $(if $(HOURS),--hours $(HOURS)) $(SIM_ARGUMENTS)

growth: setup ## idle traffic and time to a leader of simulated pools of 2, 10, 100 and 1,000 machines
	@$(BIN)/python -m tests.sim.growth

bench: ## which benchmarks there are; `make bench-gateway-cost` runs one
	@ls bench/*.py bench/*/__main__.py | sed -n -e 's,/__main__,,' -e 's,bench/\([a-z].*\)\.py,  make bench-\1,p' | tr _ -

clean: ## remove what was set up and built
	rm -rf .venv .cache build dist .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
