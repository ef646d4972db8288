# `make demo` and `make test` are all a newcomer needs; both set up what is missing first.
# ARGS is handed on: make demo ARGS=--short, make test ARGS='--test e2e'.

CARGO ?= cargo
# CI says --locked here.
CARGO_FLAGS ?=
TARGET_DIR := $(if $(CARGO_TARGET_DIR),$(CARGO_TARGET_DIR),target)
FORESHADOW := $(TARGET_DIR)/debug/foreshadow
# `cargo` reads the same two from .cargo/config.toml; the binary started by hand needs the second.
export ORT_DYLIB_PATH ?= $(CURDIR)/.venv/lib/libonnxruntime.so

.PHONY: help setup build demo compare test faults model sim bench-judge bench-pairs cutovers bench-cutover lint train cgroup2
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

faults: build ## kill the control plane at every step, before and after its effect and its log
	FORESHADOW_KILLS=all $(CARGO) test $(CARGO_FLAGS) -p foreshadow-tests --test e2e restart -- --nocapture

model: ## every order of events around a migration: more than 10^7 states
	$(CARGO) run $(CARGO_FLAGS) --quiet --profile model -p foreshadow-tests --example model

sim: ## the migrator in SEEDS=1000 simulated worlds; ARGS='--seed 7' replays one
	$(CARGO) run $(CARGO_FLAGS) --quiet -p foreshadow-tests --example sim -- --seeds $(or $(SEEDS),1000) $(ARGS)

bench-judge: ## the judge beside the rules of Flagger, Argo Rollouts and Kayenta on simulated traffic
	$(CARGO) run $(CARGO_FLAGS) --quiet -p foreshadow-migrator --example judge

bench-pairs: ## how many copied requests show that a shadow is not like its original
	$(CARGO) run $(CARGO_FLAGS) --quiet -p foreshadow-migrator --example pairs

cutovers: build ## SEEDS=10000 simulated cut-overs of a single writer full of faults, and real ones
	FORESHADOW_CUTOVERS=$(or $(SEEDS),10000) $(CARGO) test $(CARGO_FLAGS) -p foreshadow-tests --test cutover -- --nocapture

bench-cutover: build ## how long a single writer's writes stand still while it moves, MOVES=40 times
	MOVES=$(or $(MOVES),40) $(CARGO) run $(CARGO_FLAGS) --quiet -p foreshadow-tests --example cutover

cgroup2: ## the process driver under unified control groups, in a virtual machine
	tests/vm/cgroup2

lint: setup ## formatting, clippy, and which crate may use which
	$(CARGO) fmt --all --check
	$(CARGO) clippy $(CARGO_FLAGS) --workspace --all-targets -- -D warnings
	deploy/check-arrows

train: ## train and export the forecast models anew (onnx-models)
	@deploy/setup --training
	.venv/bin/python onnx-models/train.py $(ARGS)
