# SPDX-License-Identifier: GPL-2.0-only
# The front door. `make help` lists what it can do.

# The text of CMD= as typed: make must not expand a $ in it
export VM_CMD := $(value CMD)

MAKEFLAGS += --no-print-directory
S := scripts
# What DEBUG= asks for
KERNEL_BUILD = build$(if $(filter 1,$(DEBUG)),-debug)$(addprefix -,$(filter kcsan coverage rt kmsan,$(DEBUG)))

.PHONY: all help setup kernel kernel-update tree export import author \
	build build-debug build-kcsan build-coverage build-rt build-kmsan run test bench sqlite check series-check selftests fuzz stress coverage vm uml shell send clean distclean

all: build ## (default) Fetch the kernel source, make the tree, build the lean kernel

help: ## This list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo
	@echo "Variables: KERNEL=tree (instead of Debian's source), JOBS=n, EXMAP_CACHE=dir (~/.cache/exmap)"
	@sed -n 's/^#   \([A-Z]*=\)/  vm: \1/p' $(S)/vm.sh

run: build ## The main job: the example buffer manager and SQLite on real data, in the machine (ARGS='--madvise')
	@$(S)/run.sh $(ARGS)

test: setup ## All tests; ends with "N passed, N failed, N skipped"
	@$(S)/test.sh

bench: build ## Instructions, TLB shootdowns and reads a page, peers beside them (ARGS='instructions')
	@$(S)/bench.sh $(ARGS)

sqlite: build ## SQLite on exmap: here without it, in the machine with it, compared with plain SQLite
	@$(S)/sqlite.sh host
	@$(S)/sqlite.sh machine
	@$(S)/sqlite.sh cost

check: build ## Static checks alone
	@$(S)/check.sh

selftests: $(KERNEL_BUILD) ## The kselftests in the machine (DEBUG=1, TESTS='name ...', CGROUP=512M)
	@$(S)/vm.sh 'run-selftests $(if $(CGROUP),--cgroup $(CGROUP)) $(TESTS)'

# The sanitizer kernel unless DEBUG=0, a random seed unless ARGS has one
fuzz: $(if $(DEBUG),$(KERNEL_BUILD),build-debug) ## Random calls against a model of them (DEBUG=0, DEBUG=kcsan, rt or kmsan, FUZZ_SECONDS=600, ARGS='--seed N')
	@DEBUG=$(or $(DEBUG),1) $(S)/fuzz.sh $(ARGS)

stress: build-debug ## stress-ng beside the fuzzer and the stress tests, on the sanitizer kernel (STRESS_SECONDS=3600)
	@$(S)/stress.sh

coverage: build-coverage ## Lines and branches of the driver that the fuzzer reaches, or CMD='...'
	@$(S)/coverage.sh $(if $(CMD),"$$VM_CMD")

vm: $(KERNEL_BUILD) ## CMD='...' SHARE=dir: a shell command in the machine
	@$(S)/vm.sh "$$VM_CMD"

uml: build ## CMD='...': a shell command in user-mode Linux with the driver
	@$(S)/uml.sh "$$VM_CMD"

shell: $(KERNEL_BUILD) ## A shell in the machine
	@$(S)/vm.sh --shell

setup: ## Install the Debian packages that all this needs (root), or list them
	@$(S)/setup.sh

kernel: setup ## Fetch and unpack the kernel source, once
	@$(S)/kernel.sh

kernel-update: setup ## Look for a newer kernel source
	@$(S)/kernel.sh update

tree: kernel ## Make or update the build tree: kernel source + series
	@$(S)/series.sh tree

export: ## Carry edits made in the build tree into patches/ and the mirrored files
	@$(S)/series.sh export

import: ## Carry edits of the mirrored files into the build tree and patches/
	@$(S)/series.sh import

author: ## AUTHOR='Name <mail>': put your name on every patch
	@$(S)/series.sh author '$(AUTHOR)'

series-check: kernel ## Apply the series with quilt, git and b4, compare with the mirrored files
	@$(S)/series.sh check

send: tree ## PART=n VERSION=v: the thread of a part, as mails, made with b4; nothing is sent
	@$(S)/send.sh '$(PART)' $(VERSION)

build: tree ## The lean kernel, its modules and the programs
	@$(S)/build.sh lean

build-debug: tree ## The same with KASAN, lockdep and the other sanitizers
	@$(S)/build.sh debug

build-kcsan: tree ## The same with KCSAN, to look for data races
	@$(S)/build.sh kcsan

build-coverage: tree ## The same with gcov, to see what of the driver is reached
	@$(S)/build.sh coverage

build-rt: tree ## The same with PREEMPT_RT, and checks of locks
	@$(S)/build.sh rt

build-kmsan: tree ## The same with KMSAN, built by clang, to look for uninitialized memory
	@$(S)/build.sh kmsan

clean: ## Remove build output and the machine's files, keep source, tree and ccache
	@. $(S)/common.sh && rm -rf "$$CACHE"/build-* "$$CACHE"/vm

distclean: ## Remove the whole cache, edits in the build tree included
	@. $(S)/common.sh && rm -rf "$$CACHE"
