"""Sentences about the paper's figures, computed from the tables of :mod:`paradox_utils.analysis.published` (Markdown)."""

from __future__ import annotations

import pandas as pd

from paradox_utils.analysis import published, statistics
from paradox_utils.analysis.published import NULLS, RESOLUTION, Chance, Tables
from paradox_utils.analysis.tables import listed

LARGE = 0.05  # a p at most this, corrected, is called hard to reconcile with its world
WORLDS = {"irrelevant": "where accuracy does not matter", "as measured": "where it matters as much as measured"}
BEYOND = {  # what it means to show more than a world: only the first speaks for less accuracy
    "irrelevant": "which noise of single runs alone hardly explains",
    "as measured": "which an effect that levels off explains as well as one that turns",
}
AGAINST_THE_TOP = {  # statistics that grow as the most accurate RM fails, or moderate accuracy leads
    "not_first": "how often it is not",
    "regret_sd": "its regret",
    "thirds_sd": "the lead of the middle third on the top third",
}
ASSOCIATIONS = ("spearman", "spearman_upper")


def clusters(table: pd.DataFrame) -> str:
    """How the accuracies lie (:func:`published.clusters`): a list with an item a task."""
    return "\n".join(
        f"- **{row.task.capitalize()}**: {row.models} RMs from {row.low:.3f} to {row.high:.3f}. Rounded to {RESOLUTION}, "
        f"{row.distinct} {_of(row.distinct, 'accuracy is', 'accuracies are')} left. {_share(row.top_quarter)} of the RMs lie "
        f"in the top quarter of the range and {_share(row.middle_half)} in its middle half; none lies between "
        f"{row.gap_low:.3f} and {row.gap_high:.3f}."
        for row in table.itertuples()
    )


def standing(table: pd.DataFrame) -> str:
    """What :func:`published.standing` says over all pairs."""
    n, first, rank, rho = len(table), int((table["top_rank"] == 1).sum()), table["top_rank"], table["spearman"]
    ahead = int((table["middle_third"] > table["top_third"]).sum())
    apart = table["top_third_accuracy"] - table["middle_third_accuracy"]
    return (
        f"The most accurate RM has the best policy in {first} of {_pairs(n)}; its rank {_reach(rank, 'd')}. ρ is above 0, so "
        f"more accurate RMs tend to have better policies, in {(rho > 0).sum()} of {_pairs(n)}; it "
        f"{_reach(rho, '+.2f')}. The third of middling accuracy has a better mean than the most accurate third in {ahead} of "
        f"{n}; the mean accuracies of the two are {_span(apart, '.3f')} apart."
    )


def peaks(table: pd.DataFrame) -> str:
    """What :func:`published.peaks` says over all pairs."""
    n, alone = len(table), int((table["near"] == 0).sum())
    rise = table.loc[table["overshoot"] > 0, "overshoot"]
    above = f", by up to {rise.max():.2f}" if len(rise) else ""
    return (
        f"{_recorded(table['difference'])}{len(rise)} of {n} {_of(n, 'surface')} {_of(len(rise), 'rises', 'rise')} above every "
        f"marker{above}, and {alone} {_of(alone, 'peaks', 'peak')} where no RM has an accuracy within {RESOLUTION}. "
        f"{impossible(table)} {_foretelling(table)} {_rescaling((table['rescaled'] - table['peak']).abs().max())}"
    )


def _recorded(difference: pd.Series) -> str:
    if difference.isna().all():
        return "No maxima were read from the figures. "
    return f"The redrawn maxima differ from those read from the figures by at most {difference.abs().max():.0e}. "


def impossible(table: pd.DataFrame) -> str:
    """Which surfaces of :func:`published.peaks` exceed 1 where a share is drawn."""
    over = table[table["impossible"]]
    names = "; ".join(f"{row.policy}, {row.task}: {row.peak:.3f}" for row in over.itertuples())
    if over.empty:
        return "No surface of a share exceeds 1."
    return f"A share cannot exceed 1, but {_of(len(over), 'a surface does', f'{len(over)} surfaces do')} ({names})."


def _foretelling(table: pd.DataFrame) -> str:
    known = table[table["error_surface"].notna()]
    if known.empty:
        return "No surface can be drawn without one of its markers."
    worse = int((known["error_surface"] > known["error_mean"]).sum())
    return (
        "If a marker is left out, the surface through the others foretells it with a larger error than their plain mean does "
        f"in {worse} of {_pairs(len(known))}."
    )


def _rescaling(change: float) -> str:
    words = f"With both axes scaled to length 1 before the triangles are drawn, the maxima change by up to {change:.2f}"
    return f"{words}: they depend on the unit of the steps." if change >= 0.005 else f"{words}."


def chance(found: Chance) -> str:
    """How often the most accurate RM is not first in each world, and how the observed regret compares: a list."""
    words = {"irrelevant": "If accuracy did not matter", "as measured": "If accuracy mattered as much as measured"}
    lines, n = [], _count(found)
    for null, opening in words.items():
        missed = 100 * found.pairs.loc[found.pairs["null"] == null, "not_first"]
        count, lost = (_joint(found).loc[(null, name)] for name in ("not_first", "regret_sd"))
        lines.append(
            f"- **{opening}**, the probability that the most accurate RM misses the first place would be "
            f"{_span(missed, '.0f')} %, and it would miss it in {count['mean']:.1f} of {_pairs(n)} on average. It does in "
            f"{count['observed']:.0f} (as many or more: {_p(count['p'])}). Its regret would be {lost['mean']:.2f} standard "
            f"deviations of a pair's LM performances on average; it is {lost['observed']:.2f} (as large or larger: "
            f"{_p(lost['p'])}; as small or smaller: {_p(lost['p_low'])})."
        )
    return "\n".join(lines)


def association(found: Chance) -> str:
    """Whether accuracy and LM performance go together over all pairs, against the world where accuracy is irrelevant."""
    p, n = associated(found), _count(found)
    whole, upper = (_joint(found).loc[("irrelevant", name)] for name in ASSOCIATIONS)
    cases = [
        f"between {_signed(row['low'])} and {_signed(row['high'])} in 95 % of cases (as far from 0, or farther: {_p(p[name])})"
        for name, row in zip(ASSOCIATIONS, (whole, upper), strict=True)
    ]
    return (
        f"{_of(n, 'In the one pair', f'Over the {n} pairs')} ρ is {_signed(whole['observed'])} on average; if accuracy did not "
        f"matter, it would be {cases[0]}. Without the least accurate third of the RMs it is {_signed(upper['observed'])}, and "
        f"would be {cases[1]}. Both p are two-sided and corrected for being two (Holm)."
    )


def associated(found: Chance) -> dict[str, float]:
    """Two-sided p of the mean correlations where accuracy is irrelevant (twice the smaller tail, at most 1), Holm-corrected."""
    rows = [_joint(found).loc[("irrelevant", name)] for name in ASSOCIATIONS]
    two_sided = [statistics.two_sided(float(row["p"]), float(row["p_low"])) for row in rows]
    return dict(zip(ASSOCIATIONS, statistics.holm(two_sided), strict=True))


def beyond(found: Chance) -> dict[tuple[str, str], float]:
    """p of each world and statistic of :data:`AGAINST_THE_TOP`, Holm-corrected for all of them: small if beyond that world."""
    keys = [(null, name) for null in NULLS for name in AGAINST_THE_TOP]
    joint = _joint(found)["p"]
    return dict(zip(keys, statistics.holm([float(joint[key]) for key in keys]), strict=True))


def conclusion(found: Chance) -> str:
    """Whether the most accurate RM fails, or moderate accuracy leads, beyond what each world shows anyway, and whether accuracy
    and LM performance go together; then what follows of the two (corrected p ≤ :data:`LARGE`)."""
    against, p, joint = beyond(found), associated(found), _joint(found)
    count, n = joint.loc[("irrelevant", "not_first"), "observed"], _count(found)
    large = {null: [words for name, words in AGAINST_THE_TOP.items() if against[null, name] <= LARGE] for null in NULLS}
    exceed = {null: (listed(names), _of(len(names), "is", "are")) for null, names in large.items() if names}
    parts = [f"{names} {verb} more than expected {WORLDS[null]}, {BEYOND[null]}" for null, (names, verb) in exceed.items()]
    smallest = f"smallest {_p(min(against.values()))} after Holm's correction for {len(against)} tests"
    if parts:
        stands = f"{'; '.join(parts)} ({smallest})."
        stands = stands[0].upper() + stands[1:]
    else:
        stands = (
            "That, its regret, and how the middle third does against the top third are within what one run for each RM shows "
            f"anyway, both {' and '.join(WORLDS.values())} ({smallest})."
        )
    rho = {name: float(joint.loc[("irrelevant", name), "observed"]) for name in ASSOCIATIONS}
    signs = {name: 0 if p[name] > LARGE else 1 if rho[name] > 0 else -1 for name in ASSOCIATIONS}
    words = {
        1: "more accurate RMs tend to have better policies",
        0: "no association with accuracy is clear",
        -1: "less accurate RMs tend to have better policies",
    }
    whole, upper = (f"{words[signs[name]]} (mean ρ = {_signed(rho[name])}, two-sided {_p(p[name])})" for name in ASSOCIATIONS)
    return (
        f"The most accurate RM is not first in {count:.0f} of {_pairs(n)}. {stands} Over the whole range of accuracy {whole}; "
        f"without the least accurate third {upper}. {_follows('irrelevant' in exceed, *signs.values())}"
    )


def _follows(fails: bool, whole: int, upper: int) -> str:
    """What the tests allow: ``fails``, more than where accuracy is irrelevant; signs of the correlations, 0 for unclear."""
    if fails or whole < 0 or upper < 0:
        both = ", and evidence against it" if whole > 0 or upper > 0 else ""
        return f"So the points are evidence that less accuracy can be better{both}."
    if upper > 0:
        return "So the points are no evidence that less accuracy is better, and evidence against it."
    if whole > 0:
        return (
            "So the points are no evidence that less accuracy is better. They are some evidence that low accuracy is worse, "
            "and little evidence, either way, on moderate against high accuracy."
        )
    return "So the points are no evidence that less accuracy is better. They are little evidence against it either."


def shown(table: pd.DataFrame) -> str:
    """What the points do show (:func:`published.standing`), whichever way that falls."""
    n, lower = len(table), table[table["top_rank"] > 1]
    if lower.empty:
        return f"In {'the one pair' if n == 1 else f'all {n} pairs'} the most accurate RM has the best policy."
    return (
        f"In {len(lower)} of {_pairs(n)} another RM than the most accurate one has the best policy; its lead in LM performance "
        f"{_reach(lower['regret'], '.3f')}. So whoever trains once against each checkpoint and keeps the best policy keeps "
        f"the most accurate RM's in {n - len(lower)} of {_pairs(n)}."
    )


def thirds(found: Chance) -> str:
    """The middle third against the top third over all pairs, where accuracy is irrelevant."""
    row = _joint(found).loc[("irrelevant", "thirds_sd")]
    size = abs(row["observed"])
    differs = f"{'better' if row['observed'] > 0 else 'worse'} than the top third by {size:.2f} standard deviations"
    return (
        f"On average over all pairs the middle third is {differs if size >= 0.005 else 'as good as the top third'}. "
        "If accuracy did not matter, the difference would be between "
        f"{_signed(row['low'])} and {_signed(row['high'])} in 95 % of cases (as much or more in favour of the middle: "
        f"{_p(row['p'])})."
    )


def variances(table: pd.DataFrame) -> str:
    """What :func:`published.curve_variances` says: which RM of a pair has the larger mean and variance, and what the variance
    mixes; a list with an item a metric."""
    lines = []
    for metric, name in {"raw_reward": "raw reward", "kl": "KL estimate"}.items():
        rows = table[table["metric"] == metric].set_index(["policy", "task"])
        if rows.empty:
            continue
        rows = rows.assign(batches=rows["variance"] * rows["noise"])
        trend, slow, noise = rows[["trend", "slow", "noise"]].mean()
        best, most = (rows[rows["rm_role"] == role] for role in ("best_performing", "most_accurate"))
        both = best.index.intersection(most.index)
        mean, total, batches = (int((best.loc[both, k] > most.loc[both, k]).sum()) for k in ("mean", "variance", "batches"))
        scale = " (each RM's own reward, on its own scale)" if metric == "raw_reward" else ""
        lines.append(
            f"- **{name[0].upper()}{name[1:]}**{scale}: the best-performing RM's curve has the higher mean in {mean} of "
            f"{_pairs(len(both))}. Of the variance on average {_share(trend)} is a straight trend over training, "
            f"{_share(slow)} is slow change of another form, and {_share(noise)} is difference between one batch and the "
            f"next; of single curves that last share {_reach(100 * rows['noise'], '.0f')} %. The best-performing RM's curve "
            f"has the larger variance in {total} of {_pairs(len(both))}; of the differences between "
            f"batches alone, in {batches}."
        )
    return "\n".join(lines)


def bars(table: pd.DataFrame) -> str:
    """How well the points of the curves give the means and variances that the paper's bars show."""
    table = table[table["variance_bar"].notna() & table["mean_bar"].notna()]
    off = (table["variance"] / table["variance_bar"] - 1).abs()
    aside = (table["mean"] - table["mean_bar"]).abs()
    others = table[(off >= 1e-6) | (aside >= 1e-6)]
    count, n = len(table) - len(others), len(table)
    text = f"The points of {count} of {n} {_of(n, 'curve')} give the paper's mean and variance to a millionth"
    if others.empty:
        return f"{text}."
    where = listed(sorted(set(others["policy"]), key=published.POLICIES.index))
    which = f"{len(others)} {_of(len(others), 'curve')} of {where} {_of(len(others), 'is', 'are')}"
    return (
        f"{text}. {which} off by up to {aside.max():.2f} in the mean and {_share(off.max())} in the variance, as two "
        "samples of one run would be."
    )


def numbers(standing: pd.DataFrame, peaks: pd.DataFrame, found: Chance) -> dict[str, float]:
    """What other pages may want to say, by name: counts of pairs, mean counts in the two worlds (to 0.1), mean correlations."""
    joint = _joint(found)
    count, rho = joint["mean"], joint["observed"]
    return {
        "pairs": len(standing),
        "missed": int((standing["top_rank"] > 1).sum()),
        "missed_by_chance": round(float(count["irrelevant", "not_first"]), 1),
        "missed_as_measured": round(float(count["as measured", "not_first"]), 1),
        "spearman": round(float(rho["irrelevant", "spearman"]), 3),
        "spearman_upper": round(float(rho["irrelevant", "spearman_upper"]), 3),
        "middle_third_ahead": int((standing["middle_third"] > standing["top_third"]).sum()),
        "surfaces_alone": int((peaks["near"] == 0).sum()),
        "surfaces_worse_than_mean": int((peaks["error_surface"] > peaks["error_mean"]).sum()),
    }


def facts(tables: Tables) -> dict[str, str]:
    """What the book's prose says of the figures, by name, as Markdown; every value is one that page 06 has too."""
    standing, peaks = published.standing(tables.markers), published.peaks(tables.markers, tables.headline)
    rho, n = standing["spearman"], len(standing)
    called = standing.merge(tables.headline, on=["policy", "task"])  # the RM that the training curves call best-performing
    lowest = tables.curves[tables.curves["metric"] == "kl"].groupby(["policy", "task", "rm_role"])["value"].min()
    rows = ["| policy | task | best RM | most accurate RM | its rank | corr. | surface |", "|---|---|---|---|---|---|---|"]
    for row, peak in zip(standing.itertuples(), peaks.itertuples(), strict=True):
        best = f"{row.best_accuracy:.3f}→{row.best_performance:.3f}"
        top = f"{row.top_accuracy:.3f}→{row.top_performance:.3f}"
        rest = f"{row.top_rank}/{row.models} | {row.spearman:+.2f} | {peak.peak:.3f}"
        rows.append(f"| {row.policy} | {row.task} | {best} | {top} | {rest} |".replace("T5-", "T5\u2011").replace("-", "−"))
    bunched = [
        f"{round(row.top_quarter * row.models)} of {row.models} for {row.task} (from {row.top_low:.3f} to {row.high:.3f})"
        for row in published.clusters(tables.markers).itertuples()
    ]
    return {
        "published_table": "\n".join(rows),
        "published_cases": str(n),
        "bunched": listed(bunched),
        "top_wins": str((standing["top_rank"] == 1).sum()),
        "top_rank_worst": str(standing["top_rank"].max()),
        "correlations_positive": str((rho > 0).sum()),
        "correlation_lowest": _signed(rho.min()),
        "correlation_highest": _signed(rho.max()),
        "middle_third_ahead": str((standing["middle_third"] > standing["top_third"]).sum()),
        "surfaces_above_data": str((peaks["overshoot"] > 0).sum()),
        "surfaces_impossible": impossible(peaks),
        "best_is_highest": str((called["fig2d_best_step"] == called["best_step"]).sum()),
        "kl_curves": str(len(lowest)),
        "kl_negative": str((lowest < 0).sum()),
        "kl_lowest": f"{lowest.min():.1f}".replace("-", "−"),
    }


def _joint(found: Chance) -> pd.DataFrame:
    return found.joint.set_index(["null", "statistic"])


def _count(found: Chance) -> int:
    return len(found.pairs) // len(NULLS)


def _pairs(n: int) -> str:
    return f"{n} {_of(n, 'pair')}"


def _of(n: int, one: str, many: str = "") -> str:
    return one if n == 1 else many or f"{one}s"


def _p(value: float) -> str:
    return "p < 0.001" if value < 0.001 else f"p = {value:.{3 if value < 0.1 else 2}f}"


def _share(value: float) -> str:
    return f"{value:.0%}".replace("%", " %")


def _span(values: pd.Series, form: str) -> str:
    """``LOW to HIGH`` of the values, or the one number where both print alike; none at all is ``unknown``."""
    known = values.dropna()
    if known.empty:
        return "unknown"
    low, high = (_number(value, form) for value in (known.min(), known.max()))
    return low if low == high else f"{low} to {high}"


def _reach(values: pd.Series, form: str) -> str:
    text = _span(values, form)
    return f"goes from {text}" if " to " in text else f"is {text}"


def _signed(value: float) -> str:
    return _number(value, "+.2f")


def _number(value: float, form: str) -> str:
    """A number in a format, with a real minus sign, and none before a zero."""
    text = format(value, form)
    return format(0, form) if text.startswith("-") and not float(text) else text.replace("-", "−")
