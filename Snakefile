# Lists the runs of one study; paradox_utils/study.py plans them and paradox_utils/execute.py runs each.
#   python -m paradox_utils.execute study configs/quick.yaml     (what `make study` calls; it holds the locks and summarises)
#
# A run's id is a hash of all that makes it, so a run is stale exactly when its run.json does not exist. `update` keeps
# Snakemake from deleting a run.json that a killed scheduler's surviving job wrote in the meantime.
import sys
from pathlib import Path

from paradox_utils import config as schema, study

CONFIG = config["study"]
STUDY = schema.load_study(Path(CONFIG))
RUNS = {run.id: run for run in study.plan(STUDY, CONFIG)}
RESULT = study.results_folder(STUDY.study) + "/{id}/run.json"


rule all:
    input:
        [RESULT.format(id=id) for id in RUNS],


for stage in study.NOTEBOOKS:

    rule:
        name:
            stage
        input:
            lambda wildcards: [RESULT.format(id=id) for id in RUNS[wildcards.id].needs],
        output:
            update(RESULT.replace("{id}", "{id," + stage + "-[0-9a-f]+}")),
        params:
            python=sys.executable,
            config=CONFIG,
        threads: int(config.get("threads", 1))
        resources:
            gpu=int(int(config.get("gpus", 0)) > 0),
        shell:
            "{params.python:q} -m paradox_utils.execute run {params.config:q} {wildcards.id} --threads {threads}"
