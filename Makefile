# make            build the plugin for $(UWSGI_BIN), and the command uwsgi-tuntap, into $(DIST)
# make help       all targets

# The uWSGI binary that will load the plugin: header and build flags come from it.
UWSGI_BIN ?= uwsgi
DIST ?= dist
PREFIX ?= /usr/local
DESTDIR ?=
# Cargo's target directory for builds of the plugin. All kinds of them share what is the same in them.
TARGET_DIR ?= target/plugin
CARGO ?= $(shell command -v cargo || echo $(HOME)/.cargo/bin/cargo)
# Seconds that the whole of `cargo test` may take.
TEST_TIMEOUT ?= 3000
TEST_ARGS ?=
# Tests mostly wait for processes to start; more of them than cores run at a time.
TEST_THREADS ?= 4
# What `make test-versions` tests with: versions of uWSGI on PyPI that scripts/prepare-uwsgi knows.
UWSGI_VERSIONS ?= 2.0.24 2.0.28
DEMO_ARGS ?=
# --quick for less than a minute, --chart docs/bench.svg for the README's picture; see bench/run --help.
BENCH_ARGS ?=
# Rows that `make bench` measures, such as shape; without it the usual ones. Its seconds: rows of one's choice may take longer.
ROWS ?=
BENCH_TIMEOUT ?= $(if $(ROWS),7200,1200)

plugin_dir := $(PREFIX)/lib/uwsgi/plugins
include_dir := $(PREFIX)/include
bin_dir := $(PREFIX)/bin
man_dir := $(PREFIX)/share/man
bash_dir := $(PREFIX)/share/bash-completion/completions
zsh_dir := $(PREFIX)/share/zsh/site-functions
fish_dir := $(PREFIX)/share/fish/vendor_completions.d

# In docs/man; `uwsgi-tuntap man` makes each by the word that stands in its name.
man_pages := uwsgi-tuntap.1 uwsgi-tuntap-options.5 uwsgi-tuntap-rules.5
about = $(or $(patsubst uwsgi-tuntap-%,%,$(filter uwsgi-tuntap-%,$(basename $(1)))),command)
man_file = $(man_dir)/man$(subst .,,$(suffix $(1)))/$(1)

# --peers N for another number of peers, SECONDS and SEED have names of their own; see soak/run --help.
SOAK_ARGS ?=

.PHONY: all plugin command documents not-packaged install uninstall prepare-uwsgi demo demo-hosts bench \
	bench-hosts soak test test-versions fuzz memcheck dist test-dist deb test-deb test-kernels clean help

all: plugin command

# Cargo decides what needs building. The finished file is moved into place: a running uWSGI may have the old one mapped.
plugin:
	@scripts/check-uwsgi "$(UWSGI_BIN)"
	@command -v $(CARGO) >/dev/null || { \
		echo "make: there is no Rust toolchain: '$(CARGO)' is not an executable (see https://rustup.rs)"; \
		exit 1; } >&2
	@set -e; \
	uwsgi=$$(command -v $(UWSGI_BIN)); \
	target=$(TARGET_DIR); \
	UWSGI_BIN=$$(realpath $$uwsgi) CARGO_TARGET_DIR=$$target $(CARGO) build --release --locked --lib \
		$(FEATURES:%=--features %) || { \
		echo "make: if a header, libclang or the linker is missing (see above): as root, scripts/setup build" >&2; \
		exit 1; }; \
	mkdir -p $(DIST); \
	if ! cmp -s $$target/release/libtuntap_plugin.so $(DIST)/tuntap_plugin.so; then \
		cp $$target/release/libtuntap_plugin.so $(DIST)/tuntap_plugin.so.new; \
		mv $(DIST)/tuntap_plugin.so.new $(DIST)/tuntap_plugin.so; \
	fi; \
	echo "$(DIST)/tuntap_plugin.so is built for $$uwsgi ($$($$uwsgi --version))"

# It needs no uWSGI.
command:
	@CARGO_TARGET_DIR=target $(CARGO) build --release --locked --package tuntap-ctl
	@mkdir -p $(DIST)
	@if ! cmp -s target/release/uwsgi-tuntap $(DIST)/uwsgi-tuntap; then \
		cp target/release/uwsgi-tuntap $(DIST)/uwsgi-tuntap.new; \
		mv $(DIST)/uwsgi-tuntap.new $(DIST)/uwsgi-tuntap; \
	fi
	@echo "$(DIST)/uwsgi-tuntap is built"

# What is made from the table of options, from the command line of uwsgi-tuntap, and from the description of a picture.
documents:
	@set -e; for document in "OPTIONS.md:options --markdown" $(foreach page,$(man_pages),"man/$(page):man $(call about,$(page))"); do \
		$(CARGO) run --quiet --locked --package tuntap-ctl -- $${document#*:} >docs/$${document%%:*}.new; \
		mv docs/$${document%%:*}.new docs/$${document%%:*}; \
	done
	@scripts/picture docs/architecture.txt >docs/architecture.svg.new
	@mv docs/architecture.svg.new docs/architecture.svg

# Only built if they aren't there, so that `sudo make install` works without a toolchain on root's PATH.
$(DIST)/tuntap_plugin.so:
	@$(MAKE) --no-print-directory plugin

$(DIST)/uwsgi-tuntap:
	@$(MAKE) --no-print-directory command

# Under PREFIX=/usr the package uwsgi-core has its C plugin.
not-packaged:
	@! dpkg-query --search $(DESTDIR)$(plugin_dir)/tuntap_plugin.so 2>/dev/null || { \
		echo "make: that file belongs to the package above; choose another PREFIX than $(PREFIX)" >&2; \
		exit 1; }

install: not-packaged $(DIST)/tuntap_plugin.so $(DIST)/uwsgi-tuntap
	install -d $(DESTDIR)$(plugin_dir) $(DESTDIR)$(include_dir) $(DESTDIR)$(bin_dir) $(DESTDIR)$(man_dir)/man1 \
		$(DESTDIR)$(man_dir)/man5 $(DESTDIR)$(bash_dir) $(DESTDIR)$(zsh_dir) $(DESTDIR)$(fish_dir)
	install -m 644 $(DIST)/tuntap_plugin.so $(DESTDIR)$(plugin_dir)/tuntap_plugin.so
	install -m 644 include/uwsgi_tuntap.h $(DESTDIR)$(include_dir)/uwsgi_tuntap.h
	install -m 755 $(DIST)/uwsgi-tuntap $(DESTDIR)$(bin_dir)/uwsgi-tuntap
	$(foreach page,$(man_pages),install -m 644 docs/man/$(page) $(DESTDIR)$(call man_file,$(page)) &&) true
	@set -e; for file in bash:$(bash_dir)/uwsgi-tuntap zsh:$(zsh_dir)/_uwsgi-tuntap fish:$(fish_dir)/uwsgi-tuntap.fish; do \
		echo "$(DIST)/uwsgi-tuntap completions $${file%%:*} >$(DESTDIR)$${file#*:}"; \
		$(DIST)/uwsgi-tuntap completions $${file%%:*} >$(DIST)/completions.new; \
		install -m 644 $(DIST)/completions.new $(DESTDIR)$${file#*:}; \
		rm $(DIST)/completions.new; \
	done
	@echo
	@echo "To load it, in the ini files of the Emperor and of its vassals:"
	@echo
	@echo "    plugins-dir = $(plugin_dir)"
	@echo "    plugin = tuntap"
	@echo
	@echo "The order matters: plugins-dir must stand before plugin. A folder named so is searched before uWSGI's"
	@echo "own, where Debian keeps the C plugin under the same file name (/usr/lib/uwsgi/plugins)."

uninstall: not-packaged
	rm -f $(DESTDIR)$(plugin_dir)/tuntap_plugin.so $(DESTDIR)$(include_dir)/uwsgi_tuntap.h
	rm -f $(DESTDIR)$(bin_dir)/uwsgi-tuntap $(foreach page,$(man_pages),$(DESTDIR)$(call man_file,$(page))) \
		$(DESTDIR)$(bash_dir)/uwsgi-tuntap \
		$(DESTDIR)$(zsh_dir)/_uwsgi-tuntap $(DESTDIR)$(fish_dir)/uwsgi-tuntap.fish
	@rmdir $(DESTDIR)$(plugin_dir) $(DESTDIR)$(PREFIX)/lib/uwsgi 2>/dev/null || true

prepare-uwsgi:
	@scripts/prepare-uwsgi

demo:
	@scripts/setup demo
	@$(MAKE) --no-print-directory plugin command
	@demo/run --uwsgi $(UWSGI_BIN) --plugin-dir $(DIST) $(DEMO_ARGS)

# Several hosts, each with BIRD.
demo-hosts:
	@scripts/setup hosts
	@$(MAKE) --no-print-directory plugin command
	@demo/hosts --uwsgi $(UWSGI_BIN) --plugin-dir $(DIST) $(DEMO_ARGS)

bench:
	@scripts/setup bench
	@$(MAKE) --no-print-directory plugin
	@timeout --signal=INT --kill-after=30 $(BENCH_TIMEOUT) bench/run --uwsgi $(UWSGI_BIN) --plugin-dir $(DIST) \
		$(ROWS:%=--rows %) $(BENCH_ARGS)

bench-hosts:
	@scripts/setup hosts
	@$(MAKE) --no-print-directory plugin command
	@timeout --signal=INT --kill-after=30 3600 bench/hosts --uwsgi $(UWSGI_BIN) --plugin-dir $(DIST) $(ROWS:%=--rows %) \
		$(BENCH_ARGS)

# SECONDS=60 is how long the peers are there; SEED=... throws the dice of an earlier run again.
soak:
	@scripts/setup demo
	@$(MAKE) --no-print-directory plugin
	@soak/run --uwsgi $(UWSGI_BIN) --plugin-dir $(DIST) $(SECONDS:%=--seconds %) $(SEED:%=--seed %) $(SOAK_ARGS)

# The tests are compiled while the plugin is optimized, which leaves a core idle most of the time. What is wrong with them is shown
# afterwards.
test:
	@scripts/setup test
	@$(CARGO) test --locked --workspace --no-run $(TEST_ARGS) >/dev/null 2>&1 & \
	scripts/prepare-uwsgi && $(MAKE) --no-print-directory plugin; code=$$?; wait; exit $$code
	timeout --kill-after=30 $(TEST_TIMEOUT) $(CARGO) test --locked --workspace --no-fail-fast $(TEST_ARGS) -- --test-threads $(TEST_THREADS)

test-versions:
	@scripts/setup test
	@scripts/prepare-uwsgi distribution $(UWSGI_VERSIONS)
	@TEST_THREADS=$(TEST_THREADS) scripts/test-versions $(UWSGI_VERSIONS)

# Seconds for each target.
fuzz: SECONDS ?= 60
fuzz:
	@scripts/setup fuzz
	@scripts/fuzz $(SECONDS)

memcheck:
	@scripts/setup memcheck
	@scripts/prepare-uwsgi
	@scripts/memcheck

# The source archive with all crates, and what is in plugin and command.
dist:
	@scripts/setup dist
	@packaging/release/dist --out $(DIST)

# Is it the same each time, and does it build without a network?
test-dist:
	@scripts/setup dist
	@scripts/test-dist

# For this machine's Debian.
deb:
	@scripts/setup deb
	@packaging/release/deb --out $(DIST)/deb

# In fresh systems of Debian; SUITES="trixie" for one of them.
SUITES ?= bookworm trixie
test-deb:
	@scripts/test-deb $(SUITES)

# The path in the kernel on the kernels of SUITES, in virtual machines.
test-kernels:
	@scripts/setup kernels
	@scripts/test-kernels $(SUITES)

clean:
	rm -rf target dist fuzz/target .uwsgi_plugins_builder

help:
	@echo "make            build $(DIST)/tuntap_plugin.so for UWSGI_BIN ($(UWSGI_BIN)), and $(DIST)/uwsgi-tuntap"
	@echo "make plugin     build the plugin only"
	@echo "make command    build the command uwsgi-tuntap only; it needs no uWSGI"
	@echo "make install    install both, the public header, man pages and completions under PREFIX ($(PREFIX)), honouring DESTDIR"
	@echo "make uninstall  take them away again"
	@echo "make documents  write docs/OPTIONS.md, the man pages and the picture of the README anew"
	@echo "make demo       install what is missing from Debian, build, and show an Emperor with two vassals (root)"
	@echo "make demo-hosts install what is missing from Debian, build, and show three hosts with one network (root)"
	@echo "make bench      install what is missing from Debian, build, and measure against the C plugin, veth,"
	@echo "                slirp4netns and pasta; about eight minutes (root). ROWS=shape: limits on traffic, beside tc tbf;"
	@echo "                20 minutes for each of four rounds"
	@echo "make bench-hosts"
	@echo "                the same for vassals of several hosts, and how long hosts take to notice what happens (root)"
	@echo "make soak       install what is missing from Debian, build, and let everything happen at once for SECONDS=60"
	@echo "                (root): peers that come, go, flood and misbehave, reloads, deaths of the router"
	@echo "make test       install what is missing from Debian, prepare two uWSGI binaries (the system's, and one from PyPI),"
	@echo "                run all tests (root)"
	@echo "make test-versions"
	@echo "                the tests that depend on uWSGI, with others from PyPI: UWSGI_VERSIONS ($(UWSGI_VERSIONS)) (root)"
	@echo "make prepare-uwsgi"
	@echo "                prepare only the two uWSGI binaries of the tests in target/uwsgi"
	@echo "make fuzz       install what is missing, run each fuzz target for SECONDS (60); no root needed"
	@echo "make memcheck   install what is missing, run uWSGI with the plugin under valgrind; five minutes or more (root)"
	@echo "make dist       make the source archive with all crates, lists of what is in plugin and command (SBOM), and checksums,"
	@echo "                in $(DIST)"
	@echo "make test-dist  make the archive twice, compare, and build one of them without a network (root)"
	@echo "make deb        build Debian's packages for this machine's Debian, in $(DIST)/deb"
	@echo "make test-deb   build them in fresh systems of SUITES ($(SUITES)), and install, upgrade, remove and purge them"
	@echo "                in others (root); an hour or more"
	@echo "make test-kernels"
	@echo "                boot the kernels of SUITES in virtual machines (qemu), and test the path in the kernel there (root);"
	@echo "                an hour or more"
	@echo "make clean      remove what was built"
