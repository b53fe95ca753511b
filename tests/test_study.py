"""The plan of a study, and whole studies of stub notebooks under the real Snakemake and papermill."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pandas as pd
import psutil
import pytest

from paradox_utils import config, store, study

REPOSITORY = Path(__file__).resolve().parents[1]

# A stub stage: notes its start and its end in markers.txt, writes what the real one would write, fails or dawdles on demand.
STUB = """
import time, json
from pathlib import Path
from paradox_utils import store
markers = store.resolve("markers.txt")
def mark(word):
    with markers.open("a") as sink:
        sink.write(f"{word} {p.out.rsplit('/', 1)[-1]}\\n")
mark("start")
time.sleep(float(store.resolve("nap.txt").read_text()))
if store.resolve("fail.txt").read_text() in p.out:
    raise RuntimeError("the stub was told\\nto fail")
run = store.start(p)
"""
WORK = {
    "supervised": '(run.folder / "model").mkdir(); run.finish({}); mark("end")',
    "feedback": '(run.folder / "feedback.jsonl").write_text("{}"); run.finish({}); mark("end")',
    "reward_model": """
for step in p.checkpoint_steps:
    (run.folder / f"checkpoint-{step}").mkdir()
run.finish({"checkpoints": [{"step": step, "accuracy": 0.5 + step / 1000} for step in p.checkpoint_steps]})
mark("end")
""",
    "ppo": """
assert store.resolve(p.policy).is_dir() and (p.reward == "dial" or store.resolve(p.reward_model).is_dir())
(run.folder / "curve.csv").write_text("update,kl,lm_performance\\n0,0.0,0.5\\n1,0.5,0.75\\n")
run.finish({"rm_accuracy": float("nan"), "lm_performance_start": 0.5, "lm_performance_final": 0.75, "updates": p.updates})
mark("end")
""",
}
SCHEMAS = {"supervised": "Supervised", "feedback": "FeedbackParameters", "reward_model": "RewardModel", "ppo": "PPO"}
ANALYSIS = """
from pathlib import Path
import pandas as pd
from paradox_utils import store
table = pd.read_csv(store.resolve(results) / "summary.csv")
store.resolve(out).mkdir(parents=True)
(store.resolve(out) / "verdict.txt").write_text(f"verdict on {(table.status == 'ok').sum()} runs")
"""
CONFIG = """
study: tiny
feedback: {prompts: 7}
tasks:
  relevance: {reward_model: {checkpoint_steps: [0, 10]}}
arms:
  - {route: steps, tasks: [relevance], checkpoints: last}
  - {route: dial, tasks: [relevance], ppo: {dial_accuracy: 0.8}}
"""


def write_notebook(path, parameters, *cells):
    tagged = nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]})
    notebook = nbformat.v4.new_notebook(cells=[tagged, *(nbformat.v4.new_code_cell(cell) for cell in cells)])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(notebook, path)


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project of stub notebooks."""
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "configs").mkdir()
    shutil.copy(REPOSITORY / "Snakefile", tmp_path)
    for stage, notebook in study.NOTEBOOKS.items():
        check = f"from paradox_utils import config\np = config.check_notebook(config.{SCHEMAS[stage]}, globals())"
        write_notebook(tmp_path / notebook, 'out = ""', check, STUB + WORK[stage])
    write_notebook(tmp_path / "notebooks/05-accuracy-and-performance.ipynb", 'results = ""\nout = ""', ANALYSIS)
    (tmp_path / "configs/tiny.yaml").write_text(CONFIG)
    (tmp_path / "nap.txt").write_text("0")
    (tmp_path / "fail.txt").write_text("nothing")
    monkeypatch.setattr(store, "ROOT", tmp_path)
    return tmp_path


def planned(project, text=CONFIG):
    (project / "configs/tiny.yaml").write_text(text)
    return study.plan(config.load_study(project / "configs/tiny.yaml"), "configs/tiny.yaml")


def ids(runs):
    return {(run.stage, run.labels["route"], run.labels["rm_step"]): run.id for run in runs}


def start_study(project, *options):
    command = [sys.executable, "-m", "paradox_utils.execute", "study", "configs/tiny.yaml", "--workers", "2", *options]
    environment = os.environ | {"PARADOX_ROOT": str(project)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, cwd=project, env=environment, start_new_session=True, **pipes)


def run_study(project, *options):
    process = start_study(project, *options)
    output, _ = process.communicate(timeout=120)
    return process.returncode, output


def markers(project):
    """[(start or end, stage), …] in the order in which the stubs noted it."""
    path = project / "markers.txt"
    lines = path.read_text().splitlines() if path.exists() else []
    return [(word, name.rsplit("-", 1)[0]) for word, name in map(str.split, lines)]


def wait_for(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.1)


# --- plans ----------------------------------------------------------------------------------------------------------


def test_plan_lists_each_run_after_those_it_needs(project):
    runs = planned(project)
    assert [run.stage for run in runs] == ["supervised", "feedback", "reward_model", "ppo", "ppo"]
    supervised, feedback, reward, learned, dial = runs
    assert feedback.needs == (supervised.id,)
    assert reward.needs == (feedback.id,)
    assert set(learned.needs) == {supervised.id, feedback.id, reward.id}
    assert set(dial.needs) == {supervised.id, feedback.id}
    assert learned.parameters["reward_model"] == f"results/tiny/.work/{reward.id}/checkpoint-10"
    assert learned.parameters["policy"] == f"results/tiny/.work/{supervised.id}/model"
    assert dial.parameters["reward"] == "dial"
    assert dial.parameters["dial_accuracy"] == 0.8
    assert feedback.parameters["prompts"] == 7
    assert dial.labels == {
        "task": "relevance",
        "policy": "atlas-t5",
        "route": "dial",
        "arm": "dial",
        "setting": "dial_accuracy=0.8",
        "rm_step": None,
        "rm_seed": 0,
        "ppo_seed": 0,
    }
    for run in runs:  # what the notebook will be given is a complete and valid set of parameters
        assert config.STAGES[run.stage].model_validate(run.parameters).model_dump() == run.parameters


def test_ids_are_stable_and_follow_what_they_depend_on(project):
    before = ids(planned(project))
    assert ids(planned(project)) == before
    ppo = ids(planned(project, CONFIG + "ppo: {kl_coefficient: 0.1}\n"))
    assert {key[0] for key in before if ppo[key] != before[key]} == {"ppo"}
    reward = ids(planned(project, CONFIG + "reward_model: {batch_size: 16}\n"))
    assert {key[:2] for key in before if reward[key] != before[key]} == {("reward_model", "steps"), ("ppo", "steps")}
    feedback = ids(planned(project, CONFIG.replace("prompts: 7", "prompts: 8")))
    assert {key[0] for key in before if feedback[key] == before[key]} == {"supervised"}
    assert ids(planned(project, CONFIG.replace("tiny", "other"))) == before  # a name is no reason to train again


def test_an_edit_changes_the_ids_of_the_stages_that_import_the_code(project, monkeypatch):
    package = project / "paradox_utils"
    package.mkdir()
    for module, text in {"__init__": "", "plots": "size = 1", "ppo": "from . import plots", "supervised": "x = 1"}.items():
        (package / f"{module}.py").write_text(text)
    monkeypatch.setattr(store, "PACKAGE", package)
    for stage, module in {"supervised": "supervised", "feedback": "plots", "reward_model": "plots", "ppo": "ppo"}.items():
        write_notebook(project / study.NOTEBOOKS[stage], "", f"from paradox_utils import {module}, plots")
    before = ids(planned(project))
    (package / "plots.py").write_text("size = 2")
    assert ids(planned(project)) == before
    (package / "ppo.py").write_text("from . import plots\nclip = 0.3")
    after = ids(planned(project))
    assert {key[0] for key in before if after[key] != before[key]} == {"ppo"}


def test_seeds_and_settings_multiply_and_equal_runs_are_one(project):
    runs = planned(
        project,
        """
study: tiny
policies: {small: {steps: 5}, large: {steps: 9}}
reward_model: {checkpoint_steps: [0, 10, 20]}
arms:
  - {route: steps, tasks: [relevance], rm_seeds: [0, 1], ppo_seeds: [0, 1]}
  - {route: label-noise, tasks: [relevance], vary: {label_noise: [0.0, 0.2]}, checkpoints: last}
""",
    )
    count = {stage: sum(run.stage == stage for run in runs) for stage in study.NOTEBOOKS}
    # Reward models: seeds 0 and 1, and one of noise 0.2 (noise 0.0 is seed 0 again), shared by both policies.
    # PPO: 2 policies x (3 checkpoints x 2 x 2 seeds + 1 of noise 0.2).
    assert count == {"supervised": 2, "feedback": 1, "reward_model": 3, "ppo": 26}
    policies = {run.id: run.labels["policy"] for run in runs}
    assert [policies[run.needs[0]] for run in runs if run.stage == "feedback"] == ["small"]  # the first of `policies`
    noisy = [run for run in runs if run.stage == "ppo" and run.labels["route"] == "label-noise"]
    assert {run.labels["setting"] for run in noisy} == {"label_noise=0.2"}
    seeded = {run.parameters["seed"] for run in runs if run.stage == "ppo"}
    assert seeded == {0, 1}
    assert noisy[0].parameters["reward"] == "model"


def test_qa_feedback_trains_an_evaluator_and_needs_no_feedback_run(project):
    runs = planned(
        project,
        """
study: tiny
source: {source: qa-feedback, data: files, evaluator_share: 0.3}
policies: {lm: {policy: some/lm, steps: 0}}
evaluator: {backbone: another/encoder}
tasks: {relevance: {evaluator: {checkpoint_steps: [5, 9]}}}
arms: [{route: steps, tasks: [relevance], checkpoints: last}]
""",
    )
    assert [run.stage for run in runs] == ["supervised", "reward_model", "reward_model", "ppo"]
    by_split = {run.parameters["split"]: run for run in runs if run.stage == "reward_model"}
    assert by_split["evaluator"].parameters["backbone"] == "another/encoder"
    assert by_split["train"].needs == ()
    assert runs[-1].parameters["evaluator"] == f"results/tiny/.work/{by_split['evaluator'].id}/checkpoint-9"
    assert set(runs[-1].needs) == {run.id for run in runs[:-1]}


def test_a_users_own_reward_models_are_not_trained(project):
    text = "study: tiny\narms: [{route: model-size, tasks: [relevance], vary: {reward_model: [mine/a, mine/b]}}]\n"
    runs = planned(project, text)
    assert [run.stage for run in runs] == ["supervised", "feedback", "ppo", "ppo"]
    assert [run.parameters["reward_model"] for run in runs[2:]] == ["mine/a", "mine/b"]
    assert [run.labels["setting"] for run in runs[2:]] == ["reward_model=mine/a", "reward_model=mine/b"]


def trained(runs):
    return [run for run in runs if run.stage == "ppo"]


def seeds_of(runs):
    return sorted((run.labels["rm_seed"], run.labels["ppo_seed"]) for run in trained(runs))


@pytest.mark.parametrize(
    "route", ["dial, ppo: {dial_accuracy: 0.8}", "steps, checkpoints: last", "label-noise, checkpoints: last"]
)
def test_nested_seeds_go_together_and_crossed_seeds_all_meet(project, route):
    text = f"study: tiny\narms: [{{route: {route}, tasks: [relevance], rm_seeds: [8, 3], ppo_seeds: [5, 6], seeds: SEEDS}}]\n"
    nested = planned(project, text.replace("SEEDS", "nested"))
    assert seeds_of(nested) == [(3, 6), (8, 5)]
    crossed = planned(project, text.replace("SEEDS", "crossed"))
    assert seeds_of(crossed) == [(3, 5), (3, 6), (8, 5), (8, 6)]
    assert {run.id for run in nested} < {run.id for run in crossed}  # the pairing is no part of a run
    by_id = {run.id: run for run in crossed}
    for run in trained(nested):  # the labels say what is done
        keys = {run.parameters["dial_seed"]} if "dial" in route else {by_id[n].parameters.get("seed") for n in run.needs}
        assert run.labels["rm_seed"] in keys
        assert run.parameters["seed"] == run.labels["ppo_seed"]


def test_every_checkpoint_of_a_nested_trajectory_has_its_ppo_seed(project):
    nested = "rm_seeds: [1, 2], ppo_seeds: [7, 9], seeds: nested"
    text = f"study: tiny\narms: [{{route: steps, tasks: [relevance], checkpoints: [0, 40], {nested}}}]"
    found = [(run.labels["rm_step"], run.labels["rm_seed"], run.labels["ppo_seed"]) for run in trained(planned(project, text))]
    assert sorted(found) == [(0, 1, 7), (0, 2, 9), (40, 1, 7), (40, 2, 9)]


def test_parameters_that_vary_together_change_together(project):
    text = """
study: tiny
arms:
  - route: dial
    tasks: [relevance]
    vary: {dial_accuracy: [0.6, 0.8, 0.9], reward_size: [0.3, 0.3, 0.02]}
    ppo: {scale_matched: true}
"""
    runs = trained(planned(project, text))
    assert [(r.parameters["dial_accuracy"], r.parameters["reward_size"]) for r in runs] == [(0.6, 0.3), (0.8, 0.3), (0.9, 0.02)]
    assert runs[2].labels["setting"] == "dial_accuracy=0.9, reward_size=0.02, scale_matched=True"
    varied = "vary: {feedback_limit: [20, 40], seed: [1, 2]}"
    text = f"study: tiny\narms: [{{route: data-size, tasks: [relevance], checkpoints: last, {varied}}}]"
    with pytest.raises(config.ParameterError, match=r"vary: seed = 1: cannot be set here"):
        planned(project, text)
    runs = planned(project, text.replace("seed: [1, 2]", "batch_size: [4, 8]"))
    models = [run.parameters for run in runs if run.stage == "reward_model"]
    assert [(p["feedback_limit"], p["batch_size"]) for p in models] == [(20, 4), (40, 8)]
    assert len(trained(runs)) == 2


SHARED = """
study: tiny
tasks:
  relevance: {reward_model: {checkpoint_steps: [0, 10]}}
arms:
  - {route: steps, tasks: [relevance]}
  - {name: base, route: steps, tasks: [relevance], checkpoints: last}
  - {name: base, route: steps, tasks: [relevance], checkpoints: [10]}
  - {name: low, route: steps, tasks: [relevance], checkpoints: last, ppo: {kl_coefficient: 0.01}}
"""


def test_a_run_that_several_arms_ask_for_is_planned_once_with_the_labels_of_each(project):
    runs = trained(planned(project, SHARED))
    assert [[(x["arm"], x["rm_step"], x["setting"]) for x in run.all_labels] for run in runs] == [
        [("steps", 0, "")],
        [("steps", 10, ""), ("base", 10, "")],  # asked for twice under the same labels: once
        [("low", 10, "kl_coefficient=0.01")],
    ]
    assert len({run.id for run in runs}) == 3


def test_the_name_of_an_arm_is_the_route_unless_it_has_one_and_is_no_reason_to_train_again(project):
    text = "study: tiny\narms: [{NAME route: dial, tasks: [relevance], ppo: {dial_accuracy: 0.8}}]\n"
    plain, named = (planned(project, text.replace("NAME", name)) for name in ("", "name: dial-2,"))
    assert [run.id for run in plain] == [run.id for run in named]
    assert (plain[-1].labels["arm"], named[-1].labels["arm"], named[-1].labels["route"]) == ("dial", "dial-2", "dial")
    assert {run.labels["arm"] for run in named if run.stage in ("supervised", "feedback")} == {None}


EXACT = """
study: tiny
arms:
  - {name: exact, route: dial, tasks: [completeness], rm_seeds: [0, 1, 2], ppo_seeds: [0, 1, 2], seeds: nested}
  - {route: dial, tasks: [completeness], ppo: {scale_matched: true}, vary: {dial_accuracy: [1.0, 0.9]}, rm_seeds: [5]}
  - {name: noisy, route: dial, tasks: [completeness], ppo: {dial_kind: noise}, rm_seeds: [0, 6], ppo_seeds: [1]}
"""


def test_dials_that_never_err_share_a_run_whatever_their_kind_and_key(project):
    runs = {(r.parameters["dial_accuracy"], r.parameters["seed"]): r for r in trained(planned(project, EXACT))}
    asked = {key: [(x["arm"], x["rm_seed"]) for x in run.all_labels] for key, run in runs.items()}
    assert asked == {
        (1.0, 0): [("exact", 0), ("dial", 5)],
        (1.0, 1): [("exact", 1), ("noisy", 0), ("noisy", 6)],
        (1.0, 2): [("exact", 2)],
        (0.9, 0): [("dial", 5)],  # errs, so that its key and scale matter
    }
    assert (runs[0.9, 0].parameters["dial_seed"], runs[0.9, 0].parameters["scale_matched"]) == (5, True)
    sized = trained(planned(project, EXACT.replace("dial_kind: noise", "reward_size: 0.1")))
    assert len(sized) == 5  # a reward of another size is another run


@pytest.mark.parametrize("route", ["constant", "length"])
def test_a_control_without_an_accuracy_trains_no_reward_model(project, route):
    text = f"study: tiny\narms: [{{route: {route}, tasks: [relevance], ppo_seeds: [4, 5]OPTION}}]\n"
    runs = planned(project, text.replace("OPTION", ""))
    assert [run.stage for run in runs] == ["supervised", "feedback", "ppo", "ppo"]
    assert {(r.parameters["reward"], r.labels["route"], r.labels["rm_seed"], r.labels["rm_step"]) for r in runs[2:]} == {
        (route, route, None, None)
    }
    assert [run.parameters["seed"] for run in runs[2:]] == [4, 5]
    assert set(runs[2].needs) == {runs[0].id, runs[1].id}
    sizes = planned(project, text.replace("OPTION", ", vary: {reward_size: [0.1, 0.2]}"))
    assert len(trained(sizes)) == 4
    for option, message in (
        ("rm_seeds: [1]", "rm_seeds: has no effect, as this arm trains no reward model"),
        ("checkpoints: last", "checkpoints: has no effect"),
        ("reward_model: {batch_size: 8}", "reward_model: has no effect"),
        ("vary: {label_noise: [0.1]}", f"route '{route}' varies a parameter of `ppo`; 'label_noise' is not one"),
    ):
        with pytest.raises(config.ParameterError, match=message):
            planned(project, text.replace("OPTION", f", {option}"))
    with pytest.raises(config.ParameterError, match=f"reward = '{route}': a control needs the labels"):
        planned(project, text.replace("OPTION", "") + "source: {source: qa-feedback}\nevaluator: {}\n")


PLANNED = {"quick": 15, "atlas": None, "atlas-headroom": 9, "atlas-pilot": 27, "qa-feedback-dev": 1} | {
    f"qa-feedback-t5-{size}": 64 for size in ("small", "base", "large")
}


def test_every_config_is_planned_below():
    assert {path.stem for path in (REPOSITORY / "configs").glob("*.yaml")} == set(PLANNED)


def test_the_atlas_study_has_six_accuracies_and_a_ppo_seed_of_its_own_in_every_trajectory(project):
    families = {}
    for run in trained(study.plan(config.load_study(REPOSITORY / "configs/atlas.yaml"))):
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
    pilot, whole = (
        trained(study.plan(config.load_study(REPOSITORY / "configs" / f"{name}.yaml"))) for name in ("atlas-pilot", "atlas")
    )
    assert not {run.id for run in pilot} & {run.id for run in whole}
    for name in ("rm_seed", "ppo_seed"):
        assert not {run.labels[name] for run in pilot} & {x[name] for run in whole for x in run.all_labels}
    assert set(seeds_of(pilot)) == {(rm, own) for rm in (100, 101, 102) for own in (100, 101, 102)}


@pytest.mark.parametrize("size", ["small", "base", "large"])
def test_the_papers_configs_hold_the_papers_settings(project, size):
    runs = study.plan(config.load_study(REPOSITORY / "configs" / f"qa-feedback-t5-{size}.yaml"))
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
    assert all(p["max_length"] == 2048 and p["weight_decay"] == 0.001 and not p["global_attention"] for p in models.values())
    for p in (run.parameters for run in runs if run.stage == "ppo"):
        assert p["updates"] * p["prompts_per_update"] * p["samples_per_prompt"] == 80_000
        assert (p["top_k"], p["temperature"], p["kl_coefficient"], p["learning_rate"]) == (20, 0.7, 0.3, 1e-5)
        assert (p["whitening"], p["whiten_padding"], p["value_clip"]) == ("root-of-standard-deviation", True, 0.2)
        assert (p["prompt_limit"], p["response_limit"], p["warmup_updates"]) == (1024, 200, 100)


@pytest.mark.parametrize(("name", "ppo"), PLANNED.items())
def test_the_projects_configs_are_valid(project, name, ppo):
    path = REPOSITORY / "configs" / f"{name}.yaml"
    runs = study.plan(config.load_study(path))
    rows = [run for run in runs if run.stage == "ppo"]
    assert {run.labels["task"] for run in runs if run.stage == "reward_model"} | {run.labels["task"] for run in rows} == {
        "relevance",
        "factuality",
        "completeness",
    }
    if ppo:
        assert len(rows) == ppo
        assert sum(run.parameters["reward"] == "dial" for run in rows) == {"quick": 3, "atlas-headroom": 9}.get(name, 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("ppo: {kl_coeficient: 0.1}", r"tiny.yaml, ppo: unknown parameter 'kl_coeficient' = 0.1; .*'kl_coefficient'"),
        ("ppo: {updates: many}", r"tiny.yaml, ppo: updates = 'many'"),
        ("ppo: {policy: somewhere}", r"policy = 'somewhere': cannot be set here; name it under `policies`"),
        ("reward_model: {seed: 3}", r"seed = 3: cannot be set here; list it in the arm's `rm_seeds`"),
        ("source: {out: here}", r"source: out = 'here': cannot be set here"),
        ("source: {source: qa-feedback}", r"arm 1, ppo: evaluator = 'oracle'"),
        ("evaluator: {}\nppo: {evaluator: mine}", r"keep one"),
        ("policies: {}", r"arm 1: no policy; add one under `policies`"),
        ("arms: []", r"arms: must list at least one arm"),
        ("tasks: {relevance: {evaluator: {}}}", r"the study trains no evaluator"),
        ("tasks: {factuality: {ppo: {clip: -1.0}}}", r"tasks, factuality, ppo: clip = -1.0"),
        ("arms: [{route: steps, ppo: {whitening: none, whiten_padding: true}}]", r"arm 1, ppo: whiten_padding"),
        ("arms: [{route: steps, policies: [t5]}]", r"arm 1: policies = 't5': must be one of .*atlas-t5"),
        ("arms: [{route: steps, checkpoints: [7]}]", r"arm 1: checkpoints = \[7\]: .* saves no step 7; .*\[0, 40"),
        ("arms: [{route: steps, ppo_seeds: [1, 1]}]", r"ppo_seeds = \[1, 1\]: must hold at least one value, each once"),
        ("arms: [{route: steps, vary: {label_noise: []}}]", r"vary: label_noise = \[\]"),
        ("arms: [{route: steps, vary: {label_noize: [0.1]}}]", r"vary: unknown parameter 'label_noize'.*'label_noise'"),
        ("arms: [{route: steps, vary: {label_noise: [1.5]}}]", r"vary: label_noise = 1.5"),
        ("arms: [{route: steps, vary: {kl_coefficient: [0.1]}}]", r"route 'steps' varies a parameter of `reward_model`"),
        ("arms: [{route: steps, vary: {prompt_limit: [8]}}]", r"concerns every stage"),
        ("arms: [{route: steps, vary: {label_noise: [0.1, 0.2], batch_size: [8]}}]", r"change together need equally many"),
        ("arms: [{route: dial, seeds: nested, rm_seeds: [1, 2], ppo_seeds: [1]}]", r"pairs 2 rm_seeds with 1 ppo_seeds"),
        ("arms: [{route: dial, checkpoints: last}]", r"arm 1: checkpoints: has no effect"),
    ],
)
def test_impossible_studies_are_refused_with_the_place(project, change, message):
    with pytest.raises(config.ParameterError, match=message):
        planned(project, ("" if "arms:" in change else "arms: [{route: steps}]\n") + "study: tiny\n" + change)


@pytest.mark.parametrize("stage", study.NOTEBOOKS)
def test_the_projects_notebooks_take_what_a_study_injects(project, stage):
    text = CONFIG.replace("checkpoints: last}", "checkpoints: last, rm_seeds: [3], ppo_seeds: [5]}")
    run = next(run for run in planned(project, text) if run.stage == stage)
    with (REPOSITORY / study.NOTEBOOKS[stage]).open() as source:
        cells = nbformat.read(source, 4).cells
    namespace = {}
    exec(next(cell.source for cell in cells if "parameters" in cell.metadata.get("tags", [])), namespace)
    assert config.check_notebook(config.STAGES[stage], namespace | run.parameters).model_dump() == run.parameters


def test_a_missing_notebook_is_named(project):
    (project / study.NOTEBOOKS["ppo"]).unlink()
    with pytest.raises(store.StoreError, match=r"04-ppo\.ipynb"):
        planned(project)


# --- whole studies --------------------------------------------------------------------------------------------------


def test_one_failure_leaves_the_others_running_and_the_next_call_tries_again(project):
    (project / "fail.txt").write_text("reward_model")
    code, output = run_study(project)
    assert code == 1, output
    assert "failed: reward_model relevance" in output
    assert "RuntimeError: the stub was told to fail" in output  # one line, no traceback
    assert "Traceback" not in output
    results = project / "results/tiny"
    rows = pd.read_csv(results / "summary.csv").set_index("route")
    assert rows.loc["dial", "status"] == "ok"
    assert rows.loc["dial", "lm_performance_final"] == 0.75
    assert rows.loc["steps", "status"] == "blocked"
    assert "reward_model-" in rows.loc["steps", "reason"]
    assert "verdict on 1 runs" in output
    finished = {path.parent.name.rsplit("-", 1)[0] for path in results.glob("*/run.json")}
    assert finished == {"supervised", "feedback", "ppo"}
    assert not list(results.glob("reward_model-*"))  # no half-filled folder
    assert list(results.glob(".work/reward_model-*/notebook.ipynb"))  # but the failed notebook can be read

    (project / "fail.txt").write_text("nothing")
    code, output = run_study(project)
    assert code == 0, output
    assert "2 of 5 runs to do" in output
    assert "LM performance 0.50 → 0.75" in output
    assert "verdict on 2 runs" in output
    assert sorted(stage for word, stage in markers(project) if word == "end") == sorted(
        ["supervised", "feedback", "reward_model", "ppo", "ppo"]
    )
    rows = pd.read_csv(results / "summary.csv", dtype=str)
    assert rows["status"].tolist() == ["ok", "ok"]
    assert rows["rm_step"].tolist()[0] == "10"
    assert list(pd.read_csv(results / "curves.csv").columns) == ["id", "update", "kl", "lm_performance"]
    record = json.loads((results / rows["id"][0] / "run.json").read_text())
    assert record["results"]["rm_accuracy"] is None
    assert record["needs"]
    assert record["versions"]["numpy"]
    assert not any(str(project) in path.read_text() for path in results.glob("[!.]*/*.*"))  # no path of this machine

    before = (project / "markers.txt").read_text()
    code, output = run_study(project)
    assert code == 0
    assert "nothing to do, all 5 runs are finished" in output
    assert "verdict on 2 runs" in output
    assert "started" not in output
    assert (project / "markers.txt").read_text() == before


DIAL_ONLY = "study: tiny\narms: [{route: dial, tasks: [relevance]}]\n"


@pytest.mark.parametrize("whole_group", [True, False])
def test_a_killed_study_continues_and_completes_each_run_once(project, whole_group):
    (project / "configs/tiny.yaml").write_text(DIAL_ONLY)
    (project / "nap.txt").write_text("6")
    process = start_study(project)
    wait_for(lambda: ("start", "supervised") in markers(project))
    if whole_group:
        os.killpg(process.pid, signal.SIGKILL)  # the kernel has a session of its own: it notices and ends itself
    else:
        code, output = run_study(project)
        assert code == 1
        schedulers = [process.pid, *(child.pid for child in psutil.Process(process.pid).children())]
        assert any(f"process {pid} is already running it" in output for pid in schedulers[1:])
        for pid in schedulers:
            os.kill(pid, signal.SIGKILL)
    process.wait()  # its output pipe stays open as long as the job that outlives it
    (project / "nap.txt").write_text("0")
    code, output = run_study(project)
    assert code == 0, output
    assert ("waits" in output) is not whole_group
    assert [stage for word, stage in markers(project) if word == "end"] == ["supervised", "feedback", "ppo"]
    starts = [stage for word, stage in markers(project) if word == "start"]
    assert starts == ["supervised"] * (2 if whole_group else 1) + ["feedback", "ppo"]
    assert pd.read_csv(project / "results/tiny/summary.csv")["status"].tolist() == ["ok"]
