# What podwasm is built, tried and tested with. `make` alone lists the targets.

SHELL := /bin/bash
.DEFAULT_GOAL := help

# Debian packages that Rust, the root folders and the lints need on this machine.
PACKAGES := g++ buildah e2fsprogs gcc iproute2 libc6-dev mmdebstrap procps python3-pip shellcheck util-linux
SCRIPTS := $(wildcard */*.sh */*/*.sh */*/*/*.sh)
# Node tests start pods by the dozen: more at once than this only makes them wait for each other.
NODE_TEST_THREADS ?= 4
# Options of `make bench`; with --quick it takes two minutes, and says whether the benchmarks work.
BENCH ?= --chart docs/benchmarks.svg --json target/bench.json
# How long `make fuzz` runs each target.
SECONDS ?= 60
# Ignored tests that no run is to start by itself: a plugin for the tests beside it, and one for integration/kubernetes/apiserver.sh.
STARTED_BY_OTHERS := --exact --skip child --skip kubernetes::tests::a_real_server_takes_what_is_sent
# A build that is made once has no use for what makes the next one quicker, which takes as much room as all the rest.
ifdef CI
export CARGO_INCREMENTAL := 0
endif
# What `make test` needs from nothing, in GB.
ROOM := 14
# Errors of tools and tests say what failed; where in the code is only of use in a panic.
export RUST_LIB_BACKTRACE ?= 0

.PHONY: help demo recording book test chart supply images bench chaos critest soak lint fmt unit fuzz fuzz-short fuzz-keep docs node-tests engine engine-check engine-pins guests roots node setup clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: ## Install podwasm on a throw-away node, run native and Wasm containers, scale, uninstall
	@integration/demo.sh

recording: setup engine guests roots ## Run the demo and draw what it prints: docs/demo.svg
	cargo build --quiet -p podwasm -p podwasm-integration -p podwasm-metrics-exporter
	deploy/images/build.sh debug
	target/debug/podwasm-record docs/demo.svg target/debug/podwasm-demo

book: ## The documents as a site: target/book
	docs/book.sh

test: setup lint docs unit fuzz-short chart supply engine-check guests roots node-tests ## Everything: lints, unit tests, fuzzing for a minute, tests on real nodes

bench: PACKAGES += wrk
bench: setup engine guests roots ## Compare podwasm with native containers and crun's WasmEdge: a report in Markdown, and its chart
	cargo build --quiet --release -p podwasm -p podwasm-integration
	target/release/podwasm-bench $(BENCH)

lint: setup ## Formatting, clippy and shellcheck
	cargo fmt --all --check
	cargo clippy --all-targets -- -D warnings
	cargo clippy -p podwasm-engine --all-targets -- -D warnings
	shellcheck $(SCRIPTS)

fmt: ## Format all Rust code
	cargo fmt --all

unit: setup ## The tests that need neither root nor network
	cargo test
	cargo test -p podwasm-engine

fuzz: setup ## Fuzz for SECONDS each: all targets, or TARGET; see fuzz/README.md
	fuzz/run.sh $(SECONDS) $(TARGET)

# What is found in so little time is what a change broke. `overlay` needs root.
fuzz-short: setup ## Fuzz all targets for a moment, the same way every time
	fuzz/run.sh --short

fuzz-keep: setup ## Keep in fuzz/corpus what found new code
	fuzz/run.sh --keep $(TARGET)

docs: setup ## The API's documentation, without a broken link
	RUSTDOCFLAGS="-D warnings" cargo doc --quiet --no-deps

# Built for all packages together, as the unit tests are: cargo would compile everything once more for one of them alone.
node-tests: setup engine guests roots ## The tests on throw-away nodes of containerd 1.7 and 2.1, some also on 2.2
	cargo test --quiet --no-run
	deploy/images/build.sh debug
	cargo test --tests -- --ignored --test-threads $(NODE_TEST_THREADS) $(STARTED_BY_OTHERS)

chaos: setup engine guests roots ## The faults: all, or TEST=name, REPEAT times; CHAOS_KILLS says how often things are killed in one
	cargo build --quiet -p podwasm -p podwasm-integration -p podwasm-metrics-exporter --bins
	for round in $$(seq $(or $(REPEAT),1)); do \
	  cargo test -p podwasm --test front -- $(TEST) && \
	  cargo test -p podwasm-integration --test chaos --test disruption --test compile -- --ignored --nocapture --test-threads 2 $(TEST) || exit; \
	done

soak: setup engine guests roots ## Pods and images come and go for DURATION, and all that podwasm keeps has to stay flat; Ctrl-C ends it early
	cargo build --quiet -p podwasm -p podwasm-integration -p podwasm-metrics-exporter --bins
	target/debug/podwasm-soak --duration $(or $(DURATION),10m) --chart target/soak.svg $(SOAK)

critest: setup engine guests roots ## The CRI's validation suite without podwasm and with it, compared: it may make no difference
	integration/upstream/build.sh critest
	cargo build --quiet -p podwasm -p podwasm-integration -p podwasm-metrics-exporter --bins
	target/debug/podwasm-critest $(CRITEST)

engine: setup ## The engine and the bundle it ships in: target/engine/bundle
	engine/bundle/build.sh

engine-check: engine ## Build the engine's bundle and the socket filter again: they have to be the same to the bit
	engine/bundle/check.sh
	metrics-exporter/bpf/build.sh

engine-pins: setup ## Accept the Debian packages that the mirror has now for the engine's bundle
	engine/bundle/root.sh --accept-pins

guests: setup ## The Wasm modules that tests and demo run: target/guests
	integration/guests/build.sh

roots: setup ## The root folders of throw-away nodes: target/roots
	integration/node/root.sh
	integration/node/tools.sh
	integration/upstream/build.sh containerd

node: engine guests roots ## Start a throw-away node with podwasm, and a shell in it
	cargo build --quiet -p podwasm -p podwasm-integration
	target/debug/podwasm-node start --podwasm

chart: setup ## Check the Helm chart, what it renders, and the Kustomize bases
	deploy/tools.sh
	deploy/render.sh --check

supply: setup ## Check licences and sources of all dependencies, and the images' SBOMs
	deploy/supply.sh

images: setup engine ## The images of plugin, exporter and scaler: target/images
	cargo build --quiet --release -p podwasm -p podwasm-metrics-exporter --bins
	deploy/images/build.sh release

setup:
	@mkdir -p target; \
	room=$$(df --output=avail --block-size=1G target | tail -1); \
	built=$$(du --summarize --one-file-system --block-size=1G target | cut -f1); \
	if [ $$((room + built)) -lt $(ROOM) ]; then \
	  echo "setup: below target/ is room for $$((room + built)) GB, and all that is built and tested takes up to $(ROOM)" >&2; \
	fi
	@missing=$$(for p in $(PACKAGES); do \
	  dpkg-query -W -f='$${db:Status-Status}' $$p 2>/dev/null | grep -qx installed || echo $$p; done); \
	if [ -n "$$missing" ]; then \
	  echo "setup: installing" $$missing; \
	  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing; \
	fi

clean: ## Remove all that was built
	rm -rf target
