"""Sentences about the paper's figures, computed from the tables of :mod:`paradox_utils.published` (Markdown)."""

from __future__ import annotations

import pandas as pd

from paradox_utils.published import NULLS, RESOLUTION, Chance

LARGE = 0.05  # a p below this is called hard to reconcile with its world


def clusters(table: pd.DataFrame) -> str:
    """How the accuracies lie (:func:`published.clusters`): a list with an item a task."""
    return "\n".join(
        f"- **{row.task.capitalize()}**: {row.models} RMs from {row.low:.3f} to {row.high:.3f}. Rounded to {RESOLUTION}, "
        f"{row.distinct} accuracies are left. {_share(row.top_quarter)} of the RMs lie in the top quarter of the range and "
        f"{_share(row.middle_half)} in its middle half; none lies between {row.gap_low:.3f} and {row.gap_high:.3f}."
        for row in table.itertuples()
    )


def standing(table: pd.DataFrame) -> str:
    """What :func:`published.standing` says over all pairs."""
    n, first, rank, rho = len(table), int((table["top_rank"] == 1).sum()), table["top_rank"], table["spearman"]
    ahead = int((table["middle_third"] > table["top_third"]).sum())
    apart = (table["top_third_accuracy"] - table["middle_third_accuracy"]).agg(["min", "max"])
    return (
        f"The most accurate RM has the best policy in {first} of {n} pairs; its rank goes from {rank.min()} to {rank.max()}. "
        f"More accurate RMs tend to have better policies (ρ > 0) in {(rho > 0).sum()} of {n} pairs, with ρ from "
        f"{_signed(rho.min())} to {_signed(rho.max())}. The third of middling accuracy has a better mean than the most "
        f"accurate third in {ahead} of {n}; the two differ by {apart['min']:.3f} to {apart['max']:.3f} in accuracy."
    )


def peaks(table: pd.DataFrame) -> str:
    """What :func:`published.peaks` says over all pairs."""
    n, over, foretold = len(table), table[table["impossible"]], table["error_surface"] > table["error_mean"]
    names = "; ".join(f"{row.policy}, {row.task}: {row.peak:.3f}" for row in over.itertuples())
    impossible = f"A share cannot exceed 1, but a surface does ({names})." if len(over) else "No surface of a share exceeds 1."
    return (
        f"The redrawn maxima agree with those read from the figures to {table['difference'].abs().max():.0e}. Of the {n} "
        f"surfaces {(table['overshoot'] > 0).sum()} rise above every marker, by up to {table['overshoot'].max():.2f}, and "
        f"{(table['near'] == 0).sum()} peak where no RM has an accuracy within {RESOLUTION}. {impossible} If a marker is left "
        f"out, the surface through the others foretells it with a larger error than their plain mean does in {foretold.sum()} "
        f"of {n} pairs. With both axes scaled to length 1 before the triangles are drawn, the maxima change by up to "
        f"{(table['rescaled'] - table['peak']).abs().max():.2f}: they depend on the unit of the steps."
    )


def chance(found: Chance) -> str:
    """How often the most accurate RM is not first in each world, and how the observed regret compares: a list."""
    words = {"irrelevant": "If accuracy did not matter", "as measured": "If accuracy mattered as much as measured"}
    lines, n = [], len(found.pairs) // len(NULLS)
    for null, opening in words.items():
        missed = found.pairs.loc[found.pairs["null"] == null, "not_first"]
        count, lost = (found.joint.set_index(["null", "statistic"]).loc[(null, name)] for name in ("not_first", "regret_sd"))
        lines.append(
            f"- **{opening}**, the most accurate RM would miss the first place with a probability of {_range(missed)}, in "
            f"{count['mean']:.1f} of {n} pairs on average. It does in {count['observed']:.0f} (as many or more: "
            f"p = {count['p']:.2f}). Its regret would be {lost['mean']:.2f} standard deviations of a pair's LM performances on "
            f"average; it is {lost['observed']:.2f} (as large or larger: p = {lost['p']:.2f}; as small or smaller: "
            f"p = {lost['p_low']:.2f})."
        )
    return "\n".join(lines)


def conclusion(found: Chance) -> str:
    """Whether the most accurate RM fails, or moderate accuracy leads, beyond what each world shows anyway (p ≤ 0.05)."""
    joint = found.joint.set_index(["null", "statistic"])["p"]
    beyond = [null for null in NULLS if min(joint[null, name] for name in ("not_first", "regret_sd", "thirds_sd")) <= LARGE]
    worlds = {"irrelevant": "where accuracy does not matter", "as measured": "where it matters as much as measured"}
    count, n = found.joint["observed"].iloc[0], len(found.pairs) // len(NULLS)
    seen = f"The most accurate RM is not first in {count:.0f} of {n} pairs."
    if beyond:
        named = " and ".join(worlds[null] for null in beyond)
        return (
            f"{seen} That, its regret, or the lead of the middle third is more than expected {named}: noise of single runs "
            "alone hardly explains it."
        )
    named = "both " + " and ".join(worlds.values())
    return (
        f"{seen} That, its regret, and how the middle third does against the top third are within what one run for each RM "
        f"shows anyway, {named}. So the points are no evidence that less accuracy is better. They are little evidence against "
        "it either."
    )


def shown(table: pd.DataFrame) -> str:
    """What the points do show (:func:`published.standing`), whichever way that falls."""
    n, lower = len(table), table[table["top_rank"] > 1]
    if lower.empty:
        return f"In all {n} pairs the most accurate RM has the best policy."
    return (
        f"In {len(lower)} of {n} pairs some less accurate RM has the better policy, by {lower['regret'].min():.3f} to "
        f"{lower['regret'].max():.3f} in LM performance. Who trains once against each checkpoint and keeps the best policy "
        f"will seldom keep the most accurate RM's."
        if len(lower) > n / 2
        else f"In {len(lower)} of {n} pairs some less accurate RM has the better policy."
    )


def thirds(found: Chance) -> str:
    """The middle third against the top third over all pairs, where accuracy is irrelevant."""
    row = found.joint.set_index(["null", "statistic"]).loc[("irrelevant", "thirds_sd")]
    better = "better" if row["observed"] > 0 else "worse"
    return (
        f"Over all pairs the middle third is {better} than the top third by {abs(row['observed']):.2f} standard deviations. If "
        f"accuracy did not matter, the difference would be between {_signed(row['low'])} and {_signed(row['high'])} in 95 % "
        f"of cases (as much or more in favour of the middle: p = {row['p']:.2f})."
    )


def variances(table: pd.DataFrame) -> str:
    """What :func:`published.curve_variances` says: shares by metric, and which RM of a pair has the larger variance: a list."""
    lines = []
    for metric, name in {"raw_reward": "raw reward", "kl": "the KL estimate"}.items():
        rows = table[table["metric"] == metric]
        rows = rows.assign(total=rows["variance"], batches=rows["variance"] * rows["noise"])
        trend, slow, noise = rows[["trend", "slow", "noise"]].mean()
        wide = rows.pivot(index=["policy", "task"], columns="rm_role", values=["total", "batches"])
        total, batches = (int((wide[k]["best_performing"] > wide[k]["most_accurate"]).sum()) for k in ("total", "batches"))
        lines.append(
            f"- **Variance of {name}**: on average {_share(trend)} is a straight trend over training, {_share(slow)} is slow "
            f"change of another form, and {_share(noise)} is difference between one batch and the next "
            f"({_range(rows['noise'])}). The best-performing RM's curve has the larger variance in {total} "
            f"of {len(wide)} pairs; of the differences between batches alone, in {batches}."
        )
    return "\n".join(lines)


def bars(table: pd.DataFrame) -> str:
    """How well the points of the curves give the variances that the paper's bars show."""
    off = (table["variance"] / table["variance_bar"] - 1).abs()
    exact = off < 1e-6
    rest = f"; the others are off by up to {_share(off.max())}, because points and bars are two samples of one run"
    tail = "" if exact.all() else rest
    return f"The points of {exact.sum()} of {len(table)} curves give the paper's variance to a millionth{tail}."


def numbers(standing: pd.DataFrame, peaks: pd.DataFrame, found: Chance) -> dict[str, float]:
    """What other pages may want to say, by name: counts of pairs, and the mean counts in the two worlds (to 0.1)."""
    count = found.joint.set_index(["null", "statistic"])["mean"]
    return {
        "pairs": len(standing),
        "missed": int((standing["top_rank"] > 1).sum()),
        "missed_by_chance": round(float(count["irrelevant", "not_first"]), 1),
        "missed_as_measured": round(float(count["as measured", "not_first"]), 1),
        "middle_third_ahead": int((standing["middle_third"] > standing["top_third"]).sum()),
        "surfaces_alone": int((peaks["near"] == 0).sum()),
        "surfaces_worse_than_mean": int((peaks["error_surface"] > peaks["error_mean"]).sum()),
    }


def _share(value: float) -> str:
    return f"{value:.0%}".replace("%", " %")


def _range(values: pd.Series) -> str:
    return f"{100 * values.min():.0f} to {100 * values.max():.0f} %"


def _signed(value: float) -> str:
    return f"{value:+.2f}".replace("-", "−")
