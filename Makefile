# `make demo` and `make test` are all a newcomer needs; both set up what is missing first.
# ARGS is handed on: make demo ARGS=--short, make test ARGS='--test e2e'.

CARGO ?= cargo
# CI says --locked here.
CARGO_FLAGS ?=
TARGET_DIR := $(if $(CARGO_TARGET_DIR),$(CARGO_TARGET_DIR),target)
FORESHADOW := $(TARGET_DIR)/debug/foreshadow
# `cargo` reads the same two from .cargo/config.toml; the binary started by hand needs the second.
export ORT_DYLIB_PATH ?= $(CURDIR)/.venv/lib/libonnxruntime.so

.PHONY: help setup build demo compare test faults model sim bench-judge bench-decide bench-store away zombies lint train cgroup2 bench-pairs alternate sim-long bench-xds bench-forecast cutovers bench-cutover
.DEFAULT_GOAL := help

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## install what is missing (deploy/setup)
	@deploy/setup

build: setup ## build the one binary
	$(CARGO) build $(CARGO_FLAGS) -p foreshadow

demo: build ## the whole system on this machine; ARGS=--short for the short form
	$(FORESHADOW) demo $(ARGS)

compare: build ## the demo under no, a reactive and the predictive policy, in one table
	$(FORESHADOW) demo --compare $(ARGS)

# The end-to-end tests start the binary, so it is built first.
test: build ## every test
	$(CARGO) test $(CARGO_FLAGS) --workspace $(ARGS)

faults: build ## kill the control plane KILLS=500 times at every step, stop ZOMBIES=50, under load
	$(CARGO) build $(CARGO_FLAGS) -p foreshadow-tests --example faults
	$(TARGET_DIR)/debug/examples/faults --kills $(or $(KILLS),500) --zombies $(or $(ZOMBIES),50) $(ARGS)

alternate: build ## this build and the one of BASE=HEAD~1 take turns as leader in the middle of migrations
	deploy/alternate "$(or $(BASE),HEAD~1)" "$(abspath $(TARGET_DIR))"
	$(CARGO) build $(CARGO_FLAGS) -p foreshadow -p foreshadow-tests --bin foreshadow --example faults
	$(TARGET_DIR)/debug/examples/faults --kills 0 --zombies 0 --troubles 0 --base $(TARGET_DIR)/alternate/base $(ARGS)

model: ## every order of events around a migration: more than 10^7 states
	$(CARGO) run $(CARGO_FLAGS) --quiet --profile model -p foreshadow-tests --example model

sim: ## the migrator in SEEDS=1000 simulated worlds; ARGS='--seed 7' replays one
	$(CARGO) run $(CARGO_FLAGS) --quiet -p foreshadow-tests --example sim -- --seeds $(or $(SEEDS),1000) $(ARGS)

sim-long: ## the same in 20 000 worlds
	$(MAKE) --no-print-directory sim SEEDS=$(or $(SEEDS),20000)

bench-judge: ## the judge beside its peers' rules on simulated traffic; RAMPS=10000, HTML=page.html
	$(CARGO) run $(CARGO_FLAGS) --quiet --profile model -p foreshadow-migrator --example judge -- \
		--ramps $(or $(RAMPS),200) --peers $(or $(PEERS),100) $(if $(HTML),--html $(HTML)) $(ARGS)

# DATA: a folder with planetlab_cpu.parquet and the Bitbrains trace; without it only the planner is
# measured. TRACES: which of the exported ones; the days that were not used for tuning.
DATA ?= ../shared/data
TRACES ?= planetlab-20110325 planetlab-20110409 planetlab-20110411 planetlab-20110420
bench-decide: build ## the planner's time and gap, and policies side by side on traces that are held out
	$(CARGO) run $(CARGO_FLAGS) --quiet --profile model -p foreshadow-migrator --example decide
	@if [ -d $(DATA) ]; then \
		.venv/bin/python deploy/export-traces $(DATA) $(TARGET_DIR)/traces && \
		$(FORESHADOW) simulate --promises \
			--cache $(TARGET_DIR)/forecasts --report $(TARGET_DIR)/policies.html \
			--trace $(TRACES:%=$(TARGET_DIR)/traces/%.csv) $(ARGS); \
	else echo "no traces in $(DATA): policies are not compared"; fi

bench-pairs: ## how many copied requests show that a shadow is not like its original
	$(CARGO) run $(CARGO_FLAGS) --quiet -p foreshadow-migrator --example pairs

cutovers: build ## SEEDS=10000 simulated cut-overs of a single writer full of faults, and real ones
	FORESHADOW_CUTOVERS=$(or $(SEEDS),10000) $(CARGO) test $(CARGO_FLAGS) -p foreshadow-tests --test cutover -- --nocapture

bench-cutover: build ## how long a single writer's writes stand still while it moves, MOVES=100 times
	MOVES=$(or $(MOVES),100) $(CARGO) run $(CARGO_FLAGS) --quiet -p foreshadow-tests --example cutover

cgroup2: ## the process driver under unified control groups, in a virtual machine
	tests/vm/cgroup2

bench-store: setup ## 1 000 kill -9 of Redis and of the embedded store; a transition beside a bare durable write
	FORESHADOW_STORE_KILLS=$(or $(KILLS),1000) $(CARGO) test $(CARGO_FLAGS) --quiet -p foreshadow-store --test durability -- --include-ignored --nocapture --test-threads 1

away: build ## a minute without Redis in the middle of a ramp, under load
	$(CARGO) test $(CARGO_FLAGS) --quiet -p foreshadow-tests --test e2e away -- --include-ignored --nocapture

zombies: setup ## 50 leaders that stand still in the middle of an act of the driver; ZOMBIES=n for another number
	FORESHADOW_ZOMBIES=$(or $(ZOMBIES),50) $(CARGO) test $(CARGO_FLAGS) --quiet -p foreshadow-migrator --test process_driver whatever_a_leader -- --nocapture
bench-xds: ## what a change costs the xDS server beside plain sockets; ARGS='1000 2' for one size
	$(CARGO) run $(CARGO_FLAGS) --quiet --release -p foreshadow-xds-server --example xds -- $(ARGS)

lint: setup ## formatting, clippy, and which crate may use which
	$(CARGO) fmt --all --check
	$(CARGO) clippy $(CARGO_FLAGS) --workspace --all-targets -- -D warnings
	deploy/check-arrows

bench-forecast: ## forecasts beside their peers: accuracy, then serving
	@deploy/setup --training
	cd onnx-models && ../.venv/bin/python -m demand.bench $(ARGS)
	$(CARGO) run $(CARGO_FLAGS) --quiet --profile model -p foreshadow-forecaster --example serving

train: ## train and export the forecast models anew (onnx-models)
	@deploy/setup --training
	cd onnx-models && ../.venv/bin/python -m demand.train $(ARGS)
