# Lists the runs of one study; paradox_utils/study/plan.py plans them and paradox_utils/study/job.py runs each.
#   python -m paradox_utils.study run configs/quick.yaml     (what `make study` calls; it holds the locks and summarises)
#
# A run's id is a hash of all that makes it, so a run is stale exactly when its run.json does not exist. `update` keeps
# Snakemake from deleting a run.json that a killed scheduler's surviving job wrote in the meantime.
import sys
from pathlib import Path

from paradox_utils.config.study import load_study
from paradox_utils.study import machine, plan

CONFIG = config["study"]
STUDY = load_study(Path(CONFIG))
RUNS = {run.id: run for run in plan.plan(STUDY, CONFIG)}
MEMORY = machine.memory(STUDY.study, list(RUNS.values()))
THREADS, GPUS, RUNS_PER_GPU = int(config.get("threads", 1)), int(config.get("gpus", 0)), config.get("runs_per_gpu")
MOST_GPUS = float("inf") if GPUS and not RUNS_PER_GPU else GPUS  # what a cluster has, its own scheduler knows
RESULT = plan.results_folder(STUDY.study) + "/{id}/run.json"


rule all:
    input:
        [RESULT.format(id=id) for id in RUNS],


for stage in plan.NOTEBOOKS:

    rule:
        name:
            stage
        input:
            lambda wildcards: [RESULT.format(id=id) for id in RUNS[wildcards.id].needs],
        output:
            update(RESULT.replace("{id}", "{id," + stage + "-[0-9a-f]+}")),
        params:
            python=lambda wildcards: sys.executable,  # of a function's answer Snakemake fills in no braces
            config=lambda wildcards: CONFIG,
            gpus=f" --gpus {GPUS} --runs-per-gpu {RUNS_PER_GPU}" if RUNS_PER_GPU else "",  # a cluster gives each job its own
        threads: lambda wildcards: THREADS * RUNS[wildcards.id].parameters.get("processes", 1)
        resources:
            mem_mb=lambda wildcards: MEMORY[wildcards.id],
            gpu=lambda wildcards: min(MOST_GPUS, plan.gpus(RUNS[wildcards.id])),
        shell:
            "{params.python:q} -m paradox_utils.study job {params.config:q} {wildcards.id} --threads {THREADS}{params.gpus}"
