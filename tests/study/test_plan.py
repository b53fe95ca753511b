"""The plan of a study: what each run needs, its id and labels."""
# ruff: noqa: F811 (the fixture `project` is imported)

import pytest

from paradox_utils import config
from paradox_utils.study import plan
from tests.study.test_run import CONFIG, planned, project, seeds_of, trained, write_notebook  # noqa: F401 (project is a fixture)


def ids(runs):
    return {(run.stage, run.labels["route"], run.labels["rm_step"]): run.id for run in runs}


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
    count = {stage: sum(run.stage == stage for run in runs) for stage in plan.NOTEBOOKS}
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


def test_a_policy_may_have_ppo_parameters_of_its_own_which_an_arm_goes_before(project):
    runs = planned(
        project,
        """
study: tiny
policies: {small: {}, large: {steps: 9, ppo: {learning_rate: 2e-4, clip: 0.1}}}
ppo: {learning_rate: 5e-4, updates: 3}
tasks: {relevance: {ppo: {learning_rate: 1e-3}}}
arms:
  - {route: constant, tasks: [relevance]}
  - {route: length, tasks: [relevance], ppo: {learning_rate: 3e-3}}
""",
    )
    names = ("learning_rate", "clip", "updates")
    found = {(r.labels["policy"], r.labels["route"]): [r.parameters[name] for name in names] for r in runs if r.stage == "ppo"}
    assert found == {
        ("small", "constant"): [1e-3, 0.2, 3],
        ("large", "constant"): [2e-4, 0.1, 3],
        ("small", "length"): [3e-3, 0.2, 3],
        ("large", "length"): [3e-3, 0.1, 3],
    }
    assert {r.parameters["steps"] for r in runs if r.stage == "supervised"} == {1200, 9}


def test_a_study_of_what_people_graded_trains_reward_models_alone(project):
    text = """
study: tiny
source: {source: semeval}
policies: {}
arms:
  - {route: steps, tasks: [preference], checkpoints: [], rm_seeds: [0, 1]}
  - {name: folds, route: steps, tasks: [preference], checkpoints: [], reward_model: {fold: 2}}
"""
    runs = planned(project, text)
    assert [(run.stage, run.labels["rm_seed"], run.parameters["fold"]) for run in runs] == [
        ("reward_model", 0, 0), ("reward_model", 1, 0), ("reward_model", 0, 2),
    ]  # fmt: skip
    assert all((run.labels["policy"], run.needs, run.parameters["data"]) == (None, (), "fixtures/semeval") for run in runs)


def test_qa_feedback_trains_an_evaluator_and_needs_no_feedback_run(project):
    text = """
study: tiny
source: {source: qa-feedback, data: files, evaluator_share: 0.3}
policies: {lm: {policy: some/lm, steps: 0}}
evaluator: {backbone: another/encoder}
tasks: {relevance: {evaluator: {checkpoint_steps: [5, 9]}}}
arms: [{route: steps, tasks: [relevance], checkpoints: last}]
"""
    runs = planned(project, text)
    assert [run.stage for run in runs] == ["supervised", "reward_model", "reward_model", "ppo"]
    by_split = {run.parameters["split"]: run for run in runs if run.stage == "reward_model"}
    assert by_split["evaluator"].parameters["backbone"] == "another/encoder"
    assert by_split["train"].needs == ()
    assert runs[-1].parameters["evaluator"] == f"results/tiny/.work/{by_split['evaluator'].id}/checkpoint-9"
    assert set(runs[-1].needs) == {run.id for run in runs[:-1]}
    unjudged = planned(project, text.replace("checkpoints: last", "checkpoints: []"))  # no PPO run, so nothing to score
    assert [run.stage for run in unjudged] == ["supervised", "reward_model"]


def test_several_evaluators_are_trainings_with_seeds_of_their_own(project):
    text = """
study: tiny
source: {source: semeval, evaluator_share: 0.3}
policies: {lm: {policy: some/lm}}
evaluator: {backbone: another/encoder, checkpoint_steps: [9]}
evaluator_seeds: [0, 4]
arms: [{route: steps, tasks: [preference], checkpoints: last}]
"""
    runs = planned(project, text)
    judges = {run.parameters["seed"]: run for run in runs if run.labels["setting"] == "evaluator"}
    assert [(seed, run.labels["rm_seed"], run.parameters["split"]) for seed, run in judges.items()] == [
        (0, 0, "evaluator"), (4, 4, "evaluator"),
    ]  # fmt: skip
    folders = [f"results/tiny/.work/{judges[seed].id}/checkpoint-9" for seed in (0, 4)]
    assert [runs[-1].parameters["evaluator"], *runs[-1].parameters["other_evaluators"]] == folders
    assert {run.id for run in judges.values()} < set(runs[-1].needs)
    (alone,) = [run for run in planned(project, text.replace("[0, 4]", "[0]")) if run.labels["setting"] == "evaluator"]
    assert (alone.id, alone.labels["rm_seed"]) == (judges[0].id, None)


def test_a_users_own_reward_models_are_not_trained(project):
    for name in "ab":
        (project / "mine" / name).mkdir(parents=True)
    text = "study: tiny\narms: [{route: model-size, tasks: [relevance], vary: {reward_model: [mine/a, mine/b]}}]\n"
    runs = planned(project, text)
    assert [run.stage for run in runs] == ["supervised", "feedback", "ppo", "ppo"]
    assert [run.parameters["reward_model"] for run in runs[2:]] == ["mine/a", "mine/b"]
    assert [run.labels["setting"] for run in runs[2:]] == ["reward_model=mine/a", "reward_model=mine/b"]


BESIDE = """
study: tiny
tasks: {relevance: {reward_model: {checkpoint_steps: [0, 10]}}}
arms: [{route: steps, tasks: [relevance], rm_seeds: [3, 1003], others: 2, ppo: {others: minimum}}]
"""


def test_further_trainings_of_each_reward_model_stand_beside_it(project):
    runs = planned(project, BESIDE)
    models = {run.parameters["seed"]: run for run in runs if run.stage == "reward_model"}
    assert sorted(models) == [3, 1003, 2003, 3003]  # two of them stand beside both
    assert {run.labels["rm_seed"] for run in models.values()} == set(models)
    assert len(trained(runs)) == 4
    for run in trained(runs):
        step, seed = run.labels["rm_step"], run.labels["rm_seed"]
        beside = [models[seed + 1000], models[seed + 2000]]
        paths = [f"results/tiny/.work/{model.id}/checkpoint-{step}" for model in (models[seed], *beside)]
        assert [run.parameters["reward_model"], *run.parameters["other_reward_models"]] == paths
        assert run.parameters["others"] == "minimum"
        assert {model.id for model in (models[seed], *beside)} < set(run.needs)
        assert config.PPO.model_validate(run.parameters).model_dump() == run.parameters
        assert run.labels["setting"] == "other_reward_models=2, others=minimum"
    plain = planned(project, BESIDE.replace("others: 2, ppo: {others: minimum}", "others: 0"))
    assert [run.parameters["other_reward_models"] for run in trained(plain)] == [[]] * 4
    assert {run.id for run in plain if run.stage == "reward_model"} < {model.id for model in models.values()}


def test_the_id_of_a_run_follows_the_models_beside_it(project):
    def found(text):
        return {(run.labels["rm_seed"], run.labels["rm_step"]): run.id for run in trained(planned(project, text))}

    before = found(BESIDE)
    assert found(BESIDE) == before
    assert found(BESIDE.replace("tiny", "other")) == before
    for was, now in (("others: 2", "others: 1"), ("others: minimum", "others: watch"), ("[0, 10]}", "[0, 10], batch_size: 8}")):
        assert was in BESIDE
        assert not set(found(BESIDE.replace(was, now)).values()) & set(before.values())


@pytest.mark.parametrize(
    ("arm", "named"),
    [
        ("route: dial, others: 1", "arm 1: others: has no effect"),
        ("route: constant, others: 1", "arm 1: others: has no effect"),
        ("route: steps, others: 1, ppo: {reward_model: mine}", "arm 1: others: has no effect"),
        ("route: steps, others: 1, ppo: {other_reward_models: [mine]}", "arm 1: others = 1: .*other_reward_models"),
        ("route: steps, ppo: {others: minimum}", "arm 1, ppo: others = 'minimum': has no effect"),
        ("route: steps, ppo: {other_reward_models: [mine, no]}", "arm 1, ppo: other_reward_models = 'no': .*hf download no"),
        ("route: steps, ppo: {other_reward_models: ['org/{task}']}", "= 'org/{task}': .*hf download org/relevance"),
        ("route: dial, ppo: {other_reward_models: [mine]}", "arm 1, ppo: other_reward_models: has no effect"),
        ("route: steps, others: 1, rm_seeds: [4294967000]", "arm 1, reward_model: seed = 4294968000"),
    ],
)
def test_models_beside_a_reward_that_cannot_be_are_refused(project, arm, named):
    (project / "mine").mkdir()
    with pytest.raises(config.ParameterError, match=named):
        planned(project, f"study: tiny\narms: [{{{arm}, tasks: [relevance]}}]")


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


def test_each_training_may_have_checkpoints_of_its_own(project):
    text = "study: tiny\narms: [{route: steps, tasks: [relevance], rm_seeds: [1, 2], checkpoints: {1: [40], 2: [0, 40]}}]"
    found = [(run.labels["rm_seed"], run.labels["rm_step"]) for run in trained(planned(project, text))]
    assert sorted(found) == [(1, 40), (2, 0), (2, 40)]


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
