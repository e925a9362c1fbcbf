# Every verb a person types. `make help` lists them.
SHELL := bash
.DEFAULT_GOAL := help
PYTHON ?= python3
RECIPE ?= tiny
CLUSTER ?= laptop
RUN ?=
LOCK ?= cpu
SLURM_WORKERS ?= 4
BIN := .venv/bin
PYTEST = $(BIN)/python -m pytest
RUNOPT := $(if $(RUN),--run $(RUN))
CHAIN := --recipe $(RECIPE) --cluster $(CLUSTER) $(RUNOPT)

.PHONY: help env demo plan scripts test test-fast check bench-rewards bench-metrics bench-jobs bench-cot bench-scale bench-sft bench-gpu doctor rehearse preflight data-iu status watch logs failures retry cancel table compare devcluster-up devcluster-down traces bench-checkpoints bench-grpo

help:  ## this list
	@awk 'BEGIN {FS = ":.*## "} /^[a-zA-Z0-9_-]+:.*## / {printf "  %-18s %s\n", $$1, $$2}' Makefile
	@echo "  options            RECIPE=$(RECIPE) CLUSTER=$(CLUSTER) RUN=name DRY=1 LOCK=cpu|gpu"

env:  ## build .venv from the lock of exact versions (LOCK=cpu or gpu)
	@$(PYTHON) locks/install.py $(LOCK)

demo: env  ## run the whole chain on this machine, then show its table
	@$(BIN)/diagcot demo $(if $(filter-out tiny,$(RECIPE)),--recipe $(RECIPE)) $(RUNOPT)

plan:  ## what would be submitted: stages, GPU-hours, space, expected start, and what will not work
	@$(BIN)/diagcot plan $(CHAIN)

scripts:  ## write a batch script for each stage into logs/<run>/scripts, to submit by hand with sbatch
	@$(BIN)/diagcot scripts $(CHAIN)

submit-%:
	@$(BIN)/diagcot submit $(CHAIN) --stage $(patsubst stage%,%,$*) $(if $(DRY),--dry)

submit-stage0:  ## submit the stages numbered 0: data and shards
submit-stage1:  ## submit the stages numbered 1: base model, alignment, teacher
submit-stage2:  ## submit the stages numbered 2: chain-of-thought, filtration, CoT fine-tuning
submit-stage3:  ## submit the stages numbered 3: GRPO
submit-eval:  ## submit evaluation and its table
submit-all:  ## submit the whole chain; DRY=1 shows it, its scripts too

doctor:  ## check machine, cluster, data, models and Java, and say what to fix
	@$(BIN)/diagcot doctor $(CHAIN)

rehearse:  ## run a two-minute job for each stage on the cluster that only checks what it will need (PATIENCE=minutes)
	@$(BIN)/diagcot rehearse $(CHAIN) $(if $(PATIENCE),--patience $(PATIENCE))

preflight: rehearse  ## another name of rehearse

status:  ## where every stage of a run stands
	@$(BIN)/diagcot status $(RUNOPT)

watch:  ## a live screen over all stages
	@$(BIN)/diagcot watch $(RUNOPT)

logs:  ## the newest log (STAGE=cot, UNIT=00003, or both)
	@$(BIN)/diagcot logs $(RUNOPT) $(if $(STAGE),--stage $(STAGE)) $(if $(UNIT),--unit $(UNIT))

failures:  ## the first traceback of each distinct failure, and what retries it
	@$(BIN)/diagcot failures $(RUNOPT)

retry:  ## submit what is not done of STAGE again (MEM=gigabytes TIME=minutes CODE=new), and what follows it
	@$(BIN)/diagcot retry $(RUNOPT) $(if $(STAGE),--stage $(STAGE)) $(if $(MEM),--mem $(MEM)) $(if $(TIME),--time $(TIME)) $(if $(CODE),--code $(CODE))

cancel:  ## stop a run; what is done is kept
	@$(BIN)/diagcot cancel $(RUNOPT)

table:  ## the metrics of a run
	@$(BIN)/diagcot table $(RUNOPT)

compare:  ## two runs side by side: A=run B=run
	@$(if $(and $(A),$(B)),,echo "make compare A=run B=run: name two runs of logs/" >&2; exit 2;) $(BIN)/diagcot compare $(A) $(B)

traces:  ## what became of the chains of thought of a run, and where the page of samples is
	@$(BIN)/diagcot traces $(RUNOPT)

data-iu: env  ## obtain the 3,955 IU-Xray reports and check their digest
	@$(BIN)/python -m diagcot.data.readers.fetch

devcluster-up:  ## start a real Slurm of several nodes on this machine
	@$(BIN)/python slurm/devcluster/devcluster.py up

devcluster-down:  ## stop it
	@$(BIN)/python slurm/devcluster/devcluster.py down

test: env  ## all tests that this machine can run, those on a real Slurm included; the slowest are listed
	@failed=0; \
	 $(PYTEST) tests/unit --cache-clear -n 2 $(if $(COVERAGE),--cov --cov-report=) || failed=1; \
	 $(PYTEST) --ignore tests/unit -m "not slurm" -n 2 --durations=20 || failed=1; \
	 $(PYTEST) --ignore tests/unit -m slurm -n $(SLURM_WORKERS) --durations=20 || failed=1; \
	 exit $$failed

test-fast: env  ## the tests that need no server, no training and no Slurm (a minute)
	@$(PYTEST) tests/unit -n 2

bench-shards: env  ## writing and reading shards beside plain loops, webdataset and MosaicML streaming (SCALE=1: 100,000 studies)
	@$(BIN)/python -u -m bench.shards $(if $(SCALE),--scale)

bench-checkpoints: env  ## how long training stands for a checkpoint, beside DeepSpeed's own saving (a minute)
	@$(BIN)/python -u -m bench.checkpoints

bench-rewards: env  ## 32 report rewards beside the released way, a tokeniser and a METEOR for each sample (about 2 minutes)
	@$(BIN)/python -u -m bench.rewards

bench-metrics: env  ## report metrics of one and five models x 3,858 reports beside pycocoevalcap (about 3 minutes)
	@$(BIN)/python -u -m bench.metrics

bench-jobs: env  ## submission, status and chains beside submitit and datatrove (under 10 minutes)
	@$(BIN)/python -u -m bench.jobs

bench-cot: env  ## chains of thought beside the released way and vLLM's load generator (about 8 minutes; SCALE=1: memory at 100,000 samples)
	@$(BIN)/python -u -m bench.cot $(if $(SCALE),--scale)

bench-sft: env  ## samples/s of fine-tuning beside HF Trainer with DeepSpeed, on the same data and settings (about 6 minutes)
	@$(BIN)/python -u -m bench.sft

bench-gpu: env  ## tokens/s and utilisation of training steps on this machine's GPUs (SHAPE=7b, 3b; tiny runs on a CPU)
	@$(BIN)/python -u -m bench.gpu --shape $(or $(SHAPE),7b)

bench-grpo: env  ## a step of GRPO, where its seconds go and what it gains, beside TRL's GRPOTrainer (under 8 minutes)
	@$(BIN)/python -u -m bench.grpo

bench-scale: env  ## all studies of MIMIC-CXR on 300 virtual nodes (about 10 minutes)
	@$(BIN)/python -u -m bench.scale

check: env  ## ruff, mypy, spelling, links of the documentation, shellcheck
	@$(BIN)/ruff format --check -q . && $(BIN)/ruff check -q . && $(BIN)/mypy
	@$(BIN)/codespell $$(git ls-files) && $(BIN)/python -m pytest tests/unit/test_docs_links.py
	@shellcheck .ci/run $$(git ls-files '*.sh')
