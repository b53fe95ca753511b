"""Which checkpoints policies are trained on: matched by accuracy, stopped early, smoothed, spaced; by hand."""

import pandas as pd

from paradox_utils.analysis import matching
from paradox_utils.analysis.lottery import KINDS


def options(**accuracies):
    return {kind: pd.DataFrame(accuracies[kind.replace("-", "_")], columns=["step", "accuracy"]) for kind in KINDS}


TARGETS = {"moderate": 0.9, "top": 0.99}


def test_reward_models_are_matched_by_accuracy():
    found = matching.matched(
        options(
            short_moderate=[(50, 0.86), (60, 0.895)],
            long_moderate=[(200, 0.905), (240, 0.865)],  # 0.01 apart is equal, also in binary
            short_top=[(40, 0.97), (60, 0.985)],
            long_top=[(160, 0.99), (200, 0.99), (320, 0.999)],
        ),
        TARGETS,
    )
    assert found == {"short-moderate": 60, "short-top": 60, "long-moderate": 200, "long-top": 160}
    apart = options(short_moderate=[(50, 0.88)], long_moderate=[(200, 0.9)], short_top=[(1, 0.99)], long_top=[(2, 0.99)])
    assert matching.matched(apart, TARGETS) == {}
    far = options(short_moderate=[(50, 0.9)], long_moderate=[(200, 0.9)], short_top=[(1, 0.96)], long_top=[(2, 0.96)])
    assert matching.matched(far, TARGETS) == {}
    near = options(short_moderate=[(50, 0.9)], long_moderate=[(200, 0.9)], short_top=[(1, 0.965)], long_top=[(2, 0.965)])
    assert matching.matched(near, TARGETS)["long-top"] == 2


def test_each_training_gives_four_reward_models():
    def training(arm, seed, steps):
        return [{"task": "relevance", "rm_seed": seed, "arm": arm, "step": step, "accuracy": a} for step, a in steps.items()]

    rows = training("models-base", 1, {50: 0.86, 80: 0.87, 90: 0.865, 160: 0.994}) + training(
        "models-fast", 1, {60: 0.995, 90: 0.995}
    )
    rows += training("models-noisy", 1, {80: 0.87, 200: 0.868, 240: 0.864})
    rows += training("models-base", 2, {50: 0.86, 160: 0.994}) + training("models-fast", 2, {60: 0.95})
    rows += training("models-few", 2, {200: 0.868})
    found = matching.chosen(pd.DataFrame(rows))
    assert set(found["rm_seed"]) == {1}  # the other has no short one of its top accuracy
    steps = found.set_index("kind")["step"].to_dict()
    assert steps == {"short-moderate": 50, "short-top": 60, "long-moderate": 200, "long-top": 160}
    assert found["arm"].tolist() == ["models-base", "models-fast", "models-noisy", "models-base"]


def checkpoints(arm, accuracies, seed=1, noisy=0.0):
    named = {"task": "relevance", "rm_seed": seed, "arm": arm}
    return [named | {"step": step, "accuracy": a, "accuracy_noisy": a - noisy} for step, a in accuracies.items()]


def test_the_papers_pair_is_a_short_moderate_checkpoint_and_the_last():
    design = matching.DESIGNS["completeness"]
    steps = [design.short - 20, design.short - 10, design.short, design.short + 10, design.long, design.long + 50]

    def training(seed, *accuracies):
        return [
            {"task": "completeness", "rm_seed": seed, "arm": "models-base", "step": step, "accuracy": accuracy}
            for step, accuracy in zip(steps, accuracies, strict=True)
        ]

    moderate, top = design.moderate, design.top
    rows = training(1, 0.7, moderate - 0.01, moderate + 0.01, moderate, top, top - 0.02)  # of equals the shorter
    rows += training(2, 0.7, 0.7, 0.7, moderate, top, top)  # none short is moderate
    rows += training(3, moderate, 0.7, 0.7, 0.7, top, top - 0.03)  # the last is not top
    found = matching.pairs(pd.DataFrame(rows))
    assert list(zip(found["rm_seed"], found["kind"], found["step"], strict=True)) == [
        (1, "short-moderate", steps[1]),
        (1, "long-top", steps[-1]),
    ]


def test_early_stopping_keeps_what_the_next_two_do_not_beat():
    rows = checkpoints("models-base", {45: 0.84, 50: 0.84, 55: 0.86, 62: 0.94, 70: 0.93, 80: 0.944, 90: 0.99}, noisy=0.1)
    rows += checkpoints("models-base", {45: 0.8, 50: 0.9, 55: 0.95}, seed=2)  # risen to its last
    rows += checkpoints("models-fast", {45: 0.99, 50: 0.99}, seed=3)
    assert matching.stopped_early(pd.DataFrame(rows)).to_dict() == {("relevance", 1): 62, ("relevance", 2): 55}


def test_a_smoothed_model_is_taken_where_it_is_as_accurate():
    rows = checkpoints("models-smoothed", {160: 0.95, 200: 0.985, 240: 0.99})
    rows += checkpoints("models-smoothed", {160: 0.95, 200: 0.96}, seed=2)
    picked = pd.DataFrame({"task": "relevance", "rm_seed": [1, 2, 3], "kind": "long-top", "accuracy": 0.995})
    assert matching.smoothed(pd.DataFrame(rows), picked).to_dict() == {("relevance", 1): 200, ("relevance", 2): 200}


def test_the_first_trainings_are_taken():
    picked = pd.DataFrame({"task": ["relevance"] * 6, "rm_seed": [7, 7, 5, 5, 9, 9], "kind": ["a", "b"] * 3})
    assert matching.first(picked, 2)["rm_seed"].tolist() == [7, 7, 5, 5]


def test_ranks_are_spaced_evenly_in_the_papers_range():
    steps = {5: 0.3, 10: 0.501, 15: 0.551, 20: 0.549, 25: 0.6, 30: 0.652, 40: 0.66, 60: 0.7, 80: 0.74, 90: 0.8}
    rows = [{"task": "relevance", "rm_seed": 7, "arm": "models", "step": step, "accuracy": a} for step, a in steps.items()]
    rows += [row | {"rm_seed": 8} for row in rows if row["accuracy"] < 0.66]  # 0.3 is too low; four are left, two are alike
    rows += [row | {"arm": "steps"} for row in rows]
    found = matching.spaced(pd.DataFrame(rows).sample(frac=1, random_state=0))
    assert set(found["rm_seed"]) == {7}
    # even steps: 0.501, 0.561, 0.621, 0.680, 0.74; 0.551 and 0.549 are alike, so the earlier; 0.7 is nearer to 0.680 than 0.66
    assert found["step"].tolist() == [10, 15, 25, 60, 80]
    assert found["accuracy"].is_monotonic_increasing
    with_0_68 = [*rows, rows[0] | {"step": 50, "accuracy": 0.68}]
    assert matching.spaced(pd.DataFrame(with_0_68))["step"].tolist() == [10, 15, 25, 50, 80]


def test_an_early_and_a_late_reward_model_of_equal_accuracy():
    def training(seed, arm, found, setting=""):
        whose = {"rm_seed": seed, "arm": arm, "setting": setting, "accuracy": None}
        return [whose | {"step": step, "accuracy_noisy": accuracy} for step, accuracy in found.items()]

    rows = training(0, "steps", {0: 0.70, 9: 0.66, 20: 0.69, 60: 0.74, 120: 0.73})  # step 0 is untrained, 120 is not early
    rows += training(0, "late-models", {400: 0.70}, "48") + training(0, "late-models", {400: 0.734}, "128")
    rows += training(1, "steps", {9: 0.6, 60: 0.68}) + training(1, "late-models", {400: 0.64}, "16")  # none within 0.01
    rows += training(2, "steps", {9: 0.6, 14: 0.6}) + training(2, "late-models", {400: 0.605}, "16")
    rows += [row | {"arm": None} for row in training(0, "evaluator", {80: 0.7})]
    found = matching.early_and_late(pd.DataFrame(rows).sample(frac=1, random_state=0))
    assert found[["rm_seed", "kind", "setting", "step"]].values.tolist() == [
        [0, "early", "", 20], [0, "late", "48", 400], [2, "early", "", 9], [2, "late", "16", 400],
    ]  # fmt: skip
    assert found["accuracy"].tolist() == [0.69, 0.70, 0.6, 0.605]
