"""Ablations against the study's own setting, run by run: by hand, and on made studies."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from paradox_utils import config, files
from paradox_utils.analysis import ablations, statistics
from paradox_utils.analysis.ablations import ABLATIONS, BASE
from paradox_utils.analysis.verdict import EQUIVALENCE_MARGIN
from paradox_utils.figures import study as draw
from paradox_utils.study import plan
from tests.worlds import curves_of, flat, lost, nested, offsets, probed, run_page, written

THREE = (0.60, 0.75, 0.90)
SETTINGS = {"ablation-kl-low": "kl_coefficient=0.1", "ablation-kl-high": "kl_coefficient=0.7, epochs=2"}
SETTINGS |= {"ablation-kl-estimator": "log_probabilities=full-softmax, top_k=20"}
MEAN = ABLATIONS[1]


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
    final = of["lm_performance_final"] + shift
    return of.assign(arm=arm, id=arm + of["id"], setting=SETTINGS.get(arm, ""), lm_performance_final=final)


def tilted(of, arm, outcome):
    """Runs of an ablation with LM performances of their own [trajectory, rank of accuracy]."""
    return changed(of, arm, (0, 0, 0)).assign(lm_performance_final=np.ravel(outcome))


def kl(summary):
    """The ablation of the KL coefficient, as a study words it."""
    return ablations.named(summary)[3]


def said(ablation, *parts):
    return ablations.sentence(ablation, ablations.effects(ablations.pairs(pd.concat(parts))))


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


HAND = [[0.5, 0.6, 0.7], [0.9, 0.6, 0.7], [0.6, 0.7, 0.7]]  # the most accurate is first, second, tied


def test_the_most_accurate_is_counted_by_hand():
    own = base(HAND)
    other = tilted(own, "ablation-mean", [[0.5, 0.9, 0.8], [0.9, 0.6, 0.8], [0.6, 0.7, 0.75]])
    found = ablations.effects(ablations.pairs(pd.concat([own, other])))
    assert found["most accurate first"].to_dict() == {BASE: 2, "ablation-mean": 1}
    assert found.loc["ablation-mean", ["base first", "trajectories"]].tolist() == [2, 3]


def test_what_accuracy_does_is_contrasted_by_hand():
    own = base(HAND).sample(frac=1, random_state=0)
    other = tilted(base(HAND), "ablation-mean", [[0.5, 0.9, 0.8], [0.9, 0.6, 0.8], [0.6, 0.7, 0.75]])
    found = ablations.contrasts(ablations.pairs(pd.concat([other, own]))).set_index(["arm", "rm_seed"]).sort_index()
    mean, of_base = found.loc["ablation-mean"], found.loc[BASE]
    np.testing.assert_allclose(mean[["slope", "lead"]], [[0.3, -0.1], [-0.1, -0.1], [0.15, 0.05]], atol=1e-12)
    np.testing.assert_allclose(mean[["base slope", "base lead"]], [[0.2, 0.1], [-0.2, -0.2], [0.1, 0.0]], atol=1e-12)
    np.testing.assert_allclose(mean[["slope change", "lead change"]], [[0.1, -0.2], [0.1, 0.1], [0.05, 0.05]], atol=1e-12)
    np.testing.assert_allclose(of_base[["slope", "lead"]], mean[["base slope", "base lead"]])
    assert of_base[["slope change", "lead change"]].eq(0).all(axis=None)


def test_a_known_change_of_what_accuracy_does_is_recovered_with_its_interval_and_p():
    """It is added to the most accurate runs, and differs by trajectory; the mean shift is left at zero."""
    own = base(np.full((3, 3), 0.5))
    tilt = np.outer([0.16, 0.20, 0.24], [-0.5, 0.0, 0.5])
    found = ablations.effects(ablations.pairs(pd.concat([own, tilted(own, "ablation-mean", 0.5 + tilt)])))
    row, half = found.loc["ablation-mean"], 4.302653 * 0.04 / np.sqrt(3)  # t(2), over trajectories
    assert row[["slope change", "slope change low", "slope change high"]].tolist() == pytest.approx(
        [0.2, 0.2 - half, 0.2 + half]
    )
    assert row[["lead change", "lead change low", "lead change high"]].tolist() == pytest.approx(
        [0.1, 0.1 - half / 2, 0.1 + half / 2]
    )
    p = 2 * stats.t.sf(0.2 / (0.04 / np.sqrt(3)), 2)
    assert row[["slope change p", "lead change p"]].tolist() == pytest.approx([2 * p, 2 * p])  # Holm's, of two tests
    assert row["difference"] == pytest.approx(0)
    assert row["p"] == 1
    sentence = ablations.sentence(MEAN, found)
    assert "*mean* does not clearly change LM performance (by +0.000" in sentence
    assert (
        ". It changes what accuracy does: the most accurate reward model's lead over the least accurate goes from +0.000 to"
        in sentence
    )


def test_p_values_are_corrected_for_the_tests_of_their_question():
    own, random = base(), np.random.default_rng(0)
    arms = ["ablation-mean", "ablation-normalised", "ablation-kl-low"]
    parts = [tilted(own, arm, own["lm_performance_final"] + random.normal(0.1, 0.05, 9)) for arm in arms]
    alone = [ablations.effects(ablations.pairs(pd.concat([own, part]))).iloc[1] for part in parts]
    found = ablations.effects(ablations.pairs(pd.concat([own, *parts]))).loc[arms]
    assert found["p"].tolist() == pytest.approx(statistics.holm([row["p"] for row in alone]))
    changes = ["slope change p", "lead change p"]
    raw = []
    for row in ablations.contrasts(ablations.pairs(pd.concat([own, *parts]))).groupby("arm", sort=False):
        if row[0] in arms:
            raw += [stats.ttest_1samp(row[1][name], 0).pvalue for name in ("slope change", "lead change")]
    assert found[changes].to_numpy().ravel() == pytest.approx(statistics.holm(raw))


def test_rounding_is_no_change():
    """A shift that is the same everywhere leaves differences of the last digit, which must not pass for a certain change."""
    found = ablations.effects(ablations.pairs(pd.concat([base(HAND), changed(base(HAND), "ablation-mean", (0.1, 0.1, 0.1))])))
    assert found.loc["ablation-mean", ["slope change", "lead change"]].tolist() == pytest.approx([0, 0], abs=1e-12)
    assert found.loc["ablation-mean", ["slope change p", "lead change p"]].tolist() == [1, 1]
    assert f"It does not change what accuracy does by {EQUIVALENCE_MARGIN} or more: the" in ablations.sentence(MEAN, found)


def test_trajectories_without_all_their_reward_models_say_nothing_of_accuracy():
    own = base(HAND)
    other = changed(own, "ablation-mean", (0.1, 0.2, 0.3))
    own.loc[2, "status"], other.loc[3, "status"] = "failed", "blocked"  # the most accurate's base, and a least accurate
    found = ablations.effects(ablations.pairs(pd.concat([own, other])))
    assert found["trajectories"].to_dict() == {BASE: 2, "ablation-mean": 1}
    assert found[["runs", "models", "planned"]].loc["ablation-mean"].tolist() == [7, 7, 9]
    assert np.isnan(found.loc["ablation-mean", ["slope change p", "lead change p", "slope change low"]].astype(float)).all()
    sentence = ablations.sentence(MEAN, found)
    assert "; 7 of 9 reward models)" in sentence
    assert "cannot be told from 1 trajectory: " in sentence
    assert "(no interval)" in sentence
    assert "nan" not in sentence
    other.loc[6, "status"] = "blocked"
    sentence = said(MEAN, own, other)
    assert "What accuracy does cannot be compared: in no trajectory has every reward model a finished run." in sentence
    assert "nan" not in sentence
    assert "best policy" not in sentence


def test_a_trajectory_without_its_most_accurate_run_is_not_counted():
    own = base([[0.9, 0.6, 0.7]] * 3)
    own.loc[[1, 2], "status"] = "failed"  # of the first trajectory, the least accurate is left
    found = ablations.effects(ablations.pairs(own)).loc[BASE]
    assert found[["most accurate first", "trajectories"]].tolist() == [0, 2]


def test_one_reward_model_a_trajectory_has_nothing_to_be_compared_with():
    own = base(HAND).iloc[[2, 5, 8]]
    assert "What accuracy does cannot be compared" in said(MEAN, own, changed(own, "ablation-mean", (0.1, 0.1, 0.1)))


def test_the_kl_of_another_estimator_is_left_blank():
    own = base().assign(kl_final=2.0)
    parts = [changed(own, arm, (0, 0, 0)) for arm in ("ablation-kl-low", "ablation-kl-estimator")]
    found = ablations.effects(ablations.pairs(pd.concat([own, *parts])))
    assert found.loc[[BASE, "ablation-kl-low"], "KL"].tolist() == [2, 2]
    assert np.isnan(found.loc["ablation-kl-estimator", "KL"])


def test_values_are_read_from_the_settings_of_a_study():
    own = base()
    parts = [changed(own, arm, (0, 0, 0)) for arm in ("ablation-kl-low", "ablation-kl-high", "ablation-mean")]
    made = ablations.named(pd.concat([own, *parts]))
    assert made[3].arms == {"ablation-kl-low": "0.1", "ablation-kl-high": "0.7"}
    assert made[3].base == "the study's own"  # no plan says
    assert ablations.named(own)[3].arms == {"ablation-kl-low": "kl low", "ablation-kl-high": "kl high"}
    assert [one.arms for one in made[:3]] == [one.arms for one in ABLATIONS[:3]]


def test_values_of_the_committed_study_are_those_of_its_plan():
    runs = [run for run in plan.plan(config.load_study(files.resolve("configs/atlas.yaml"))) if run.stage == "ppo"]
    labels = [labels | {"study": "atlas", "kl": run.parameters["kl_coefficient"]} for run in runs for labels in run.all_labels]
    table = pd.DataFrame(labels)
    of, planned = kl(table), table.groupby("arm")["kl"].unique()
    assert {BASE: of.base, **of.arms} == {arm: str(planned[arm].item()) for arm in (BASE, *of.arms)}
    assert {arm for one in ABLATIONS for arm in one.arms} | {BASE} == {arm for arm in planned.index if arm.startswith("abl")}


def test_sentences_say_what_was_and_what_was_not_run():
    own = base(HAND)
    clear = changed(own, "ablation-kl-low", (-0.10, -0.11, -0.12))
    of = kl(pd.concat([own, clear]))
    sentence = said(of, own, clear)
    assert sentence.startswith(
        "**KL coefficient.** Against *the study's own*: *0.1* lowers LM performance (by -0.110, 95 % interval -0.135 to"
    )
    assert "in 2 of 3 trajectories (*the study's own*: 2). *kl high* has no finished run to compare." in sentence
    raised = changed(own, "ablation-kl-high", (0.10, 0.11, 0.12))
    assert "*0.1* has no finished run to compare. *kl high* raises" in said(of, own, raised)
    vague = changed(own, "ablation-mean", (0.3, 0.1, -0.1))
    assert "*mean* does not clearly change LM performance (by +0.100" in said(MEAN, own, vague)
    alone = [part[part["rm_seed"] == 0] for part in (own, vague)]
    assert "*mean* does not clearly change LM performance (by +0.300, one trajectory)" in said(MEAN, *alone)
    assert "nan" not in said(MEAN, *alone)
    lost = own.assign(status="failed")
    assert said(MEAN, lost, vague) == "**Sum or mean over segments.** Against *sum*: *mean* has no finished run to compare."


def test_sentences_tell_a_change_from_none_and_from_what_cannot_be_told():
    own = base(np.full((3, 3), 0.5))
    steps = {
        "clear": [0.30, 0.31, 0.32],
        "small": [0.000, 0.005, 0.010],
        "wide": [-0.2, 0.1, 0.3],
        "crowded": [0.13, 0.20, 0.27],
    }
    tops = {name: 0.5 + np.outer(top, [0.0, 0.0, 1.0]) for name, top in steps.items()}
    texts = {name: said(MEAN, own, tilted(own, "ablation-mean", outcome)) for name, outcome in tops.items()}
    assert "It changes what accuracy does: " in texts["clear"]
    assert ", clear)" in texts["clear"]
    assert f"It does not change what accuracy does by {EQUIVALENCE_MARGIN} or more: " in texts["small"]
    assert texts["small"].count(f", smaller than {EQUIVALENCE_MARGIN})") == 2
    assert "Whether it changes what accuracy does cannot be told from 3 trajectories: " in texts["wide"]
    assert texts["wide"].count(", either sign is possible)") == 2
    assert "cannot be told" in texts["crowded"]
    assert texts["crowded"].count(", not clear among so many comparisons)") == 2


# --- the figure and the page ---


def test_the_figure_draws_runs_and_means_of_ranks():
    own = base(HAND)
    made = pd.concat([own, changed(own, "ablation-kl-high", (0.1, 0.1, 0.1))])
    pairs, of = ablations.pairs(made), kl(made)
    axis = draw.ablation(pairs, of).axes[0]
    assert axis.get_title("left") == of.title
    assert [text.get_text() for text in axis.get_legend().get_texts()] == ["the study's own", "kl low", "0.7"]
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
    assert (len(names["pairs"]), len(names["found"])) == (72, 8)
    stored = (tmp_path / "out" / "result.json").read_text()
    assert stored.count("raises LM performance (by +0.110") == 7
    assert "*0.1* raises" in stored
    assert "*0.7* raises" in stored


def test_the_page_runs_where_arms_are_missing_and_runs_have_failed(tmp_path):
    made = every_ablation()
    made = made[~made["arm"].isin(["ablation-mean", "ablation-kl-low"])]
    made = lost(lost(made, made.index[made["arm"] == "ablation-normalised"]), made.index[:1], "failed")
    curves_of(made).to_csv(written(made, tmp_path) / "curves.csv", index=False)
    names = run_page("11", tmp_path)
    assert names["found"]["runs"].to_dict() == dict.fromkeys(
        [BASE, "ablation-probability", "ablation-kl-high", "ablation-kl-estimator", "ablation-published-sampling"], 8
    )
    sentences = [ablations.sentence(one, names["found"]) for one in ABLATIONS]
    assert ["has no finished run to compare" in one for one in sentences] == [False, True, True, True, False]
    assert not any("nan" in one for one in sentences)


@pytest.mark.parametrize("kept", ["steps", "ablation-mean"])
def test_the_page_runs_where_no_ablation_or_no_base_has_finished(kept, tmp_path):
    run_page("11", written(base().assign(arm=kept), tmp_path))
