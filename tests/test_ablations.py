"""Ablations against the study's own setting, run by run: by hand, and on made studies."""

import numpy as np
import pandas as pd
import pytest
from worlds import curves_of, flat, lost, nested, offsets, probed, run_page, written

from paradox_utils import ablations
from paradox_utils.ablations import ABLATIONS, BASE
from paradox_utils.plots import ablations as draw

THREE = (0.60, 0.75, 0.90)
KL = ABLATIONS[3]


def base(outcome=None):
    """Three trajectories of three reward models; outcomes [trajectory, rank of accuracy] where given."""
    made = probed(nested(flat, rm_seeds=3, accuracies=THREE, tasks=("relevance",), noise=0.05))
    made["rm_step"] += 7 * made["rm_seed"]  # the steps of a study differ between trajectories
    if outcome is not None:
        made["lm_performance_final"] = np.ravel(outcome)
    return made.assign(arm=BASE, id="b" + made["id"])


def changed(of, arm, shifts):
    """Runs of an ablation: each trajectory's LM performance is that of the base plus its own shift."""
    shift = of["rm_seed"].map(dict(enumerate(shifts)))
    return of.assign(arm=arm, id=arm + of["id"], lm_performance_final=of["lm_performance_final"] + shift)


def test_pairs_are_of_the_same_reward_model_and_seed():
    own = base()
    other = changed(own, "ablation-mean", (0.1, 0.1, 0.1)).sample(frac=1, random_state=0)
    steps = own.assign(arm="steps", lm_performance_final=0.0)  # no base, though the reward models are the same
    found = ablations.pairs(pd.concat([other, steps, own]))
    assert found["arm"].value_counts().to_dict() == {"ablation-mean": 9, BASE: 9}
    assert found.loc[found["arm"] == BASE, "difference"].tolist() == [0] * 9
    assert found.loc[found["arm"] == "ablation-mean", "difference"].tolist() == pytest.approx([0.1] * 9)
    np.testing.assert_allclose(found["accuracy"], found["rm_accuracy"])


@pytest.mark.parametrize("key", ["policy", "rm_seed", "rm_step", "ppo_seed", "task"])
def test_what_has_no_partner_is_left_out(key):
    own = base()
    other = changed(own, "ablation-mean", (0.1, 0.1, 0.1))
    other.loc[0, key] = "large" if key in ("policy", "task") else 99
    found = ablations.pairs(pd.concat([own, other]))
    assert found["arm"].value_counts()["ablation-mean"] == 8
    assert found["difference"].tolist() == pytest.approx([0] * 9 + [0.1] * 8)


def test_failed_runs_have_no_pair():
    own, other = base(), changed(base(), "ablation-mean", (0.1, 0.1, 0.1))
    own.loc[0, "status"], other.loc[[3, 4], "status"] = "failed", "blocked"
    found = ablations.pairs(pd.concat([own, other]))
    assert found["arm"].value_counts().to_dict() == {BASE: 8, "ablation-mean": 6}
    noisy = ablations.pairs(own.assign(rm_accuracy=np.nan))
    assert noisy["accuracy"].notna().all()


def test_a_known_shift_is_recovered_with_its_interval():
    own = base()
    other = changed(own, "ablation-mean", (0.08, 0.10, 0.12)).assign(kl_final=3.0, greedy_length_final=20.0)
    found = ablations.effects(ablations.pairs(pd.concat([own, other])))
    row = found.loc["ablation-mean"]
    half = 4.302653 * 0.02 / np.sqrt(3)  # t(2), over trajectories
    assert row[["difference", "low", "high"]].tolist() == pytest.approx([0.1, 0.1 - half, 0.1 + half], abs=1e-6)
    assert row["LM performance"] == pytest.approx(own["lm_performance_final"].mean() + 0.1)
    assert row[["runs", "KL", "length", "trajectories"]].tolist() == [9, 3, 20, 3]
    assert found.loc[BASE, ["difference", "low", "high"]].tolist() == [0, 0, 0]


def test_the_most_accurate_is_counted_by_hand():
    own = base([[0.5, 0.6, 0.7], [0.9, 0.6, 0.7], [0.6, 0.7, 0.7]])  # first, last, tied
    other = own.assign(arm="ablation-mean", lm_performance_final=[0.5, 0.9, 0.8, 0.9, 0.6, 0.8, 0.6, 0.7, 0.75])
    found = ablations.effects(ablations.pairs(pd.concat([own, other])))
    assert found["most accurate first"].to_dict() == {BASE: 2, "ablation-mean": 1}
    assert found.loc["ablation-mean", "at the most accurate"] == pytest.approx((0.1 + 0.1 + 0.05) / 3)


def test_a_trajectory_without_its_most_accurate_run_is_not_counted():
    own = base([[0.9, 0.6, 0.7]] * 3)
    own.loc[[1, 2], "status"] = "failed"  # of the first trajectory, the least accurate is left
    found = ablations.effects(ablations.pairs(own)).loc[BASE]
    assert found["most accurate first"] == 0


def test_sentences_say_what_was_and_what_was_not_run():
    own = base([[0.5, 0.6, 0.7], [0.9, 0.6, 0.7], [0.6, 0.7, 0.7]])
    clear = changed(own, "ablation-kl-low", (-0.10, -0.11, -0.12))
    found = ablations.effects(ablations.pairs(pd.concat([own, clear])))
    said = ablations.sentence(KL, found)
    assert said.startswith(
        "**KL coefficient.** Against *0.05*, *0.02* lowers LM performance (by -0.110, 95 % interval -0.135 to"
    )
    assert "in 2 of 3 trajectories; *0.125* was not run (*0.05*: 2)." in said
    raised = ablations.effects(ablations.pairs(pd.concat([own, changed(own, "ablation-kl-high", (0.10, 0.11, 0.12))])))
    assert "*0.02* was not run; *0.125* raises" in ablations.sentence(KL, raised)
    vague = ablations.effects(ablations.pairs(pd.concat([own, changed(own, "ablation-mean", (0.3, 0.1, -0.1))])))
    assert "*mean* does not clearly change LM performance (by +0.100" in ablations.sentence(ABLATIONS[1], vague)
    one = pd.concat([own, changed(own, "ablation-mean", (0.3, 0.1, -0.1))])
    one = ablations.effects(ablations.pairs(one[one["rm_seed"] == 0]))
    assert "does not clearly change" in ablations.sentence(ABLATIONS[1], one)


def test_a_single_trajectory_has_no_interval_in_words():
    one = pd.concat([base(), changed(base(), "ablation-mean", (0.3, 0.1, -0.1))])
    found = ablations.effects(ablations.pairs(one[one["rm_seed"] == 0]))
    assert "nan" not in ablations.sentence(ABLATIONS[1], found)


# --- the figure and the page ---


def test_the_figure_draws_runs_and_means_of_ranks():
    own = base([[0.5, 0.6, 0.7], [0.9, 0.6, 0.7], [0.6, 0.7, 0.7]])
    pairs = ablations.pairs(pd.concat([own, changed(own, "ablation-kl-high", (0.1, 0.1, 0.1))]))
    axis = draw.ablation(pairs, KL).axes[0]
    assert axis.get_title("left") == KL.title
    assert [text.get_text() for text in axis.get_legend().get_texts()] == ["0.05", "0.02", "0.125"]
    grey, missing, high = axis.lines
    means = np.array([(0.5 + 0.9 + 0.6) / 3, (0.6 + 0.6 + 0.7) / 3, 0.7])
    np.testing.assert_allclose(grey.get_ydata(), means)
    np.testing.assert_allclose(high.get_ydata(), means + 0.1)
    assert len(missing.get_xdata()) == 0
    np.testing.assert_allclose(offsets(axis), pairs[["accuracy", ablations.OUTCOME]])


def every_ablation():
    own = base()
    arms = [arm for one in ABLATIONS for arm in one.arms]
    return pd.concat([own, *(changed(own, arm, (0.1, 0.11, 0.12)) for arm in arms)], ignore_index=True)


def test_the_page_runs_on_every_ablation(tmp_path):
    names = run_page("11", written(every_ablation(), tmp_path), tmp_path / "out")
    assert (len(names["pairs"]), len(names["found"])) == (63, 7)
    said = (tmp_path / "out" / "result.json").read_text()
    assert said.count("raises LM performance (by +0.110") == 6


def test_the_page_runs_where_arms_are_missing_and_runs_have_failed(tmp_path):
    made = every_ablation()
    made = made[~made["arm"].isin(["ablation-mean", "ablation-kl-low"])]
    made = lost(lost(made, made.index[made["arm"] == "ablation-normalised"]), made.index[:1], "failed")
    curves_of(made).to_csv(written(made, tmp_path) / "curves.csv", index=False)
    names = run_page("11", tmp_path)
    assert names["found"]["runs"].to_dict() == dict.fromkeys(
        [BASE, "ablation-probability", "ablation-kl-high", "ablation-kl-estimator"], 8
    )
    said = [ablations.sentence(one, names["found"]) for one in ABLATIONS]
    assert ["was not run" in one for one in said] == [False, True, True, True, False]


@pytest.mark.parametrize("kept", ["steps", "ablation-mean"])
def test_the_page_runs_where_no_ablation_or_no_base_has_finished(kept, tmp_path):
    run_page("11", written(base().assign(arm=kept), tmp_path))
