# Everyday commands; each sets up what it needs. `make` alone lists them.
RAIDHUB := .venv/bin/raidhub
BIN := .venv/bin
BENCHMARKS := parse store crawl zeus budget head recovery replicas drain archive definitions clans leaderboards dagster_memory rebuild cheats capacity

.DEFAULT_GOAL := help
.PHONY: help ready demo test check lint pytest audit soak bench up down status logs migrate seed lock dev

help: ## this list
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 10

ready:
	@./bootstrap.sh

demo: ready ## everything end to end against the simulator; prints leaderboards, stays up
	$(RAIDHUB) demo

test: ready lint pytest ## all checks and tests

check: test ## the same

lint: ready ## style, types, import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

pytest: ready
	$(BIN)/pytest -m "not soak" -n 2 --dist loadfile --no-loadscope-reorder

audit: ready ## known vulnerabilities of the pinned packages; needs the package index's own service
	$(BIN)/python deploy/audit/audit.py $(if $(OPTIONS),-- $(OPTIONS))

soak: ready ## the long forms: kills and restarts for half an hour
	$(BIN)/pytest -m soak --timeout 7200

bench: ready ## all benchmarks; figures into bench.json
	@set -e; for name in $(BENCHMARKS); do \
		echo "== $$name"; $(RAIDHUB) bench $$name --json > .bench.$$name; cat .bench.$$name; \
	done
	@for name in $(BENCHMARKS); do printf '{"%s": %s}\n' $$name "$$(cat .bench.$$name)"; rm .bench.$$name; done \
		| $(BIN)/python -c 'import json, sys; print(json.dumps({k: v for line in sys.stdin for k, v in json.loads(line).items()}, indent=2))' \
		> bench.json

up: ready ## start the stack of this folder
	$(RAIDHUB) up

down: ## stop it
	$(RAIDHUB) down

status: ## what runs, what is unhealthy and why, how the stream does
	$(RAIDHUB) status

logs: ## follow the logs
	$(RAIDHUB) logs -f

migrate: ready ## both stores' schema
	$(RAIDHUB) migrate

seed: ready ## the game's definitions
	$(RAIDHUB) seed

# Names, versions and hashes, no address. An image's lock holds a part of the whole one.
LOCK := $(BIN)/uv pip compile -q --generate-hashes --universal --no-emit-index-url --no-annotate \
	--no-header

lock: ready ## pin the requirements anew, those of the images too
	$(LOCK) --all-extras --group build pyproject.toml -o requirements.lock
	$(LOCK) -c requirements.lock pyproject.toml -o deploy/docker/stream.lock
	$(LOCK) -c requirements.lock --extra dagster --extra ml pyproject.toml -o deploy/docker/dagster.lock
	$(LOCK) -c requirements.lock --group build -o deploy/docker/build.lock

dev: ready ## the stack, whose processes start anew when their code changes
	$(RAIDHUB) dev
