# `make` alone prints the verbs: the comment after ## is what it prints. Longer recipes are in dev/.

SHELL := /bin/bash
# What a terminal or a git hook may have set for other programs, and what would lead these ones astray.
unexport BASH_ENV CDPATH GIT_DIR GIT_INDEX_FILE GIT_WORK_TREE PYTHONHOME PYTHONPATH
# A checkout may belong to another user, as in a container of a CI system.
export GIT_CONFIG_COUNT := 1
export GIT_CONFIG_KEY_0 := safe.directory
export GIT_CONFIG_VALUE_0 := $(CURDIR)
# Files are UTF-8 whatever the locale.
export PYTHONUTF8 := 1
BIN := .venv/bin
SUITE := $(BIN)/python -m dev.cli
MIGRATIONS := $(SUITE) exec --user migrations $(BIN)/python
BENCH := $(BIN)/python -m dev.bench
# With KEEP=1 the result is the reference, which docs/performance.md and README.md show.
KEPT = $(FLAGS) $(if $(KEEP),--keep && $(BIN)/python -m dev.bench.report)
PACKAGES := users billing orders notifications gateway chassis
SCHEMA := $(BIN)/check-jsonschema --builtin-schema vendor
NEWMAN := postman/node_modules/.bin/newman run postman/shop.postman_collection.json \
	-e postman/shop.postman_environment.json

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help install installed up down restart status logs demo newman migrate audit replay shell dead redrive run test \
	mutants test-unit test-interface test-chart chart-tools spec-tools chart-docs test-system test-chaos test-upgrade test-broker images test-images \
	lint format version size docs specs bench bench-growth bench-long bench-scale load chaos fuzz licences supply-tools sbom pip-audit lock clean

help:  ## these verbs
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/\1\t\2/' | expand -t 18

install:  ## what is missing: Debian's servers and Node.js (as root), .venv, newman, AsyncAPI's parser
	@dev/install.sh

installed:
	@[ -e .venv/.stamp ] || { echo "error: nothing is installed yet: make up installs and starts all" >&2; exit 1; }

up: install  ## start all: broker, databases, five services; returns when they are ready
	@$(SUITE) up

down:  ## stop all
	@if [ -x $(BIN)/python ]; then $(SUITE) down; fi

restart: installed  ## the five services again, with the code of now
	@$(SUITE) restart

status: installed  ## what runs, where, with which process ids
	@$(SUITE) status

logs: installed  ## follow all logs
	@$(SUITE) logs

demo: up newman  ## all up, then the scenario with its requests and answers; stays up
	@$(SUITE) hints

newman: installed  ## the scenario against the running suite
	@$(SUITE) exec --gateway bash -c '$(NEWMAN) --env-var baseUrl=127.0.0.1:$$GATEWAY_PORT'

migrate: install  ## tables and queues up to date (starts broker and databases)
	@$(SUITE) migrate

audit: installed  ## do all services tell the same story; FLAGS=--settled where nothing is under way
	@$(MIGRATIONS) -m audit $(FLAGS)

replay: installed  ## publish events again whose letter or account is missing (SINCE=yesterday); FLAGS=--dry-run reports
	@$(MIGRATIONS) -m replay $(if $(SINCE),--since="$(SINCE)") $(FLAGS)

shell: installed  ## nameko shell on the running suite; each call ends within RPC_TIMEOUT_S
	@$(SUITE) exec --user operator $(BIN)/python -m dev.shell --config config.yaml

dead: installed  ## dead-lettered events, with their errors (QUEUE=... for one)
	@$(MIGRATIONS) -m chassis.dead list $(QUEUE)

redrive: installed  ## dead-lettered events back into their queues, to be tried anew (QUEUE=... for one)
	@$(MIGRATIONS) -m chassis.dead redrive $(QUEUE)

run: migrate  ## all five services in one process, in the foreground
	@$(SUITE) exec --user shop $(BIN)/nameko run --config config.yaml $(filter-out chassis.service,$(PACKAGES:=.service))

test: install chart-tools spec-tools lint size  ## everything: linters, types, size, all tests; on servers of their own
	@dev/install.sh pgbouncer nginx
	@$(BIN)/python -m dev.all_tests

mutants: install  ## takes the promises away, one by one: some test must go red (WORD=... for some)
	@$(BIN)/python -m tests.mutants $(WORD)

test-unit: install  ## rules alone: needs no server
	@$(BIN)/pytest */tests/unit dev/bench/tests/unit

test-interface: install  ## each service on a real broker and database
	@$(BIN)/pytest */tests/interface

test-chart: install chart-tools  ## charts/shop by two versions of helm, without a cluster
	@$(BIN)/pytest tests/chart

spec-tools:
	@dev/install.sh --specs

chart-tools: install
	@$(BIN)/python -m dev.chart.tools

chart-docs: install  ## the chart's table of values anew, its version, its copies of licence and scenario
	@$(BIN)/python -m dev.chart.docs

test-system: install  ## the whole suite
	@dev/install.sh pgbouncer nginx
	@$(BIN)/pytest tests/system

test-chaos: install  ## the promises under real faults, small
	@$(BIN)/pytest tests/chaos

test-upgrade: install  ## copies of the previous version beside new ones, under load, there and back
	@$(BIN)/pytest tests/upgrade

test-broker: install chart-tools  ## who may do what on the broker, on RabbitMQ of Debian 13 (4.0) and testing; as root (DEBIAN=13 for one)
	@for debian in $(or $(DEBIAN),13 testing); do \
		dev/chart/rabbitmq.sh $$debian && RABBITMQ_ROOT=.tools/debian-$$debian $(BIN)/pytest tests/chart/test_broker.py || exit 1; \
	done

images:  ## the images of all services, by docker or buildah (REGISTRY, NAMESPACE, TAG, BASE, PIP_INDEX_URL)
	@dev/images/build.sh

test-images: install  ## builds the images as root, looks into them, and sells an order with them
	@dev/images/tools.sh
	@$(BIN)/pytest tests/images

lint: install  ## ruff, mypy, import-linter; zizmor and schemas for .github
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/zizmor --quiet --offline --no-progress .github
	$(SCHEMA).github-workflows .github/workflows/*.yml
	$(SCHEMA).dependabot .github/dependabot.yml
	$(SCHEMA).github-issue-forms .github/ISSUE_TEMPLATE/bug.yml .github/ISSUE_TEMPLATE/feature.yml
	$(SCHEMA).github-issue-config .github/ISSUE_TEMPLATE/config.yml

format: install  ## put the code into shape
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

version:  ## the version, which stands in pyproject.toml alone
	@sed -n 's/^version = "\(.*\)"$$/\1/p' pyproject.toml

size:  ## statements of product code, at most 4,000, and its lines
	@$(or $(wildcard $(BIN)/python),python3) dev/size.py $(PACKAGES)

specs: install  ## what is made from the code: openapi.yaml, asyncapi.yaml, permissions.md, the broker's permissions
	@$(BIN)/python -W ignore -m dev.specs.openapi
	@$(BIN)/python -W ignore -m dev.specs.asyncapi
	@$(BIN)/python -W ignore -m dev.bus
	@$(BIN)/python -W ignore -m dev.specs.permissions

docs: install  ## pictures of docs/diagrams anew, where their source has changed
	@dev/diagrams/tools.sh
	@$(BIN)/python -m dev.diagrams.render

bench:  ## orders a second, beside what PostgreSQL alone does; KEEP=1: what the docs show (all bench verbs)
	@dev/install.sh wrk
	@$(BENCH) rounds $(KEPT)

bench-growth:  ## the same with ten million operations in the ledger as with ten thousand? 15 minutes, 8 GB of disk
	@dev/install.sh wrk
	@$(BENCH) growth $(KEPT)

bench-long:  ## 300,000 orders, and the memory they take
	@dev/install.sh wrk
	@$(BENCH) long $(KEPT)

bench-scale:  ## with 1, 2 and 4 copies of each service
	@dev/install.sh wrk
	@$(BENCH) scale $(KEPT)

load: installed  ## users who buy from the running suite until Ctrl-C; then every answer is compared
	@$(SUITE) exec --user migrations --gateway $(BIN)/python -W ignore -m tests.chaos.load $(FLAGS)

fuzz: installed  ## requests made up from docs/openapi.yaml against the running suite, ten minutes; FLAGS="--seconds 60"
	@$(SUITE) exec --gateway $(BIN)/python -W ignore -m dev.specs.fuzz $(FLAGS)

chaos: install  ## the promises under real faults, 40 minutes or more; PART=kills, SEED=7, AGAIN=1
	@$(BIN)/python -W ignore -m tests.chaos $(PART:%=--part %) $(SEED:%=--seed %) $(AGAIN:%=--again)

licences: install  ## docs/licences.md anew: the licence of each locked package, refused where it is not allowed
	@$(BIN)/python -m dev.supply.licences

supply-tools: install
	@$(BIN)/python -m dev.environment supply dev/supply/tools.lock

sbom: supply-tools  ## what the product is made of, as CycloneDX, into sbom.cdx.json
	@$(BIN)/python -m dev.supply.sbom

pip-audit: supply-tools  ## known vulnerabilities of all locked Python packages; FLAGS=-sosv asks another source
	@dev/supply/pip_audit.sh .tools/supply/bin/pip-audit $(FLAGS)

lock: install  ## pin what pyproject.toml asks for; FLAGS=--upgrade-package=NAME takes the newest of one, --upgrade of all
	@dev/lock.sh $(FLAGS)

clean: down  ## stop all, and remove all that make has made
	@if [ -x $(BIN)/python ]; then $(SUITE) clean >/dev/null; fi
	rm -rf .run-* sbom.cdx.json tests/chaos/results dev/bench/results/latest* .venv .tools postman/node_modules dev/diagrams/node_modules dev/specs/node_modules .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
