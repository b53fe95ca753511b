import numpy as np
import pandas as pd
import pytest

from paradox_utils.analysis import outcomes
from tests.worlds import (
    TASKS,
    curves_of,
    flat,
    named,
    nested,
    rising,
    world,
)


def test_arms_with_names_of_their_own_are_shown_where_none_is_called_steps():
    made = nested(rising, rm_seeds=2, tasks=TASKS[:1])
    own = [made.assign(arm=arm) for arm in ("wide", "narrow", "ablation-base")]
    controls = [
        named(made, arm, route) for arm, route in (("perfect", "dial"), ("noisy", "label-noise"), ("known-paradox", "dial"))
    ]
    summary = pd.concat([*own, *controls], ignore_index=True)
    assert set(outcomes.steps(summary)["arm"]) == {"wide", "narrow"}
    assert set(outcomes.primary(summary)["arm"]) == {"wide", "narrow", "perfect"}
    summary = pd.concat([summary, made, named(made, "exact")], ignore_index=True)  # a name that the analysis knows decides
    assert set(outcomes.steps(summary)["arm"]) == {"steps"}
    assert set(outcomes.primary(summary)["arm"]) == {"steps", "exact"}


def test_known_truths_and_ablations_are_kept_apart():
    made = pd.concat([world(rising, rm_seeds=1), world(flat, rm_seeds=1).assign(arm="known-paradox")])
    assert set(outcomes.main_arms(made)["arm"]) == {"steps"}


def test_contrasts_pair_ppo_seeds_and_rank_by_accuracy():
    made = world(flat, rm_seeds=1, ppo_seeds=2, accuracies=(0.6, 0.9, 0.75), tasks=("relevance",))
    made["lm_performance_final"] = [0.1, 0.2, 0.5, 0.7, 0.9, np.nan]  # steps 0, 40 (most accurate), 80; seeds 0 and 1
    found = outcomes.contrasts(made)
    np.testing.assert_allclose(found.loc[0], [0, 0.9 - 0.5, (0.1 - 0.5 + 0.2 - 0.7) / 2])


def test_at_no_distance_nothing_is_matched():
    made = world(flat, rm_seeds=1, tasks=("relevance",))
    curves = curves_of(made)
    curves.loc[curves["id"] == made["id"].iloc[0], "kl"] = -0.01  # an estimate may be; then this run gets nowhere
    found = outcomes.with_curves(made, curves.assign(test_lm_performance=0.5, test_true_return=0.5))
    assert found[["kl_matched", "lm_performance_matched", "true_return_matched"]].isna().all(axis=None)


def test_matched_kl_interpolates_along_the_distance():
    made = world(flat, rm_seeds=1, ppo_seeds=1, accuracies=(0.7, 0.9), tasks=("relevance",))
    curves = []
    for run, kls, scores in zip(
        made["id"], ([0.0, 4.0, 4.0], [0.0, 1.0, 1.0]), ([0.5, 0.7, 0.7], [0.5, 0.9, 0.9]), strict=True
    ):
        curves.append(
            pd.DataFrame({"id": run, "update": [0, 10, 11], "kl": kls, "lm_performance": scores, "test_lm_performance": scores})
        )
    found = outcomes.with_curves(made, pd.concat(curves))
    assert found[outcomes.VALIDATION].tolist() == [0.7, 0.9]
    smooth = [np.sqrt([np.mean([0, 4, 4]), 4]), np.sqrt([np.mean([0, 1, 1]), 1])]  # a KL is averaged with its neighbours'
    assert found["kl_matched"].tolist() == [1, 1]  # the largest that both reach
    assert found["lm_performance_matched"].tolist() == pytest.approx([0.5 + 0.2 / smooth[0][0], 0.9])
    assert found["matched_early"].tolist() == [1, 0]  # before the evaluation after the start
    apart = outcomes.with_curves(made.assign(arm=["steps", "dial"]), pd.concat(curves))
    assert apart["kl_matched"].tolist() == pytest.approx([4, 1])  # another arm's runs are no part of the comparison
