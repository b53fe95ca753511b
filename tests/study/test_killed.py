"""A whole study of the project's own notebooks, killed at random states: it ends with the numbers of one that was not."""

import random
import signal

import nbformat
import pandas as pd
import pytest

from tests.study.test_run import REPOSITORY, run_study

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
# A cell that kills the whole study, and its own process, once the stage that kill.txt names has left so many states.
KILL = """
import itertools, os, signal
from paradox_utils import files, states
order = files.resolve("kill.txt")
stage, count = order.read_text().split() if order.exists() else ("nobody", 0)
def complete(folder, real=states.complete, calls=itertools.count(1)):
    real(folder)
    if next(calls) == int(count):
        order.unlink()
        os.killpg(os.getpgid(int(os.environ["JPY_PARENT_PID"])), signal.SIGKILL)  # of the job, and so of the study
        os.kill(os.getpid(), signal.SIGKILL)
if f"/{stage}-" in p.out:
    states.complete = complete
"""
TABLES = ("summary", "curves", "reward_models")

pytestmark = pytest.mark.slow  # five whole studies


def project(folder):
    """A project of its own, without the analysis page, which has no part in this."""
    (folder / "configs").mkdir(parents=True)
    (folder / "notebooks").mkdir()
    (folder / "configs/tiny.yaml").write_text(CONFIG)
    for name in ("Snakefile", "fixtures"):
        (folder / name).symlink_to(REPOSITORY / name)
    for page in REPOSITORY.glob("notebooks/0[1-4]-*.ipynb"):
        notebook = nbformat.read(page, as_version=4)
        checked = next(place for place, cell in enumerate(notebook.cells) if "check_notebook" in cell.source)
        notebook.cells.insert(checked + 1, nbformat.v4.new_code_cell(KILL))
        nbformat.write(notebook, folder / "notebooks" / page.name)
    return folder


def tables(folder):
    """All that a study comes to, but for its times."""
    found = [pd.read_csv(folder / f"results/tiny/{name}.csv", float_precision="round_trip") for name in TABLES]
    return [table.drop(columns="seconds", errors="ignore").to_csv() for table in found]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The tables of a study that nobody kills."""
    folder = project(tmp_path_factory.mktemp("whole") / "project")
    code, output = run_study(folder, warm=True)
    assert code == 0, output
    return tables(folder)


def test_a_study_killed_at_random_states_ends_as_one_that_was_not(whole, tmp_path):
    folder, rng = project(tmp_path / "project"), random.Random(7)
    for stage, most in (("supervised", 11), ("reward_model", 8), ("ppo", 11)):
        (folder / "kill.txt").write_text(f"{stage} {rng.randint(1, most)}")
        code, output = run_study(folder, warm=True)
        assert code == -signal.SIGKILL, output
        assert not any(folder.glob(f"results/tiny/{stage}-*/run.json"))
    code, output = run_study(folder, warm=True)
    assert code == 0, output
    assert tables(folder) == whole
