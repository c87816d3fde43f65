# Everything that is done with this repository; `make` alone lists it. CI does
# nothing of its own: .ci/run calls what is here.

SHELL         := bash
.SHELLFLAGS   := -euo pipefail -c
.DEFAULT_GOAL := help

# ARGS goes to what a target runs: make test ARGS='-short -run TestReload'.
ARGS     ?=
FUZZTIME ?= 20s
VERSION  ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)

# A log that is read later names every test; a person watching wants packages and failures.
TEST_FORMAT ?= $(if $(CI),standard-verbose,standard-quiet)

# Tools are pinned here and installed into .tools, nowhere else. The stamp of an
# installed tool carries its version, so that a new version is a new target.
TOOLS := \
	github.com/bufbuild/buf/cmd/buf@v1.75.0 \
	google.golang.org/protobuf/cmd/protoc-gen-go@v1.36.12 \
	google.golang.org/grpc/cmd/protoc-gen-go-grpc@v1.6.2 \
	github.com/planetscale/vtprotobuf/cmd/protoc-gen-go-vtproto@v0.6.1-0.20240319094008-0393e58bdf10 \
	github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0 \
	gotest.tools/gotestsum@v1.13.0 \
	github.com/fullstorydev/grpcurl/cmd/grpcurl@v1.9.4 \
	github.com/nats-io/natscli/nats@v0.5.1

stamp_of   = .tools/stamps/$(notdir $(1))
TEST_TOOLS  := $(foreach t,$(TOOLS),$(if $(filter gotestsum@% grpcurl@% nats@%,$(notdir $t)),$(call stamp_of,$t)))
CHECK_TOOLS := $(filter-out $(TEST_TOOLS),$(foreach t,$(TOOLS),$(call stamp_of,$t)))

define install_tool
$(call stamp_of,$(1)):
	@echo "installing $(notdir $(1))"
	@GOBIN='$$(CURDIR)/.tools' GOFLAGS= go install $(1)
	@mkdir -p $$(@D) && touch $$@
endef
$(foreach t,$(TOOLS),$(eval $(call install_tool,$t)))

# A server for tests that is built from a module of its own, so that what it
# brings along stays out of ours.
TEST_SERVERS := .tools/versitygw
.tools/versitygw: test/servers/versitygw/go.mod test/servers/versitygw/go.sum
	@echo 'building versitygw'
	@CGO_ENABLED=0 GOFLAGS= go -C $(<D) build -o '$(CURDIR)/$@' github.com/versity/versitygw/cmd/versitygw

export PATH := $(CURDIR)/.tools:$(PATH)

## Every day:

.PHONY: run
run: ## start everything in one process, on data in ./.prism
	@echo 'building prism; this takes a minute or two the first time'
	@go build -o .cache/prism ./cmd/prism
	@exec .cache/prism dev $(ARGS)

# Suites mostly wait for servers that were hurt on purpose: more packages at once
# than there are processors.
TEST_PACKAGES := $(shell echo $$(( ($$(nproc) * 3 + 1) / 2 )))

# A run of everything leaves what the suites found, for make check; a run with
# ARGS may be a part. (Go never takes tests that write there from its cache.)
.PHONY: test
test: export PRISM_MATRIX_DIR = $(if $(ARGS),,$(CURDIR)/.cache/matrix)
test: $(TEST_TOOLS) $(TEST_SERVERS) ## run all tests on real servers, with the race detector
	@mkdir -p .cache/matrix
	@gotestsum --format $(TEST_FORMAT) -- -race -timeout 15m -p $(TEST_PACKAGES) $(ARGS) ./...

.PHONY: check
check: lint imports wire generated backends tidy measures ## check everything else: format, lint, imports, contract, budgets
	@echo 'check: passed'

.PHONY: fmt
fmt: $(CHECK_TOOLS) ## format the code and sort its imports
	@golangci-lint fmt

.PHONY: generate
generate: $(CHECK_TOOLS) ## generate Go from api/**.proto
	@buf generate && buf generate --template buf.gen.hot.yaml

## Now and then:

.PHONY: build
build: ## build bin/prism and bin/prismctl, static and versioned
	@CGO_ENABLED=0 go build -trimpath -ldflags '-s -w -X github.com/prismgw/prism/internal/version.version=$(VERSION)' -o bin/ ./cmd/prism ./cmd/prismctl

.PHONY: bench
bench: ## measure Prism beside bare gRPC and the backends' own clients
	@go run ./bench $(ARGS)

.PHONY: fuzz
fuzz: ## run each fuzz target for FUZZTIME (20s)
	@log=$$(mktemp); trap 'rm -f "$$log"' EXIT; \
	go test -list '^Fuzz' ./... \
	| awk '/^Fuzz/ { targets[n++] = $$1 } /^ok/ { while (n > 0) print $$2, targets[--n] }' \
	| while read -r package target; do \
		echo "fuzz: $$package $$target"; \
		go test -run '^$$' -fuzz "^$$target\$$" -fuzztime '$(FUZZTIME)' "$$package" </dev/null | tee "$$log" || $(end_of_fuzzing); \
	done

# Until Go 1.27 the end of the time may be reported as a failure without a
# failing input (golang/go#75804).
end_of_fuzzing = { grep -q '^    context deadline exceeded$$' "$$log" && ! grep -q 'Failing input' "$$log"; }

.PHONY: budget
budget: ## print the measures of the code beside their budgets
	@go run ./internal/budget

.PHONY: matrix
matrix: ## write docs/backends.md; runs the suites whose results are missing or old
	@go run ./internal/matrix -from .cache/matrix $(ARGS)

.PHONY: evidence
evidence: $(TEST_TOOLS) ## run the commands of docs/evidence.md
	@go run ./internal/evidence $(ARGS)

.PHONY: tools test-tools check-tools
tools: test-tools check-tools ## install the pinned tools into ./.tools
test-tools: $(TEST_TOOLS) $(TEST_SERVERS)
check-tools: $(CHECK_TOOLS)

.PHONY: clean
clean: ## remove what was built or installed here; ./.prism stays
	@rm -rf bin .tools .cache

# The parts of check. Each can be called alone.

.PHONY: lint imports wire generated backends tidy measures

lint: $(CHECK_TOOLS)
	@echo 'check: format and lint'
	@golangci-lint run

imports:
	@echo 'check: imports, access classes, documents that follow the code'
	@go test ./internal/arch ./api

# The contract may grow but not change: it is compared with the last release, or
# with the commit before as long as there is none.
wire: $(CHECK_TOOLS)
	@echo 'check: the wire contract'
	@buf lint
	@old=$$(git describe --tags --abbrev=0 2>/dev/null || git rev-parse --verify --quiet HEAD~1 || true); \
	if [[ -z $$old ]] || ! git cat-file -e "$$old:buf.yaml" 2>/dev/null; then \
		echo 'check: no earlier contract to compare with'; exit; \
	fi; \
	dir=$$(mktemp -d); trap 'rm -rf "$$dir"' EXIT; \
	git archive "$$old" buf.yaml api | tar -x -C "$$dir"; \
	buf breaking --against "$$dir"

generated: $(CHECK_TOOLS)
	@echo 'check: generated code'
	@dir=$$(mktemp -d); trap 'rm -rf "$$dir"' EXIT; \
	buf generate -o "$$dir"; buf generate --template buf.gen.hot.yaml -o "$$dir"; \
	sums() { (cd "$$1" && find api -name '*.pb.go' | sort | xargs sha256sum); }; \
	diff <(sums .) <(sums "$$dir") || { echo 'api: generated code is not what the contract gives; run: make generate'; exit 1; }

# Nothing is run again that make test has run on this code.
backends:
	@echo 'check: docs/backends.md'
	@go run ./internal/matrix -check -from .cache/matrix

tidy:
	@echo 'check: go.mod'
	@go mod tidy -diff

measures:
	@echo 'check: budgets'
	@go run ./internal/budget -enforce

.PHONY: help
help:
	@echo 'usage: make TARGET'
	@awk -F ':.*## ' '/^## / { print "\n" substr($$0, 4) } /^[a-z]+:.*## / { printf "  %-10s%s\n", $$1, $$2 }' Makefile
