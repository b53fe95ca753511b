"""Tables of a study's comparisons by the rule: what its pages show, and what stands behind a click."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from paradox_utils.analysis import verdict
from paradox_utils.analysis.comparison import ALL
from paradox_utils.analysis.outcomes import Reading, reward_models
from paradox_utils.analysis.verdict import PRIMARY, Finding

REGRET = ["regret", "low", "high", "status"]
ROW = ["route", "task", "policy", "name", *REGRET, "pooled"]


def told(runs: pd.DataFrame, primary: Finding | None, reading: Reading = "as measured") -> pd.DataFrame:
    """The runs of the deciding arm by the rule: all of them, each policy, each task; then what decides nothing (an empty
    ``status``, but for a rank for each task). Those without a regret are left out."""
    rows = verdict.decided(runs, reading)
    if primary:
        further = primary.of.further
        rows.loc["a rank for each task"] = [*_numbers(further.within), primary.within]
        rows.loc[f"without {further.odd}"] = [*_numbers(further.without), ""]
        rows.loc["gain by validation"] = [*_numbers(further.chosen), ""]
    return rows.dropna(subset=["regret"])


def forest(main: pd.DataFrame, pooled: Sequence[Finding], findings: Sequence[Finding]) -> pd.DataFrame:
    """Every comparison with an interval and what the rule needs, a row each, with the columns :data:`ROW`.

    ``main``: of :func:`told`; ``pooled``: an arm over its tasks and policies; ``findings``: of a task, policy and arm. A row
    over several tasks or policies has none of its own, and is ``pooled``.
    """
    rows = [
        {"route": PRIMARY, "task": "", "policy": "", "name": "all runs together" if name == "all" else name}
        | row.to_dict()
        | {"pooled": True}
        for name, row in main[main["status"] != ""].iterrows()
    ]
    tasks, policies = ({getattr(f.of, by) for f in findings} for by in ("task", "policy"))
    for row in rows:  # a comparison of one task, or of one policy, over the others
        row |= {by: row["name"] for by, known in (("task", tasks), ("policy", policies)) if row["name"] in known}
    for f in (*(f for f in pooled if f.of.arm != PRIMARY), *findings):
        if not f.missing:
            whole = f.of.task == ALL
            place = {"task": "" if whole else f.of.task, "policy": "" if whole else f.of.policy}
            name = "all runs together" if whole else f"{f.of.task}, {f.of.policy}"
            rows.append({"route": f.of.arm, **place, "name": name} | _row(f) | {"pooled": whole})
    found = pd.DataFrame(rows, columns=ROW).dropna(subset=["low"])
    order = {route: place for place, route in enumerate(dict.fromkeys(found["route"]))}
    return found.sort_values("route", key=lambda routes: routes.map(order), kind="stable", ignore_index=True)


def alone(runs: pd.DataFrame, findings: Sequence[Finding]) -> pd.DataFrame:
    """Each task and policy of the deciding arm: LM performance before PPO, with the most accurate reward model and with the one
    that turned out best, and the accuracies of both (means over trajectories); and the regret by the rule."""
    rows = []
    for f in (f for f in findings if f.of.arm == PRIMARY):
        own = runs[(runs["task"] == f.of.task) & (runs["policy"] == f.of.policy)]
        models = reward_models(own).dropna(subset=["accuracy", "performance"])
        models = models.sort_values(["accuracy", "rm_step"], ascending=False)
        by_seed = models.groupby("rm_seed")
        row = {"task": f.of.task, "policy": f.of.policy, "before PPO": own["lm_performance_start"].mean()}
        named = {"most accurate": by_seed.head(1), "best": models.loc[by_seed["performance"].idxmax()]}
        for name, chosen in named.items():
            row |= {f"accuracy, {name}": chosen["accuracy"].mean(), f"with the {name}": chosen["performance"].mean()}
        rows.append(row | _row(f))
    return pd.DataFrame(rows)


def compared(findings: Sequence[Finding]) -> pd.DataFrame:
    """All that the rule measures of each comparison, those included that lack what it needs (``missing``)."""
    rows = []
    for f in findings:
        of, bend, spearman = f.of, f.of.quadratic, f.of.spearman
        row = {"arm": of.arm, "task": of.task, "policy": of.policy, "models": of.counts.reward_models}
        row |= {"trajectories": of.counts.rm_seeds, "Spearman": spearman.estimate}
        row |= {"spearman low": spearman.low, "spearman high": spearman.high} | _row(f)
        row |= {"p above": f.p_above, "p below": f.p_below, "gain by validation": of.further.chosen.estimate}
        row |= {"p two lines": f.p_two_lines, "p quadratic": bend.p_supported}
        row |= {"turning point": bend.turning_point, "turning low": bend.turning_low}
        row |= {"turning high": bend.turning_high, "turns inside": bend.turns_inside}
        rows.append(row | {"missing": ", ".join(f.missing)})
    return pd.DataFrame(rows)


def _row(f: Finding) -> dict[str, object]:
    return dict(zip(REGRET, (*_numbers(f.of.regret), f.status), strict=True))


def _numbers(of: verdict.Interval) -> tuple[float, float, float]:
    return of.estimate, of.low, of.high
