# Everything a developer or CI runs. `make` alone lists the targets.
#
# .venv holds the project's own environment. Stamp files in it keep repeated runs quick:
#   .venv/.made   the environment itself      .venv/.run  run.lock and the project (editable)
#   .venv/.dev    dev.lock, over .run
# Paths are relative, so a folder name with spaces does no harm.

SHELL := /bin/sh
BIN := .venv/bin
PYTHONS := python3.13 python3.12 python3.11 python3
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
LINES ?= 1000000
ROUNDS ?= 3
FAULTS ?= 200
STEPS ?= 10000
SEED ?= 1
INPUTS ?= 1000000
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help run test check lint format types accept docs dashboards kibana facts fuzz bench bench-all bench-open bench-search bench-search-elasticsearch bench-kafka bench-sink bench-disk bench-freshness screenshots compiled kafka elasticsearch tail-property chaos chaos-chain recovery-test compose-config kustomize image-test cluster-test lock clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-14s %s\n", $$1, $$2 }' Makefile

.venv/.made:
	@rm -rf .venv; \
	for python in $(PYTHONS); do \
	  "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 || continue; \
	  found="$$python"; \
	  "$$python" -c 'import ensurepip, venv' >/dev/null 2>&1 || continue; \
	  echo "making .venv with $$("$$python" --version)"; \
	  "$$python" -m venv .venv && touch $@ && exit 0; \
	  rm -rf .venv; \
	done; \
	if [ -z "$$found" ]; then \
	  echo "mailspan needs Python 3.11 or newer; none of these runs: $(PYTHONS)" >&2; \
	else \
	  echo "$$found cannot make a virtual environment: install its venv module" \
	       "(Debian, Ubuntu: apt-get install python3-venv)" >&2; \
	fi; exit 1

.venv/.run: .venv/.made requirements/run.lock pyproject.toml
	@echo "installing requirements/run.lock and mailspan"
	@$(PIP) install --require-hashes --requirement requirements/run.lock
	@$(PIP) install --no-build-isolation --no-deps --editable .
	@touch $@

.venv/.dev: .venv/.run requirements/dev.lock
	@echo "installing requirements/dev.lock"
	@$(PIP) install --require-hashes --requirement requirements/dev.lock
	@touch $@

run: .venv/.run ## index the bundled logs and print two searches
	@PATH="$(CURDIR)/$(BIN):$$PATH" sh samples/session.sh build/run

test: .venv/.dev ## every test
	@$(BIN)/python -m tests.parts $(ARGS)

check: lint types .venv/.dev ## lint, types, fast tests
	@$(BIN)/python -m pytest -m 'not slow' $(ARGS)

lint: .venv/.dev ## ruff: rules and format
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

format: .venv/.dev ## ruff: mend what can be mended
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

types: .venv/.dev ## mypy, strict
	@$(BIN)/mypy

accept: .venv/.dev ## rewrite the golden expectations; review the diff
	@$(BIN)/python -m tests.golden --accept

docs: dashboards ## rewrite what in docs and deploy/k8s is made from other files
	@$(BIN)/python -m tests.metrics_page
	@$(BIN)/python -m tests.manifests
	@$(BIN)/python -m tests.kubernetes_flows

kibana: .venv/.dev ## rewrite what Kibana imports (deploy/kibana), and the tables in docs/kibana.md
	@$(BIN)/python -m tests.kibana_files

dashboards: .venv/.dev ## rewrite Grafana's dashboards and promtool's cases, which are made from tables
	@$(BIN)/python -m deploy.grafana.dashboards
	@$(BIN)/python -m tests.alert_cases

facts: .venv/.dev ## compare the lab logs with every fact known of their mail
	@$(BIN)/python -m tests.facts $(ARGS)

fuzz: .venv/.dev ## INPUTS=1000000 hostile lines through the whole core; ARGS=--replay=FILE checks one failure
	@$(BIN)/python -m tests.fuzz --inputs $(INPUTS) $(ARGS)

bench: .venv/.run ## CPU and memory on LINES=1000000 generated lines, beside pflogsumm or exigrep
	@$(BIN)/python -m bench.run --lines $(LINES) --rounds $(ROUNDS) $(ARGS)

bench-all: .venv/.run ## the same for each kind of server
	@for mta in postfix sendmail exim opensmtpd; do \
	  echo "== $$mta"; $(BIN)/python -m bench.run --mta $$mta --lines $(LINES) --rounds $(ROUNDS) $(ARGS) || exit 1; \
	done

bench-open: .venv/.run ## memory and time of a million open transactions, and of restoring them
	@$(BIN)/python -m bench.open $(ARGS)
	@$(BIN)/python -m bench.open --restore $(ARGS)

compiled: .venv/.dev ## the optional compiled core, in build/compiled (needs gcc); ARGS=--test runs the fast tests on it
	@$(BIN)/python -m bench.compiled $(ARGS)

bench-search: .venv/.run ## how long each kind of search takes on a million transactions
	@$(BIN)/python -m bench.search $(ARGS)

bench-search-elasticsearch: .venv/.run ## the same on 30 daily indices of a real Elasticsearch, and what writing them costs
	@$(BIN)/python -m bench.search_elasticsearch $(ARGS)

bench-kafka: .venv/.run ## the pipeline on a real broker: CPU per line, and restoring a million open transactions
	@$(BIN)/python -m bench.kafka $(ARGS)

bench-sink: .venv/.run ## a sink between a real broker and a real Elasticsearch: CPU per document
	@$(BIN)/python -m bench.sink $(ARGS)

bench-disk: .venv/.run ## what a mail takes in Kafka, Elasticsearch and SQLite; ARGS="--live 90" as a slow log gives it
	@$(BIN)/python -m bench.disk $(ARGS)

bench-freshness: .venv/.run ## from a log file to a search, at 2,000 lines a second for five minutes
	@$(BIN)/python -m bench.freshness $(ARGS)

kafka: .venv/.run ## run a Kafka broker in the foreground, to try things out (needs a JDK and Maven)
	@$(BIN)/python -m tests.kafka_server $(ARGS)

elasticsearch: .venv/.run ## run an Elasticsearch in the foreground, to try things out (needs a JDK and Maven)
	@$(BIN)/python -m tests.elasticsearch_server $(ARGS)

tail-property: .venv/.dev ## the tail against a model of random writers and faults: STEPS=10000 SEED=1
	@$(BIN)/python -m tests.tail_model --steps $(STEPS) --seed $(SEED)

chaos: .venv/.dev ## the pipeline on a real broker under FAULTS=200 random faults, against parse: SEED=1
	@$(BIN)/python -m tests.chaos --faults $(FAULTS) --seed $(SEED) $(ARGS)

chaos-chain: .venv/.dev ## the same from files to a real Elasticsearch and its search, FAULTS=200
	@$(BIN)/python -m tests.chaos.chain --faults $(FAULTS) --seed $(SEED) $(ARGS)

recovery-test: .venv/.dev ## the ways back of docs/recovery.md on a real broker and a real Elasticsearch; ARGS="--only state"
	@$(BIN)/python -m tests.recovery $(ARGS)

compose-config: .venv/.dev ## read docker-compose.yml with Docker Compose, built with Go where it is missing
	@$(BIN)/python -m tests.compose_cli

kustomize: ## build what renders deploy/k8s for the tests, where there is no kubectl (needs Go)
	@GOBIN="$${MAILSPAN_CACHE_DIR:-$(CURDIR)/build}/kustomize" CGO_ENABLED=0 \
	  go install -trimpath sigs.k8s.io/kustomize/kustomize/v5@v5.8.1

image-test: .venv/.dev ## build the container image and run it, as root (needs buildah, podman, runc, debootstrap)
	@$(BIN)/python -m tests.image

cluster-test: .venv/.dev ## deploy/k8s on a real control plane with fake nodes, which Go builds the first time; needs MAILSPAN_CRDS
	@$(BIN)/python -m tests.cluster

lock: .venv/.dev ## pin the newest allowed versions again (needs uv)
	@sh requirements/lock.sh

screenshots: .venv/.dev ## the page of the help desk, wide and narrow, light and dark, into build/screenshots (needs chromium)
	@$(BIN)/python -m tests.screenshots $(ARGS)

clean: ## remove the environment and everything built
	@rm -rf .venv build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
