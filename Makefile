# The commands a newcomer types.  `make help` lists them.
.DEFAULT_GOAL := help
SHELL := /bin/bash
PYTHON := .venv/bin/python
# Tests go side by side where each worker can have namespaces of its own (root); one more worker
# than processors, since most tests wait for something.
SIDE_BY_SIDE = $(if $(shell unshare --net --pid --ipc --mount --fork echo yes 2>/dev/null),\
	--tx "$$(($$(nproc) + 1))*popen//python=tests/worker.sh" --dist loadfile --no-loadscope-reorder)

.PHONY: help setup setup-test build run sim test test-long bench soak lint format clean

help:  ## list these commands
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup:  ## system packages, .venv, build
	@tools/setup.sh run
	@$(MAKE) --no-print-directory build

setup-test:
	@tools/setup.sh test
	@$(MAKE) --no-print-directory build

build:  ## compile the pipeline and the simulator's packet source
	@$(MAKE) -s --no-print-directory -C hashpipe
	@$(MAKE) -s --no-print-directory -C simulator/packet_source

run: setup  ## record a whole night in small on the simulated observatory
	@$(PYTHON) -m simulator.night

sim: setup  ## keep the simulated observatory up, for commands typed by hand in another shell
	@$(PYTHON) -m simulator.standing

test: setup-test lint  ## every test, but of the long sweeps only a seeded sample
	@$(PYTHON) -m pytest -m "not long" $(SIDE_BY_SIDE)

test-long: setup-test  ## every test, and every long sweep
	@$(PYTHON) -m pytest

bench: setup  ## measure the pipeline against the limits of this machine
	@$(PYTHON) -m tools.bench

soak: setup  ## record flat out for half an hour, every file checked and removed as it is closed
	@$(PYTHON) -m tools.bench.soak

lint: setup-test  ## ruff, mypy, clang-format
	@$(PYTHON) -m ruff check .
	@$(PYTHON) -m ruff format --check .
	@$(PYTHON) -m mypy panoseti daemons simulator tools tests config.py qc.py start.py stop.py status.py
	@cd daq && ../$(PYTHON) -m mypy --python-version 3.10 .  # the oldest mypy knows; 3.8 is read by test_layers
	@git ls-files '*.c' '*.h' | xargs .venv/bin/clang-format --dry-run -Werror

format: setup-test  ## put every file into the house format
	@$(PYTHON) -m ruff check --fix -q .
	@$(PYTHON) -m ruff format -q .
	@git ls-files '*.c' '*.h' | xargs .venv/bin/clang-format -i

clean:  ## remove what was built (not .venv)
	@$(MAKE) --no-print-directory -C hashpipe clean
	@$(MAKE) --no-print-directory -C simulator/packet_source clean
