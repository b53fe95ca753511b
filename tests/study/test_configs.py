"""The project's own configs as planned, and the notebooks that their runs are given to."""
# ruff: noqa: F811 (the fixture `project` is imported)

import functools

import nbformat
import pytest

from paradox_utils import config
from paradox_utils.config import study
from paradox_utils.study import plan
from paradox_utils.study.run import summarise
from tests.study.test_run import CONFIG, REPOSITORY, SCHEMAS, planned, project, seeds_of, trained  # noqa: F401 (project is a fixture)

PLANNED = {
    "quick": 15,
    "atlas": None,
    "atlas-headroom": 9,
    "atlas-pilot": 27,
    "atlas-learning-rate": 36,
    "lottery-screen": 480,
    "lottery": 604,
    "choose-backtest": 0,
    "regime": 249,
    "regime-dials": 288,
    "qa-feedback-dev": 1,
    "semeval-t5": 18,
    "semeval-t5-pilot": 3,
} | {f"qa-feedback-t5-{size}": 64 for size in ("small", "base", "large")}
PICKS = ("people-quick", "people-semeval", "people-evouna", "people-evouna-known")  # which train reward models alone
GRADED = {*PICKS, "semeval-t5", "semeval-t5-pilot"}
PLANNED |= dict.fromkeys([*PICKS, "people-qa-feedback"], 0)


@functools.cache  # the largest take seconds
def runs_of(name):
    return plan.plan(study.load_study(REPOSITORY / "configs" / f"{name}.yaml"))


def test_every_config_is_planned_below():
    assert {path.stem for path in study.studies(REPOSITORY / "configs")} == set(PLANNED)


def test_a_study_may_train_reward_models_and_no_policy(project, capsys):
    """Its tables are written, and nothing is analysed; what is not finished is told."""
    runs = runs_of("choose-backtest")
    assert summarise("choose-backtest", runs) == 1
    assert f"{len(runs)} of {len(runs)} runs are not finished" in capsys.readouterr().out
    assert summarise("choose-backtest", []) == 0
    assert "analysis" not in capsys.readouterr().out


@pytest.mark.heavy
def test_the_atlas_study_has_six_accuracies_and_a_ppo_seed_of_its_own_in_every_trajectory(project):
    families = {}
    for run in trained(runs_of("atlas")):
        for x in run.all_labels:
            if x["rm_seed"] is not None:
                assert x["ppo_seed"] == x["rm_seed"]
                family = families.setdefault((x["arm"], x["task"], x["policy"]), {})
                family.setdefault(x["rm_seed"], set()).add((x["rm_step"], x["setting"]))
    counts = {key: ({len(rungs) for rungs in family.values()}, len(family)) for key, family in families.items()}
    assert all(
        found == ({6}, 5) for (arm, _, _), found in counts.items() if arm in ("steps", "known-paradox", "known-monotone")
    )
    assert sum(arm == "steps" for arm, _, _ in counts) == 6  # three tasks, two policies
    routes = ("dial-prejudice", "label-noise", "data-size", "model-size")
    assert all(
        counts[arm, task, "atlas-t5"] == ({6}, 3) for arm in routes for task in ("relevance", "factuality", "completeness")
    )


def test_the_pilot_shares_no_seed_with_the_study_it_plans(project):
    pilot, whole = (trained(runs_of(name)) for name in ("atlas-pilot", "atlas"))
    assert not {run.id for run in pilot} & {run.id for run in whole}
    for name in ("rm_seed", "ppo_seed"):
        assert not {run.labels[name] for run in pilot} & {x[name] for run in whole for x in run.all_labels}
    assert set(seeds_of(pilot)) == {(rm, own) for rm in (100, 101, 102) for own in (100, 101, 102)}


@pytest.mark.heavy
def test_the_lottery_takes_trainings_that_nothing_else_has(project):
    def seeds(name):
        runs = runs_of(name)
        return {run.labels["rm_seed"] for run in runs if run.labels["rm_seed"] is not None}

    for name in ("atlas", "atlas-pilot", "lottery-screen"):
        assert not seeds("lottery") & seeds(name)


def test_the_t5_has_six_reward_models_a_training_and_evaluators_that_share_no_question_with_them(project):
    runs = runs_of("semeval-t5")
    steps = {}
    for run in trained(runs):
        assert run.labels["ppo_seed"] == run.labels["rm_seed"]
        assert len({run.parameters["evaluator"], *run.parameters["other_evaluators"]}) == 3
        steps.setdefault(run.labels["rm_seed"], set()).add(run.labels["rm_step"])
    assert list(map(len, steps.values())) == [6, 6, 6]
    judges = [run for run in runs if run.labels["setting"] == "evaluator"]
    assert [(run.parameters["split"], run.parameters["seed"]) for run in judges] == [("evaluator", seed) for seed in range(3)]
    assert len({run.parameters["backbone"] for run in runs if run.stage == "reward_model"}) == 2
    pilot = runs_of("semeval-t5-pilot")
    assert {run.labels["rm_seed"] for run in trained(pilot)} == {90}
    names = ("updates", "epochs", "prompts_per_update", "samples_per_prompt", "kl_coefficient", "response_limit")
    assert len({tuple(run.parameters[name] for name in names) for run in (*trained(pilot), *trained(runs))}) == 1


@pytest.mark.parametrize("size", ["small", "base", "large"])
def test_the_papers_configs_hold_the_papers_settings(project, size):
    runs = runs_of(f"qa-feedback-t5-{size}")
    models = {r.labels["task"]: r.parameters for r in runs if r.stage == "reward_model" and r.labels["setting"] != "evaluator"}
    steps = {task: p["checkpoint_steps"] for task, p in models.items()}
    assert steps["relevance"] == sorted({2 + 150 * k for k in range(20)} | {52, 76, 80, 102})
    assert steps["factuality"] == [2 + 66 * k for k in range(20)]
    assert steps["completeness"] == [30 + 300 * k for k in range(20)]
    assert {task: p["batch_size"] for task, p in models.items()} == {"relevance": 48, "factuality": 96, "completeness": 48}
    assert {task: p["learning_rate"] for task, p in models.items()} == {
        "relevance": 5e-6,
        "factuality": 5e-6,
        "completeness": 5e-5,
    }
    assert all(p["max_length"] == 2048 and p["weight_decay"] == 0.001 for p in models.values())
    assert not any(p["global_attention"] or p["passage_bars"] for p in models.values())
    for p in (run.parameters for run in runs if run.stage == "ppo"):
        assert p["updates"] * p["prompts_per_update"] * p["samples_per_prompt"] == 80_000
        assert (p["top_k"], p["temperature"], p["kl_coefficient"], p["learning_rate"]) == (20, 0.7, 0.3, 1e-5)
        assert (p["whitening"], p["whiten_padding"], p["value_clip"]) == ("root-of-standard-deviation", True, 0.2)
        assert (p["value_head"], p["schedule"], p["adam_epsilon"]) == ("gelu", "step", 1.25e-6)
        assert (p["prompt_limit"], p["response_limit"], p["warmup_updates"]) == (1024, 200, 100)


@pytest.mark.parametrize(("name", "ppo"), PLANNED.items())
def test_the_projects_configs_are_valid(project, name, ppo):
    runs = runs_of(name)
    rows = [run for run in runs if run.stage == "ppo"]
    tasks = {run.labels["task"] for run in runs if run.stage == "reward_model"} | {run.labels["task"] for run in rows}
    assert (
        name in GRADED
        or name == "lottery"
        or tasks
        == {
            "relevance",
            "factuality",
            "completeness",
        }
    )
    if ppo:
        assert len(rows) == ppo
        assert sum(run.parameters["reward"] == "dial" for run in rows) == {
            "quick": 3,
            "atlas-headroom": 9,
            "atlas-learning-rate": 36,
            "lottery": 24,
            "regime-dials": 288,
        }.get(name, 0)


@pytest.mark.parametrize("stage", plan.NOTEBOOKS)
def test_the_projects_notebooks_take_what_a_study_injects(project, stage):
    text = CONFIG.replace("checkpoints: last}", "checkpoints: last, rm_seeds: [3], ppo_seeds: [5]}")
    run = next(run for run in planned(project, text) if run.stage == stage)
    with (REPOSITORY / plan.NOTEBOOKS[stage]).open() as source:
        cells = nbformat.read(source, 4).cells
    namespace = {}
    exec(next(cell.source for cell in cells if "parameters" in cell.metadata.get("tags", [])), namespace)
    assert config.check_notebook(config.STAGES[stage], namespace | run.parameters).model_dump() == run.parameters
