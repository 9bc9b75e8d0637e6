# `make` alone prints the verbs with the text after ##, and the headings after ##@.
# The most used verbs come first. Longer recipes are in dev/.

SHELL := /bin/bash
# A terminal or a git hook may have set these for other programs.
unexport BASH_ENV CDPATH GIT_DIR GIT_INDEX_FILE GIT_WORK_TREE PYTHONHOME PYTHONPATH
# A checkout may belong to another user, for example in a CI container.
export GIT_CONFIG_COUNT := 1
export GIT_CONFIG_KEY_0 := safe.directory
export GIT_CONFIG_VALUE_0 := $(CURDIR)
# Files are UTF-8 in any locale.
export PYTHONUTF8 := 1
BIN := .venv/bin
SUITE := $(BIN)/python -m dev.cli
MIGRATIONS := $(SUITE) exec --user migrations $(BIN)/python
BENCH := $(BIN)/python -m dev.bench
# KEEP=1 makes the result the reference, which docs/performance.md and README.md show.
KEPT = $(FLAGS) $(if $(KEEP),--keep && $(BIN)/python -m dev.bench.report)
PACKAGES := users billing orders notifications gateway chassis
SCHEMA := $(BIN)/check-jsonschema --builtin-schema vendor
NEWMAN := postman/node_modules/.bin/newman run postman/shop.postman_collection.json \
	-e postman/shop.postman_environment.json

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: demo test up down status logs audit shell story chaos bench help install restart run newman \
	migrate replay dead redrive clean test-unit test-interface test-system test-browser test-chaos test-upgrade \
	test-chart test-broker test-images mutants fuzz load lint format size specs docs chart-docs \
	licences bench-growth bench-long bench-scale images sbom pip-audit lock version installed \
	spec-tools chart-tools supply-tools

demo: up newman  ## start everything and run the demo scenario with newman; the suite keeps running
	@$(SUITE) hints

test: install chart-tools spec-tools lint size  ## run linters, type checks and all tests
	@dev/install.sh --browser pgbouncer nginx
	@$(BIN)/python -m dev.all_tests

up: install  ## start broker, databases, services and the page; print its URL when all are ready
	@$(SUITE) up

down:  ## stop everything
	@if [ -x $(BIN)/python ]; then $(SUITE) down; fi

status: installed  ## show services and servers with addresses and process ids, and the page's URL
	@$(SUITE) status

logs: installed  ## follow all logs
	@$(SUITE) logs

audit: installed  ## compare the records of all services; FLAGS=--settled when nothing is in flight
	@$(MIGRATIONS) -m audit $(FLAGS)

shell: installed  ## open nameko shell on the running suite; a call ends within RPC_TIMEOUT_S
	@$(SUITE) exec --user operator $(BIN)/python -m dev.shell --config config.yaml

story: installed  ## draw the steps of an order with their times; ORDER=<id>
	@$(SUITE) exec --user operator $(BIN)/python -W ignore -m dev.story "$(ORDER)"

chaos: install  ## prove the promises under faults, 40 minutes or more; PART=kills, SEED=7, AGAIN=1
	@$(BIN)/python -W ignore -m tests.chaos $(PART:%=--part %) $(SEED:%=--seed %) $(AGAIN:%=--again)

bench:  ## measure orders a second beside plain PostgreSQL; KEEP=1 updates the documents
	@dev/install.sh wrk
	@$(BENCH) rounds $(KEPT)

##@ Run and operate

help:  ## print this list
	@sed -nE -e 's/^##@ (.*)/\n\1:/p' -e 's/^([a-z-]+):.*## (.*)/  \1\t\2/p' $(MAKEFILE_LIST) \
		| expand -t 18

install:  ## install missing Debian packages (as root), .venv and npm packages
	@dev/install.sh

restart: installed  ## restart the five services and the page with the current code
	@$(SUITE) restart

run: migrate  ## run the five services in one process, in the foreground
	@$(SUITE) exec --user shop $(BIN)/nameko run --config config.yaml \
		$(filter-out chassis.service,$(PACKAGES:=.service))

newman: installed  ## run the demo scenario against the running suite
	@$(SUITE) exec --gateway bash -c '$(NEWMAN) --env-var baseUrl=127.0.0.1:$$GATEWAY_PORT'

migrate: install  ## bring tables and queues up to date; starts broker and databases
	@$(SUITE) migrate

replay: installed  ## publish events again that had no effect; SINCE=yesterday, FLAGS=--dry-run
	@$(MIGRATIONS) -m replay $(if $(SINCE),--since="$(SINCE)") $(FLAGS)

dead: installed  ## list dead-lettered events with their errors; QUEUE=... selects one queue
	@$(MIGRATIONS) -m chassis.dead_letters list $(QUEUE)

redrive: installed  ## return dead-lettered events to their queues; QUEUE=... selects one queue
	@$(MIGRATIONS) -m chassis.dead_letters redrive $(QUEUE)

clean: down  ## stop everything and remove all files that make created
	@if [ -x $(BIN)/python ]; then $(SUITE) clean >/dev/null; fi
	rm -rf .run-* sbom.cdx.json tests/chaos/results dev/bench/results/latest* .venv .tools \
		postman/node_modules dev/browser/node_modules dev/diagrams/node_modules \
		dev/specs/node_modules \
		.pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache

##@ Test

test-unit: install  ## run the unit tests; they need no server
	@$(BIN)/pytest */tests/unit dev/bench/tests/unit

test-interface: install  ## run the tests of single services, on a real broker and database
	@$(BIN)/pytest */tests/interface

test-system: install  ## run the tests of the whole suite
	@dev/install.sh pgbouncer nginx
	@$(BIN)/pytest tests/system

test-browser: install  ## click through the page in Chromium
	@dev/install.sh --browser
	@$(BIN)/pytest tests/browser

test-chaos: install  ## prove the promises under faults, in the small size
	@$(BIN)/pytest tests/chaos

test-upgrade: install  ## run copies of the previous version beside new ones, under load
	@$(BIN)/pytest tests/upgrade

test-chart: install chart-tools  ## test the Helm chart with two versions of helm, without a cluster
	@$(BIN)/pytest tests/chart

test-broker: install chart-tools  ## test permissions on RabbitMQ of Debian 13 and testing; DEBIAN=13
	@for debian in $(or $(DEBIAN),13 testing); do \
		dev/chart/rabbitmq.sh $$debian && RABBITMQ_ROOT=.tools/debian-$$debian \
			$(BIN)/pytest tests/chart/test_broker.py || exit 1; \
	done

test-images: install  ## build the images as root, inspect them, place an order with them
	@dev/images/tools.sh
	@$(BIN)/pytest tests/images

mutants: install  ## break the promises one by one in the code; a test must fail; WORD=... selects
	@$(BIN)/python -m tests.mutants $(WORD)

fuzz: installed  ## send requests generated from docs/openapi.yaml; FLAGS="--seconds 60"
	@$(SUITE) exec --gateway $(BIN)/python -W ignore -m dev.specs.fuzz $(FLAGS)

load: installed  ## buy from the running suite until Ctrl-C, then compare all responses
	@$(SUITE) exec --user migrations --gateway $(BIN)/python -W ignore -m tests.chaos.load $(FLAGS)

##@ Write code

lint: install  ## run ruff, mypy, import-linter, zizmor and the schemas for .github
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/zizmor --quiet --offline --no-progress .github
	$(SCHEMA).github-workflows .github/workflows/*.yml
	$(SCHEMA).dependabot .github/dependabot.yml
	$(SCHEMA).github-issue-forms .github/ISSUE_TEMPLATE/bug.yml .github/ISSUE_TEMPLATE/feature.yml
	$(SCHEMA).github-issue-config .github/ISSUE_TEMPLATE/config.yml

format: install  ## format the code
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

size:  ## count the statements of the product, at most 4,100, and its lines
	@$(or $(wildcard $(BIN)/python),python3) dev/size.py $(PACKAGES)

specs: install  ## write openapi.yaml, asyncapi.yaml, permissions.md and the broker's permissions
	@$(BIN)/python -W ignore -m dev.specs.openapi
	@$(BIN)/python -W ignore -m dev.specs.asyncapi
	@$(BIN)/python -W ignore -m dev.bus
	@$(BIN)/python -W ignore -m dev.specs.permissions

docs: install  ## draw the changed diagrams of docs, photograph the page if it has changed
	@dev/diagrams/tools.sh
	@$(BIN)/python -m dev.diagrams.render
	@$(BIN)/python -m dev.browser.pictures

chart-docs: install  ## write the chart's table of values, its version, and its copied files
	@$(BIN)/python -m dev.chart.docs

licences: install  ## write docs/licences.md; fails if a package has a licence that is not allowed
	@$(BIN)/python -m dev.supply.licences

##@ Measure

bench-growth:  ## measure orders on a large and a small ledger; 15 minutes, 8 GB of disk
	@dev/install.sh wrk
	@$(BENCH) growth $(KEPT)

bench-long:  ## measure memory over 300,000 orders
	@dev/install.sh wrk
	@$(BENCH) long $(KEPT)

bench-scale:  ## measure with 1, 2 and 4 copies of each service
	@dev/install.sh wrk
	@$(BENCH) scale $(KEPT)

##@ Release

images:  ## build all images; REGISTRY, NAMESPACE, TAG, BASE, PIP_INDEX_URL
	@dev/images/build.sh

sbom: supply-tools  ## write sbom.cdx.json, the bill of materials in CycloneDX
	@$(BIN)/python -m dev.supply.sbom

pip-audit: supply-tools  ## find known vulnerabilities of the locked packages; FLAGS=-sosv for OSV
	@dev/supply/pip_audit.sh .tools/supply/bin/pip-audit $(FLAGS)

lock: install  ## pin the packages of pyproject.toml; FLAGS=--upgrade or --upgrade-package=NAME
	@dev/lock.sh $(FLAGS)

version:  ## print the version in pyproject.toml
	@sed -n 's/^version = "\(.*\)"$$/\1/p' pyproject.toml

# Steps of other verbs; `make` does not print them.

installed:
	@[ -e .venv/.stamp ] || { \
		echo "error: nothing is installed. Run make up: it installs and starts everything" >&2; exit 1; }

spec-tools:
	@dev/install.sh --specs

chart-tools: install
	@$(BIN)/python -m dev.chart.tools

supply-tools: install
	@$(BIN)/python -m dev.environment supply dev/supply/tools.lock
