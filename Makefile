# The house around the code. `make help` lists what there is.

BIN := bin
COMMANDS := sendmail mailq queue-runner
BINARIES := $(COMMANDS:%=$(BIN)/%)
SOURCES = go.mod go.sum $(shell find cmd deliver internal spool \( -name '*.go' -o -name '*.s' \) ! -name '*_test.go')

# Static, reproducible, and without the parts of urfave/cli that would double the start-up of mailq.
BUILD = CGO_ENABLED=0 go build -trimpath -ldflags '-s -w' $(ENTRY_$(or $(GOARCH),$(shell go env GOARCH))) -tags urfave_cli_no_docs,urfave_cli_no_suggest

# Where sendmail has an entry point of its own, before that of Go's runtime.
ENTRY_amd64 := -ldflags 'github.com/postrider/postrider/cmd/sendmail=-s -w -E github.com/postrider/postrider/internal/entry.point'

# The tests run the commands as they are installed: with the same tags.
TESTFLAGS := -tags urfave_cli_no_docs,urfave_cli_no_suggest -count=1 -shuffle=on
STATICCHECK := $(BIN)/tools/staticcheck-0.8.2

FUZZTIME ?= 60s

DESTDIR ?=
PREFIX ?= /usr/local
SYSCONFDIR ?= /etc
SPOOL ?= /var/spool/postrider
SBINDIR := $(PREFIX)/sbin
BINDIR := $(PREFIX)/bin
LIBDIR := $(PREFIX)/lib
MANDIR := $(PREFIX)/share/man
UNITDIR := $(PREFIX)/lib/systemd/system
UNITS := $(wildcard packaging/systemd/*.service packaging/systemd/*.timer packaging/systemd/*.path packaging/systemd/*.socket)

.PHONY: help build demo test proof bench lint fuzz install uninstall clean
.DEFAULT_GOAL := build

help: ## show this list
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

build: ## build the three static binaries into bin/
	@mkdir -p $(BIN)
	$(BUILD) -o $(BIN)/ $(COMMANDS:%=./cmd/%)

# For install only: root may have no Go, and does not need it for what has been built.
$(BINARIES) &: $(SOURCES)
	@$(MAKE) --no-print-directory build

demo: build ## show the main job in a private spool, offline
	@demo/demo.sh $(BIN)

test: ## run every test
	@.ci/need gcc:gcc mkfs.ext4:e2fsprogs mkfs.xfs:xfsprogs
	@.ci/test $(TESTFLAGS)

proof: build ## run the slow tests too: real programs, real servers, power cuts
	@.ci/need gcc:gcc mkfs.ext4:e2fsprogs mkfs.xfs:xfsprogs nft:nftables ip:iproute2 tc:iproute2
	@POSTRIDER_PROOF=1 .ci/test $(TESTFLAGS) -timeout 2h

bench: build ## measure, and compare with what we promise
	@.ci/need gcc:gcc strace:strace mkfs.ext4:e2fsprogs
	@go run ./bench $(BIN)

lint: $(STATICCHECK) ## format, vet, staticcheck, man pages, units, go.mod
	@.ci/need mandoc:mandoc
	@.ci/lint $(STATICCHECK)

$(STATICCHECK):
	@mkdir -p $(@D)
	GOBIN=$(abspath $(@D)) go install honnef.co/go/tools/cmd/staticcheck@v0.8.2
	@mv $(@D)/staticcheck $@

fuzz: ## run each fuzz target for FUZZTIME (60s)
	@.ci/fuzz $(FUZZTIME)

# Links are relative, so that they hold below DESTDIR too. The user, the spool and the set-group-ID bit are made only
# where this machine is meant; for a package its maintainer scripts run packaging/setup.
install: $(BINARIES) ## install below DESTDIR/PREFIX (/usr/local); as root also the user and the spool
	install -d $(DESTDIR)$(SBINDIR) $(DESTDIR)$(BINDIR) $(DESTDIR)$(LIBDIR) $(DESTDIR)$(UNITDIR) \
		$(DESTDIR)$(SYSCONFDIR)/postrider $(foreach n,1 5 8,$(DESTDIR)$(MANDIR)/man$n)
	install -m 0755 $(BIN)/sendmail $(BIN)/queue-runner $(DESTDIR)$(SBINDIR)/
	install -m 0755 $(BIN)/mailq $(DESTDIR)$(BINDIR)/
	ln -sfn ../sbin/sendmail $(DESTDIR)$(LIBDIR)/sendmail
	ln -sfn ../sbin/sendmail $(DESTDIR)$(BINDIR)/newaliases
	$(foreach n,1 5 8,install -m 0644 $(wildcard man/*.$n) $(DESTDIR)$(MANDIR)/man$n/ &&) :
	for unit in $(UNITS); do \
		sed 's|/usr/local/sbin/|$(SBINDIR)/|; s|/var/spool/postrider|$(SPOOL)|' $$unit >$(DESTDIR)$(UNITDIR)/$${unit##*/} || exit 1; \
	done
	[ -e $(DESTDIR)$(SYSCONFDIR)/postrider/postrider.toml ] || \
		install -m 0644 examples/postrider.toml $(DESTDIR)$(SYSCONFDIR)/postrider/postrider.toml
	if [ -z "$(DESTDIR)" ] && [ "$$(id -u)" = 0 ]; then packaging/setup $(SPOOL) $(SBINDIR)/sendmail; fi

uninstall: ## remove what install installed, but neither configuration nor spool
	rm -f $(DESTDIR)$(SBINDIR)/sendmail $(DESTDIR)$(SBINDIR)/queue-runner $(DESTDIR)$(BINDIR)/mailq \
		$(DESTDIR)$(LIBDIR)/sendmail $(DESTDIR)$(BINDIR)/newaliases \
		$(foreach n,1 5 8,$(patsubst man/%,$(DESTDIR)$(MANDIR)/man$n/%,$(wildcard man/*.$n))) \
		$(patsubst packaging/systemd/%,$(DESTDIR)$(UNITDIR)/%,$(UNITS))

clean: ## remove what was built
	rm -rf $(BIN)
