# Everything works on a fresh Debian with Rust alone: `tools` installs what is missing.

CARGO ?= cargo
# Warnings are errors here and in CI, never in the sources.
STRICT = RUSTFLAGS="-D warnings"

.PHONY: build test test-long demo check-conf schema tools fmt lint clean

build: tools
	$(CARGO) build --release

demo: build
	./target/release/prusik demo

# What CI runs: format, lints, unit and end-to-end tests, every shipped file checked.
test: tools
	$(CARGO) fmt --all --check
	$(STRICT) $(CARGO) clippy --all-targets --locked -- -D warnings
	$(STRICT) $(CARGO) test --locked
	$(MAKE) check-conf

# Proofs that take minutes: the soak of two tiers, large bodies, a browser.
test-long: build
	$(CARGO) test --locked --release -- --ignored --nocapture

# Every file in conf/ and every yaml block in the README passes `prusik check`; the schema that
# the shipped files point editors at is the one that the binary prints.
check-conf:
	$(STRICT) $(CARGO) build --locked
	tests/check-shipped.sh target/debug/prusik

schema:
	$(CARGO) run --quiet -- schema > conf/prusik.schema.json

fmt:
	$(CARGO) fmt --all

# pingora-core builds zlib-ng with cmake.
tools:
	@command -v cmake >/dev/null && command -v cc >/dev/null || { \
		echo "installing cmake and a C compiler"; \
		SUDO=$$(test "$$(id -u)" = 0 || echo sudo); \
		$$SUDO apt-get update -qq && $$SUDO apt-get install -y -qq cmake build-essential; }

clean:
	$(CARGO) clean
