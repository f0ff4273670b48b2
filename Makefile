# The only door. `make` alone lists what is behind it.
.DEFAULT_GOAL := help
.PHONY: help setup build demo mysqldemo test unit e2e sim lease takeover soak bench latency mysqlbench check

help: ## Show this list
	@sed -n 's/^\([a-z0-9]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 16

setup: ## Install what is missing (PostgreSQL, clang); Rust is expected
	@.ci/setup

build: setup ## Build the release binary
	cargo build --release --locked

demo: setup ## Three PostgreSQL servers, the proxy in front, and what to try
	cargo run --release --locked -- demo

mysqldemo: setup ## The same with three MariaDB servers
	cargo run --release --locked -- demo --mysql

test: setup ## Run all tests, on real servers too
	@.ci/test

unit: ## Run the tests that need no server
	cargo test --workspace --locked --lib

e2e: setup ## Run the tests on real servers only
	cargo test --locked --test e2e

SEEDS ?= 2000
sim: ## Simulate the write path under faults (SEEDS=5000; LOCKSTEP_SIM_SEED=7 for one)
	LOCKSTEP_SIM_SEEDS=$(SEEDS) cargo test --locked --test sim -- --nocapture

lease: ## Simulate the election (SEEDS=20000; LOCKSTEP_LEASE_SEED=7 tells one story)
	LOCKSTEP_LEASE_SEEDS=$(SEEDS) cargo test --locked --test lease_sim -- --nocapture

takeover: setup ## Measure for how long nobody serves, planned and after a crash (as root)
	cargo test --locked --test e2e takeover_time -- --ignored --nocapture
	cargo test --locked --test agent takeover_times -- --ignored --nocapture

SOAK ?= 1200
soak: setup ## Machines with all parts under faults by chance (SOAK=3600 LOCKSTEP_SOAK_ON=mariadb; as root)
	LOCKSTEP_SOAK=$(SOAK) cargo test --locked --test agent together::soak -- --ignored --nocapture

bench: build ## Measure, side by side with its peers where they are installed (ARGS=--quick)
	python3 -B benches/compare.py $(ARGS)

latency: build ## Measure a write of one client with the databases some milliseconds away (ARGS='--trips 10')
	python3 -B benches/network.py $(ARGS)

mysqlbench: build ## The same for MariaDB, with sysbench and HAProxy (ARGS=--quick)
	python3 -B benches/compare_mysql.py $(ARGS)

check: ## Format, lints, documentation: warnings are errors
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --locked
	@if cargo deny --version >/dev/null 2>&1; then cargo deny check; fi
