# Everything a person or CI does with this tree. `make demo` and `make test` need nothing done beforehand.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:

HOST := $(shell rustc -vV | sed -n 's/^host: //p')
TARGET_DIR := $(or $(CARGO_TARGET_DIR),target)
RELEASE := $(TARGET_DIR)/$(HOST)/release
PREFIX ?= /usr/local
DESTDIR ?=

# Both programs are static: they run on any Linux of this architecture. The supervisor, of which there is one per pod, is
# linked to a fixed address as well: a relocated one has 400 KiB of private memory more (docs/adr/0004).
STATIC := -C target-feature=+crt-static
AS_ROOT := $(if $(filter 0,$(shell id -u)),,sudo --preserve-env=PATH)
RELEASE_BUILD := cargo build --locked --release --target $(HOST)

.PHONY: build demo bench test test-v2 fmt lint deny unit kernel churn fuzz fuzz-short install clean

build:
	integration/setup build
	RUSTFLAGS="$(STATIC)" $(RELEASE_BUILD) -p pintle
	RUSTFLAGS="$(STATIC) -C relocation-model=static" $(RELEASE_BUILD) -p pintle-shim
	@ls -l $(RELEASE)/pintle $(RELEASE)/pintle-shim

demo: build
	integration/setup demo
	integration/demo $(RELEASE)

# Options by BENCH, e.g. make bench BENCH="--quick --only start,exec". The client is built like the rest, so that it is no slower.
bench: build
	integration/setup bench
	RUSTFLAGS="$(STATIC)" $(RELEASE_BUILD) -p pintle-bench
	$(AS_ROOT) $(RELEASE)/pintle-bench --json $(TARGET_DIR)/bench.json $(BENCH)

test:
	integration/setup test
	$(MAKE) --no-print-directory fmt lint deny kernel fuzz-short

fmt:
	cargo fmt --all --check
	cargo fmt --manifest-path integration/fuzz/Cargo.toml --check

lint:
	cargo clippy --locked --workspace --all-targets --features pintle/failpoints -- -D warnings

deny:
	@command -v cargo-deny >/dev/null || CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_OPT_LEVEL=1 cargo install --locked cargo-deny
	cargo deny --locked check bans licenses sources

kernel:
	cargo build --locked --workspace --bins --features pintle/failpoints
	cargo nextest run --locked --workspace --features pintle/failpoints

# The long run of what `make test` runs in small: 1,000 pods come and go, 200 at once; with the figures.
churn:
	integration/setup test
	cargo build --locked --workspace --bins --features pintle/failpoints
	PINTLE_TEST_CHURN=$${PINTLE_TEST_CHURN:-1000} PINTLE_TEST_PODS=$${PINTLE_TEST_PODS:-200} \
		cargo nextest run --locked -p pintle-integration --no-capture -E 'binary(churn) or binary(crowd)'

# What comes from outside, made up: the corpus and 3 seconds of each target. `fuzz` gives each 5 minutes. FUZZ_SECONDS changes
# both, FUZZ="layer logs" takes these targets only. The layer is unpacked as root, in mounts of its own.
fuzz-short:
	$(AS_ROOT) integration/fuzz/run short $(FUZZ)

fuzz:
	integration/setup test
	$(AS_ROOT) integration/fuzz/run long $(FUZZ)

test-v2:
	integration/setup test-v2
	integration/test-v2

install: build
	install -D -m 0755 $(RELEASE)/pintle $(DESTDIR)$(PREFIX)/bin/pintle
	install -D -m 0755 $(RELEASE)/pintle-shim $(DESTDIR)$(PREFIX)/libexec/pintle/pintle-shim
	install -d -m 0755 $(DESTDIR)/etc/pintle/manifests
	test -e $(DESTDIR)/etc/pintle/config.yaml || install -D -m 0644 agent/config.yaml $(DESTDIR)/etc/pintle/config.yaml
	install -d -m 0755 $(DESTDIR)/etc/systemd/system
	sed 's,@PREFIX@,$(PREFIX),g' agent/pintle.service.in > $(DESTDIR)/etc/systemd/system/pintle.service

clean:
	cargo clean
