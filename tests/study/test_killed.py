"""A whole study of the project's own notebooks, killed at random moments: it ends with the numbers of one that was not."""

import os
import random
import signal
import time

import pandas as pd
import pytest

from tests.study.test_run import REPOSITORY, run_study, start_study, wait_for

CONFIG = """
study: tiny
source: {source: atlas, train_questions: 300, validation_questions: 10, test_questions: 10}
policies:
  atlas-t5: {policy: atlas-t5, steps: 60, resume_every: 5}
feedback: {prompts: 60}
reward_model: {checkpoint_steps: [5, 15], resume_every: 2}
ppo: {updates: 12, prompts_per_update: 4, evaluate_every: 3, resume_every: 1}
arms:
  - {route: steps, tasks: [relevance], checkpoints: last}
  - {route: dial, tasks: [relevance]}
"""
TABLES = ("summary", "curves", "reward_models")


def project(folder):
    """A project of its own, without the analysis page, which has no part in this."""
    (folder / "configs").mkdir(parents=True)
    (folder / "notebooks").mkdir()
    (folder / "configs/tiny.yaml").write_text(CONFIG)
    for name in ("Snakefile", "fixtures", *(f"notebooks/{page.name}" for page in REPOSITORY.glob("notebooks/0[1-4]-*.ipynb"))):
        (folder / name).symlink_to(REPOSITORY / name)
    return folder


def tables(folder):
    """All that a study comes to, but for its times."""
    found = [pd.read_csv(folder / f"results/tiny/{name}.csv", float_precision="round_trip") for name in TABLES]
    return [table.drop(columns="seconds", errors="ignore").to_csv() for table in found]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The tables of a study that nobody kills."""
    folder = project(tmp_path_factory.mktemp("whole") / "project")
    code, output = run_study(folder)
    assert code == 0, output
    return tables(folder)


def test_a_study_killed_at_random_moments_ends_as_one_that_was_not(whole, tmp_path):
    folder, rng, kept = project(tmp_path / "project"), random.Random(7), []
    for state in ("supervised-*/resume/checkpoint-*", "reward_model-*/resume/checkpoint-*", "ppo-*/resume/state-*"):
        process = start_study(folder)
        wait_for(lambda state=state: any(folder.glob(f"results/tiny/.work/{state}/complete.json")), seconds=120)
        time.sleep(rng.uniform(0, 1))
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        kept.append(not any(folder.glob(f"results/tiny/{state.split('/')[0]}/run.json")))
    assert any(kept)  # at least one was killed on its way, not after its end
    code, output = run_study(folder)
    assert code == 0, output
    assert tables(folder) == whole
