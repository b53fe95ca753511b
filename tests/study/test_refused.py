"""Studies that cannot be planned are refused with the place, before anything runs."""
# ruff: noqa: F811 (the fixture `project` is imported)

import pytest

from paradox_utils import config, files
from paradox_utils.study import plan
from tests.study.test_run import CONFIG, planned, project, trained, write_notebook  # noqa: F401 (project is a fixture)


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
        ("evaluator: {}\nppo: {other_evaluators: [mine]}", r"other_evaluators.*keep one"),
        ("evaluator: {seed: 3}", r"evaluator: seed = 3: .*evaluator_seeds"),
        ("evaluator: {}\nevaluator_seeds: [1, 1]", r"evaluator_seeds = \[1, 1\]"),
        ("evaluator_seeds: [1]", r"evaluator_seeds = \[1\]: the study trains no evaluator"),
        ("policies: {x: {ppo: {clip: -1.0}}}", r"policies, x, ppo: clip = -1.0"),
        ("policies: {x: {ppo: 5}}", r"policies, x: ppo = 5: must be parameters of the stage"),
        ("policies: {x: {ppo: {reward_model: mine}}}", r"policies, x, ppo: reward_model: cannot be set here"),
        ("policies: {}", r"arm 1: no policy; add one under `policies`"),
        ("policies: {}\narms: [{route: dial, tasks: [relevance]}]", r"arm 1: no policy"),
        ("source: {source: semeval}", r"task = 'relevance': source = 'semeval'.*'preference'"),
        ("arms: [{route: steps, tasks: [preference]}]", r"task = 'preference': source = 'atlas'"),
        ("arms: []", r"arms: must list at least one arm"),
        ("tasks: {relevance: {evaluator: {}}}", r"the study trains no evaluator"),
        ("tasks: {factuality: {ppo: {clip: -1.0}}}", r"tasks, factuality, ppo: clip = -1.0"),
        ("arms: [{route: steps, ppo: {whitening: none, whiten_padding: true}}]", r"arm 1, ppo: whiten_padding"),
        ("arms: [{route: steps, policies: [t5]}]", r"arm 1: policies = 't5': must be one of .*atlas-t5"),
        ("arms: [{route: steps, checkpoints: [7]}]", r"arm 1: checkpoints = \[7\]: .* saves no step 7; .*\[0, 40"),
        ("arms: [{route: steps, checkpoints: {0: [0], 3: [0]}}]", r"arm 1: checkpoints: has other seeds than rm_seeds \(3\)"),
        ("arms: [{route: steps, rm_seeds: [0, 4], checkpoints: {0: [0]}}]", r"checkpoints: .* \(4\)"),
        ("arms: [{route: steps, checkpoints: {0: [7]}}]", r"saves no step 7"),
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


OWN = "arms: [{route: steps, tasks: [relevance], ppo: {reward_model: NAME}}]"


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (OWN.replace("NAME", "mine/none"), r"tiny.yaml, arm 1, ppo: reward_model = 'mine/none'"),
        (OWN.replace("NAME", "org/none"), r"tiny.yaml, arm 1, ppo: reward_model = 'org/none'.*hf download org/none"),
        (OWN.replace("NAME", "'mine/{task}'"), r"tiny.yaml, arm 1, ppo: reward_model = 'mine/{task}': .*mine/relevance"),
        (OWN.replace("NAME", "'mine/{lr}'"), r"tiny.yaml, arm 1, ppo: reward_model = 'mine/{lr}'"),
        (OWN.replace("NAME", "mine/file"), r"tiny.yaml, arm 1, ppo: reward_model = 'mine/file': is a file"),
        (OWN.replace("ppo:", "vary:").replace("NAME", "[mine/model, /none]"), r"arm 1, ppo: reward_model = '/none'"),
        ("ppo: {evaluator: mine/none}", r"arm 1, ppo: evaluator = 'mine/none'"),
        (OWN.replace("NAME", "'org/rm-{task}'"), r"reward_model = 'org/rm-{task}'.*hf download org/rm-relevance"),
        ("ppo: {evaluator: 'org/rm-{task}'}", r"evaluator = 'org/rm-{task}'.*hf download org/rm-relevance"),
        ("ppo: {value_weights: ./none}", r"arm 1, ppo: value_weights = './none'"),
        (OWN.replace("NAME", "a" * 5000), r"arm 1, ppo: reward_model = 'aaa"),
        ("policies: {p: {policy: " + "a" * 5000 + "}}", r"tiny.yaml, policies, p: policy = 'aaa"),
        ("policies: {p: {policy: mine/none, steps: 0}}", r"tiny.yaml, policies, p: policy = 'mine/none'"),
        ("policies: {p: {policy: ~/none}}", r"tiny.yaml, policies, p: policy = '~/none'"),
        ("policies: {p: {policy: 'org/{task}'}}", r"tiny.yaml, policies, p: policy = 'org/{task}'"),
        ("reward_model: {backbone: a/b/c}", r"arm 1, reward_model: backbone = 'a/b/c'"),
    ],
)
def test_a_model_that_is_not_there_is_refused_before_anything_runs(project, change, named):
    (project / "mine/model").mkdir(parents=True)
    (project / "mine/file").write_text("")
    text = ("" if "arms:" in change else "arms: [{route: steps, tasks: [relevance]}]\n") + "study: tiny\n" + change
    with pytest.raises(config.ParameterError, match=named):
        planned(project, text)


@pytest.mark.parametrize(
    "change",
    [
        OWN.replace("NAME", "mine/model"),
        OWN.replace("NAME", "'mi{lr}ne/{task}'"),
        OWN.replace("NAME", "cached/model"),
        OWN.replace("NAME", "'cached/rm-{task}'"),
        "ppo: {evaluator: 'cached/rm-{task}', value_weights: cached/model}",
        "policies: {p: {policy: gpt2}}",
        "reward_model: {backbone: org/encoder-1.0}",
    ],
)
def test_a_model_that_is_there_or_may_be_on_the_hub_is_planned(project, monkeypatch, change):
    cached = [f"hub/models--cached--{model}/snapshots/1" for model in ("model", "rm-relevance")]
    for folder in ("mine/model", "mi{lr}ne/relevance", *cached):
        (project / folder).mkdir(parents=True)
    monkeypatch.setenv("HF_HUB_CACHE", str(project / "hub"))
    text = ("" if "arms:" in change else "arms: [{route: steps, tasks: [relevance]}]\n") + "study: tiny\n" + change
    assert trained(planned(project, text))


def test_a_missing_notebook_is_named(project):
    (project / plan.NOTEBOOKS["ppo"]).unlink()
    with pytest.raises(files.FileError, match=r"04-ppo\.ipynb"):
        planned(project)
