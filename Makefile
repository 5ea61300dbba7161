# `make` prints what can be run. Settings go on the command line: make fuzz FUZZTIME=1m.

SHELL         := bash
.SHELLFLAGS   := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS     += --no-builtin-rules --warn-undefined-variables --no-print-directory

SQLC_VERSION     := v1.31.1
GOLANGCI_VERSION := v2.15.0
GOOSE_VERSION    := v3.28.0

# A tool's file carries its version, so a changed pin is installed anew.
BIN      := $(CURDIR)/.bin
SQLC     := $(BIN)/sqlc-$(SQLC_VERSION)
GOLANGCI := $(BIN)/golangci-lint-$(GOLANGCI_VERSION)
GOOSE    := $(BIN)/goose-$(GOOSE_VERSION)
DEVPG    := $(BIN)/devpg

# Every directory with a go.mod; go.work joins them, so that one go command serves all.
MODULES := $(sort $(patsubst %/,%,$(dir $(shell find . -name go.mod -not -path './.bin/*'))))
PKGS    ?= $(MODULES:%=%/...)

TESTFLAGS  ?=
FUZZTIME   ?= 10s
BENCH_TIME ?=
BENCHFLAGS ?=
TEETHFLAGS ?=
POOLERS    ?=

# One build cache for all targets, and proof that nothing but `race` needs a C compiler.
export CGO_ENABLED := 0

# A database can change under an unchanged test: -count=1 never answers from Go's test cache.
# Most tests wait for the server, so more of them run at once than there are processors.
TEST := go test -count=1 -shuffle=on -parallel=4 -timeout=20m

##@ Use

.PHONY: help
help: ## Print this list
	@awk 'BEGIN { FS = ":.*## " } \
		/^##@ / { printf "\n%s\n", substr($$0, 5) } \
		/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

.PHONY: demo
demo: ensure ## Show a crash, a retry and a takeover on a real PostgreSQL
	@CGO_ENABLED=0 go build -o $(BIN)/demo ./examples/demo
	@$(BIN)/demo

.PHONY: bench
bench: ensure ## Measure what pgidem costs beside the bare transaction (BENCH_TIME=1m in all, BENCHFLAGS=)
	$(DEVPG) exec -- go run ./bench $(if $(BENCH_TIME),-time $(BENCH_TIME)) $(BENCHFLAGS)

##@ Test

.PHONY: test
test: ensure $(GOOSE) ## Test every module on one PostgreSQL (TESTFLAGS=, PKGS=)
	$(DEVPG) exec -- $(TEST) $(TESTFLAGS) $(PKGS)

.PHONY: short
short: override TESTFLAGS += -short
short: test ## Test without the long campaigns

.PHONY: race
race: export CGO_ENABLED := 1
race: compiler ensure $(GOOSE) ## Test under the race detector (needs a C compiler)
	$(DEVPG) exec -- $(TEST) -race $(TESTFLAGS) $(PKGS)

.PHONY: poolers
poolers: ensure ## Test the library through PgBouncer in transaction mode, in each of pgx's query modes (TESTFLAGS=, POOLERS=)
	POOLERS="$(POOLERS)" internal/tools/poolers.sh $(DEVPG) $(TEST) $(TESTFLAGS) ./pgidem

.PHONY: fuzz
fuzz: ## Run each fuzz test of every module for FUZZTIME=10s
	internal/tools/fuzz.sh $(FUZZTIME)

.PHONY: teeth
teeth: ensure $(GOOSE) ## Plant known bugs, one at a time, and require that a test catches each (TEETHFLAGS=name…)
	$(DEVPG) exec -- go run ./internal/teeth $(TEETHFLAGS)

##@ Check

.PHONY: lint
lint: $(GOLANGCI) ## Lint Go and shell
	$(GOLANGCI) run $(PKGS)
	internal/tools/shell.sh

.PHONY: verify
verify: $(SQLC) ## Check generated code, go.mod files, formatting and the core's imports
	internal/tools/verify.sh $(SQLC)

##@ Maintain

.PHONY: generate
generate: $(SQLC) ## Generate pgidem/internal/dbsqlc from queries/ and migrations/
	internal/tools/dbsqlc.sh generate $(SQLC)

.PHONY: fmt
fmt: $(GOLANGCI) ## Format Go code as `make lint` wants it
	$(GOLANGCI) fmt $(PKGS)

.PHONY: tidy
tidy: ## Tidy every go.mod
	for module in $(MODULES); do (cd "$$module" && go mod tidy); done

.PHONY: tools
tools: $(SQLC) $(GOLANGCI) $(GOOSE) ## Install the pinned tools into .bin

.PHONY: clean
clean: ## Remove the installed tools (.bin)
	rm -rf $(BIN)

# Finds a PostgreSQL or says how to get one. devpg is built, not `go run`: a signal then reaches it and it stops its server.
.PHONY: ensure
ensure:
	@[ -x $(DEVPG) ] || echo "Building the tool that finds a PostgreSQL: about a minute the first time."
	@CGO_ENABLED=0 go build -o $(DEVPG) ./internal/devpg/cmd/devpg
	@$(DEVPG) ensure

.PHONY: compiler
compiler:
	@cc=$$(go env CC); command -v "$${cc%% *}" >/dev/null || { \
		echo "make race: the race detector needs a C compiler and there is no $$cc: apt-get install gcc libc6-dev" >&2; exit 1; }

# $(call go-install,package@version): installs into .bin and names the file as the target.
go-install = CGO_ENABLED=0 GOBIN=$(BIN) go install $(1) && mv $(BIN)/$(notdir $(firstword $(subst @, ,$(lastword $(1))))) $@

$(SQLC):
	$(call go-install,github.com/sqlc-dev/sqlc/cmd/sqlc@$(SQLC_VERSION))

$(GOLANGCI):
	$(call go-install,github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(GOLANGCI_VERSION))

# Without the drivers of other databases, which take minutes to build.
$(GOOSE):
	$(call go-install,-tags no_clickhouse$(comma)no_libsql$(comma)no_mssql$(comma)no_mysql$(comma)no_sqlite3$(comma)no_vertica$(comma)no_ydb \
		github.com/pressly/goose/v3/cmd/goose@$(GOOSE_VERSION))

comma := ,
