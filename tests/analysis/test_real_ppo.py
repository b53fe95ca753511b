"""PPO on answers that people graded, by the rule written before its runs: by hand, and on worlds whose truth is known."""

import itertools

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from scipy import stats

from paradox_utils.analysis import gap, outcomes, real_ppo
from paradox_utils.analysis.tables import KINDS, AnalysisError
from paradox_utils.figures import real_ppo as draw
from tests.worlds import flat, inverted_u, nested, rising

BAD, GOOD = -0.4, 0.6  # where the made-up evaluator puts answers of people
BEFORE = 0.25  # of the policy, on their scale


def scaled(score):
    """A score on the scale of people as the evaluator gives it."""
    return BAD + (GOOD - BAD) * score


def tables(curve, noise=0.01, trainings=3, seed=0):
    """The tables of a study whose test scores on the scale of people are 2 · ``curve(accuracy)`` − 1; early and late too."""
    made = nested(curve, rm_seeds=trainings, tasks=("preference",), noise=noise, seed=seed)
    late = made[made["rm_step"] == 80].assign(arm="late", rm_step=400, setting="feedback_limit=48")
    late = late.assign(id="late-" + late["id"], lm_performance_final=late["lm_performance_final"] - 0.1)
    made = pd.concat([made, made[made["rm_step"] == 80].assign(arm="early"), late], ignore_index=True)
    final = scaled(2 * made["lm_performance_final"] - 1)
    made = made.assign(rm_accuracy=np.nan, lm_performance_final=final, lm_performance_start=scaled(BEFORE))
    for name, start, end in (("greedy_length", 20, 30), ("greedy_repetition", 0.1, 0.2), ("distinct_2", 0.9, 0.8)):
        made[[f"{name}_start", f"{name}_final"]] = start, end
    made[["rouge_l_start", "rouge_l_final", "unfinished_start", "unfinished_final"]] = 0.1, 0.12, 0.0, 0.5
    made["kl_final"] = np.where(made["arm"] == "late", 5.0, 2.0)
    runs = made.drop_duplicates("id")
    update = pd.DataFrame({"update": [0, 4, 8], "kl": [0.0, 1.0, 2.0], "reward_mean": [0.0, 0.1, 0.3]})
    curves = pd.concat(
        [update.assign(id=run.id, lm_performance=[np.nan, 0, run.lm_performance_final]) for run in runs.itertuples()]
    )
    said = [
        {"id": run.id, "question": "q", "kind": kind, "reward": reward, "evaluator": evaluator, "words": 3}
        for run in runs.itertuples()
        for kind, reward, evaluator in zip(KINDS, (0.3, -1, -0.5, 1.5, 0), (GOOD, BAD, -1, 0.1, 0.5), strict=True)
    ]
    answers = [
        {"id": run.id, "when": when, "question": question, "text": f"{when} {run.id} {question}", "ends": 3, "paid": 0.1}
        | {"judged": scaled(0.5)}
        for run, when, question in itertools.product(runs.itertuples(), ("start", "final"), "zyxw")
    ]
    return {"summary": made, "curves": curves, "gap": pd.DataFrame(said), "responses": pd.DataFrame(answers)}


def written(folder, made):
    folder.mkdir(exist_ok=True)
    for name, table in made.items():
        table.to_csv(folder / f"{name}.csv", index=False)
    return folder


def loaded(folder, *args, **options):
    return real_ppo.load(written(folder, tables(*args, **options)))


# --- by hand ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def by_hand():
    """Three trainings of three ranks, the first the least accurate: test scores, and scores on validation questions."""
    test = [[0.4, 0.9, 0.5], [0.3, 0.6, 0.4], [0.2, 0.5, 0.5]]
    validation = [[0.1, 0.8, 0.5], [0.9, 0.3, 0.4], [0.2, 0.6, 0.3]]
    rows = [
        {"rm_seed": seed, "ppo_seed": seed, "rm_step": step, "setting": "", "rm_accuracy": np.nan, "arm": "steps"}
        | {"rm_accuracy_noisy": 0.5 + step / 10, "accuracy": 0.5 + step / 10, "lm_performance_final": test[seed][step]}
        | {"lm_performance_validation": validation[seed][step], "lm_performance_start": 0.45, "status": "ok"}
        for seed, step in itertools.product(range(3), range(3))
    ]
    return pd.DataFrame(rows)


def test_the_rank_that_the_others_validate_is_paid_on_test_questions(by_hand):
    """Validation less the top's: (−0.4, 0.3), (0.5, −0.1), (−0.1, 0.3). Training 0 takes the first rank, as the others average
    (0.2, 0.1), training 1 the middle one (−0.25, 0.3), training 2 the middle one (0.05, 0.1): −0.1, 0.2 and 0."""
    found, status = real_ppo.regret(by_hand)
    assert found.estimate == pytest.approx(0.1 / 3)
    half = 4.302653 * np.std([-0.1, 0.2, 0.0], ddof=1) / np.sqrt(3)
    assert (found.low, found.high) == pytest.approx((0.1 / 3 - half, 0.1 / 3 + half))
    assert status == "undecided"


@pytest.mark.parametrize(
    ("better", "status"),
    [
        ((0.30, 0.32, 0.28), "supported"),
        ((0.085, 0.09, 0.09), "not supported"),  # above 0, but too little
        ((0.09, 0.10, 0.10), "undecided"),  # perhaps enough
        ((0.05, 0.35, 0.20), "undecided"),  # large, but not above chance
        ((-0.2, -0.2, -0.2), "not supported"),
    ],
)
def test_what_a_regret_decides(by_hand, better, status):
    """The middle rank validates best everywhere, and is better on test questions by so much."""
    middle = by_hand["rm_step"] == 1
    by_hand["lm_performance_validation"] = middle.astype(float)
    by_hand["lm_performance_final"] = by_hand["rm_seed"].map(dict(enumerate(better))).where(middle, 0.0)
    assert real_ppo.regret(by_hand)[1] == status


def test_fewer_than_three_trainings_decide_nothing(by_hand):
    by_hand.loc[0, "lm_performance_final"] = np.nan  # its run failed
    found, status = real_ppo.regret(by_hand.assign(lm_performance_validation=(by_hand["rm_step"] == 1).astype(float)))
    assert (found.units, status) == (2, "undecided")
    assert real_ppo.regret(by_hand[by_hand["rm_seed"] == 1])[0].units == 0
    assert "cannot tell" in real_ppo.answer(by_hand[by_hand["rm_seed"] == 1])


def test_the_correlation_is_over_all_runs_and_its_p_within_trainings(by_hand):
    rho, p, number = real_ppo.correlation(by_hand)
    change = by_hand["lm_performance_final"] - 0.45
    assert rho == pytest.approx(stats.spearmanr(by_hand["accuracy"], change).statistic)
    orders = itertools.product(itertools.permutations(range(3)), repeat=3)
    shuffled = [np.concatenate([0.5 + np.array(order) / 10 for order in three]) for three in orders]
    as_large = [stats.spearmanr(accuracy, change).statistic >= rho - 1e-9 for accuracy in shuffled]
    assert (p, number) == (pytest.approx(np.mean(as_large)), 9)


# --- worlds -----------------------------------------------------------------------------------------------------------


def test_scores_are_on_the_scale_of_people(tmp_path):
    study = loaded(tmp_path / "a", rising)
    assert study.runs["lm_performance_start"].to_numpy() == pytest.approx(BEFORE)
    expected = 2 * nested(rising, rm_seeds=3, tasks=("preference",))["lm_performance_final"] - 1
    assert real_ppo.steps(study.runs)["lm_performance_final"].tolist() == pytest.approx(expected.tolist())
    assert study.runs["lm_performance_validation"].tolist() == pytest.approx(study.runs["lm_performance_final"].tolist())
    assert study.runs["reward"].to_numpy() == pytest.approx(1.0)  # 0.3 is a deviation


@pytest.mark.parametrize(
    ("curve", "status", "related"),
    [(inverted_u, "supported", False), (rising, "not supported", True), (flat, "not supported", False)],
)
def test_the_rule_finds_what_is_there(curve, status, related, tmp_path):
    runs = loaded(tmp_path / "a", curve, noise=0.003).runs
    found, told = real_ppo.regret(runs)
    assert (told, found.units) == (status, 3)
    assert (real_ppo.correlation(runs)[1] <= 0.05) == related
    assert real_ppo.correlation(runs)[2] == 18
    said = real_ppo.answer(runs)
    assert f"*{status}*" in said
    assert ("accuracy is shown" in said) == related
    assert real_ppo.brief(runs).endswith(f"{status}.")


def test_early_and_late_are_described_training_by_training(tmp_path):
    study = loaded(tmp_path / "a", rising)
    found = real_ppo.pairs(study.runs)
    assert found.index.tolist() == list(itertools.product(range(3), ("early", "late")))
    gaps = found["score"].diff().iloc[1::2]
    assert gaps.tolist() == pytest.approx([-0.2] * 3)
    assert found["KL"].tolist() == [2, 5] * 3
    words = real_ppo.described(found)
    assert "0 of 3 trainings" in words
    assert "-0.20" in words
    alone = study.runs[~((study.runs["arm"] == "late") & (study.runs["rm_seed"] == 1))]
    assert real_ppo.pairs(alone).index.get_level_values("training").tolist() == [0, 0, 2, 2]
    assert "No policy" in real_ppo.described(real_ppo.pairs(real_ppo.steps(study.runs)))


def test_what_policies_write_by_rank_beside_the_policy_before(tmp_path):
    found = real_ppo.by_rank(loaded(tmp_path / "a", rising, noise=0).runs)
    assert found.index.tolist() == [real_ppo.BEFORE, *range(1, 7)]
    assert found["score"].iloc[0] == pytest.approx(BEFORE)
    assert found["score"].iloc[1:].is_monotonic_increasing
    assert found["length"].tolist() == [20, *[30] * 6]
    assert np.isnan(found["accuracy"].iloc[0])


def test_answers_are_drawn_in_their_order_and_by_accuracy_alone(tmp_path):
    study = loaded(tmp_path / "a", rising)
    found = real_ppo.drawn(study, 2)
    first = study.runs[(study.runs["arm"] == "steps") & (study.runs["rm_seed"] == 0)].sort_values("accuracy")["id"]
    low, high = first.iloc[0], first.iloc[-1]
    assert found["answer"].tolist() == [
        f"{when} {run} {question}" for question in "zy" for when, run in (("start", low), ("final", low), ("final", high))
    ]
    assert found["score"].to_numpy() == pytest.approx(0.5, abs=1e-3)


def test_a_study_whose_evaluator_tells_nothing_is_refused(tmp_path):
    made = tables(rising)
    made["gap"] = made["gap"].assign(evaluator=0.0)
    with pytest.raises(AnalysisError, match="evaluator"):
        real_ppo.load(written(tmp_path / "a", made))
    made.pop("gap")
    (tmp_path / "a" / "gap.csv").unlink()
    with pytest.raises(AnalysisError, match="gap"):
        real_ppo.load(written(tmp_path / "a", made))


def test_the_gap_is_counted_in_the_deciding_arm(tmp_path):
    study = loaded(tmp_path / "a", rising)
    assert gap.top_fooled(gap.fooled(real_ppo.steps(study.said))) == (9, 9)


# --- the figure -------------------------------------------------------------------------------------------------------


def test_the_figure_has_every_run_its_early_and_late_ones_and_the_lines(tmp_path):
    study = loaded(tmp_path / "a", rising)
    with mpl.rc_context({"backend": "agg"}):
        drawing = draw.ends(study.runs)
    (axis,) = drawing.panels
    drawn = sorted(y for one in axis.lines if len(one.get_xdata()) != 2 for y in one.get_ydata())
    assert drawn == pytest.approx(sorted(study.runs["lm_performance_final"]))
    levels = {round(float(one.get_ydata()[0]), 6) for one in axis.lines if list(one.get_xdata()) == [0, 1]}
    assert levels == {0.0, 1.0, BEFORE}
    rings = np.concatenate([c.get_offsets() for c in axis.collections])
    steps = real_ppo.steps(study.runs)
    assert sorted(rings[:, 0]) == pytest.approx(sorted(steps.groupby("rm_seed")["accuracy"].max()))
    assert [mark.get_label() for mark in drawing.legend][3:5] == ["early", "late"]
    assert outcomes.usable(steps).all()
