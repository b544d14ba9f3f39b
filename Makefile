# The house around the code. `make help` lists what there is.

BIN := bin
COMMANDS := sendmail mailq queue-runner

# Static, reproducible, and without the parts of urfave/cli that would double the start-up of mailq.
BUILD := CGO_ENABLED=0 go build -trimpath -ldflags '-s -w' -tags urfave_cli_no_docs,urfave_cli_no_suggest

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
UNITS := $(wildcard packaging/systemd/*.service packaging/systemd/*.timer packaging/systemd/*.path)

.PHONY: help build demo test proof bench lint fuzz install uninstall clean
.DEFAULT_GOAL := build

help: ## show this list
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

build: ## build the three static binaries into bin/
	@mkdir -p $(BIN)
	$(BUILD) -o $(BIN)/ $(COMMANDS:%=./cmd/%)

demo: build ## show the main job in a private spool, offline
	@demo/demo.sh $(BIN)

test: ## run every test
	@.ci/need gcc:gcc strace:strace mandoc:mandoc mkfs.ext4:e2fsprogs
	@.ci/test $(TESTFLAGS)

proof: build ## run the slow tests too: real programs, real servers, power cuts
	@.ci/need gcc:gcc strace:strace mandoc:mandoc mkfs.ext4:e2fsprogs
	@POSTRIDER_PROOF=1 .ci/test $(TESTFLAGS) -timeout 60m

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

clean: ## remove what was built
	rm -rf $(BIN)
