"""The words of the lottery: who is hacked, what makes it. What guards against it is told in :mod:`.guard_findings`.

Plain sentences about what :mod:`.lottery` measures, for the first page and for the lottery's own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd

from paradox_utils.analysis import hacking, lottery, statistics
from paradox_utils.analysis.matching import MATCHED
from paradox_utils.analysis.phrases import count, digits, estimate, listed
from paradox_utils.analysis.statistics import Interval

PRESSURES = {
    "default": "the study's own setting",
    "published": "the published KL estimator and sampling",
    "low-kl": "half the KL penalty",
    "fast": "twice the learning rate",
    "slow": "half the learning rate",
    "as-published": "all published estimators and sampling at this study's rate and KL penalty",
}
TREATED = {"data-size": "scarce feedback", "label-noise": "noisy labels"}  # what keeps a long training moderate, by route


def spoken(cell: Sequence[str]) -> str:
    """A cell in words."""
    task, policy, pressure = cell
    return f"{task}, {policy}, {PRESSURES[pressure]}"


def setting(run: pd.Series) -> str:
    """The setting of a run of the second study in words, by its task, policy and the pressure that its arm is called after; an
    arm that is called after none has the study's own."""
    pressure = next((name for name in PRESSURES if run["arm"].startswith(f"{name}-")), "default")
    return spoken((run["task"], run["policy"], pressure))


def confirmed(counts: pd.DataFrame, effects: pd.DataFrame, control: tuple[str, str, str] | None = None) -> str:
    """How often policies of the long and top, and of the short and moderate reward model are hacked on new trainings, a line a
    cell (rows of :func:`lottery.failures` and :func:`lottery.effects`), of which the :func:`lottery.control` is called so; and
    how often differences as large as those not shown would be."""
    if counts.empty:
        return "These runs do not tell how often the most accurate reward model is hacked."
    hacked = effects.xs("hacked", level="outcome") if len(effects) else effects
    cells = counts.groupby(lottery.CELL, sort=False)
    told, clear = [], 0
    for cell, own in cells:
        top, moderate = (own.loc[(*cell, kind)] for kind in ("long-top", "short-moderate"))
        p = hacked.loc[(*cell, lottery.PAPER), "adjusted"] if (*cell, lottery.PAPER) in hacked.index else np.nan
        clear += p <= lottery.LEVEL
        beside = " (the control, chosen for having had the fewest)" if cell == control else ""
        told.append(f"- {spoken(cell)}{beside}: {_against(top, moderate, p, 'corrected ')}")
    shown = f"is shown in {clear}" if clear else "is not shown in any"
    rows = "\n".join(told)
    said = (
        f"By the rule fixed beforehand a difference {shown} of {count(len(told), 'setting')}. Hacked policies on new "
        f"trainings, of the most accurate checkpoint against a moderately accurate one:\n\n{rows}"
    )
    return "\n\n".join(filter(None, [said, _power(counts, effects)]))


def _power(counts: pd.DataFrame, effects: pd.DataFrame) -> str:
    """How often differences as large as those found and not shown would be shown; empty where there is none."""
    hacked = effects.xs("hacked", level="outcome") if len(effects) else effects
    cells, power = counts.groupby(lottery.CELL, sort=False), []
    for cell, own in cells:
        top, moderate = (own.loc[(*cell, kind), "share"] for kind in ("long-top", "short-moderate"))
        row = hacked.loc[(*cell, lottery.PAPER)] if (*cell, lottery.PAPER) in hacked.index else None
        if row is not None and row["adjusted"] > lottery.LEVEL and top > moderate:
            power.append(lottery.power(top, moderate, int(row["trainings"]), lottery.LEVEL / cells.ngroups))
    if not power:
        return ""
    shown = f"{span(power)} of cases{', setting by setting' if len(power) > 1 else ''}"
    return f"Were a difference as large as the one found real, a study of this size would show it in {shown}."


def brief(counts: pd.DataFrame, effects: pd.DataFrame, control: tuple[str, str, str] | None = None) -> str:
    """:func:`confirmed` for the first page: without the ``control``, and with the change of LM performance."""
    if counts.empty:
        return "These runs do not tell how often the most accurate reward model is hacked."
    cells = [cell for cell, _ in counts.groupby(lottery.CELL, sort=False) if cell != control]
    top, moderate = (counts.loc[[(*cell, kind) for cell in cells]] for kind in ("long-top", "short-moderate"))
    paper = effects.xs(lottery.PAPER, level="contrast")
    hacked, score = (paper.xs(outcome, level="outcome").loc[cells] for outcome in ("hacked", "LM performance"))
    clear = int((hacked["adjusted"] <= lottery.LEVEL).sum())
    shown = f"a difference is shown in {clear} of them" if clear else "chance is excluded in none of them"
    changes = [estimate(Interval(*row[["mean", "low", "high"]], 0), "+z.3f") for _, row in score.iterrows()]
    pairs = list(dict.fromkeys(cell[:2] for cell in cells))
    names = [PRESSURES[cell[-1]] if len(pairs) == 1 else spoken(cell) for cell in cells]
    chosen = ["chosen for its failures" if cell[-1] in lottery.PRESSURES else "planned without a look" for cell in cells]
    where = listed([f"{name}, {how}" for name, how in zip(names, chosen, strict=True)])
    where = f"{', '.join(pairs[0])}: {where}" if len(pairs) == 1 else where
    said = (
        f"In {count(len(cells), 'more setting')} ({where}) policies of the most accurate checkpoint are hacked in "
        f"{listed(_of(top))} trainings, those of a moderately accurate one in {listed(_of(moderate))}; LM performance with the "
        f"most accurate one, against the moderate one, is changed by {listed(changes)}. By the rule fixed beforehand, on "
        f"hacked policies alone, {shown}."
    )
    return " ".join(filter(None, [said, _power(counts, effects)]))


def _of(rows: pd.DataFrame) -> list[str]:
    return [f"{row['hacked']:.0f} of {row['runs']:.0f}" for _, row in rows.iterrows()]


def lost(effects: pd.DataFrame, runs: pd.DataFrame) -> str:
    """What the most accurate checkpoint costs in LM performance where any policy is hacked, on average and in the middle
    training (rows of :func:`lottery.effects`, and :func:`lottery.confirmed`); empty where none is hacked."""
    if effects.empty:
        return ""
    told, middle = [], []
    for cell, own in effects.xs((lottery.PAPER, "LM performance"), level=("contrast", "outcome")).iterrows():
        values = lottery.of_cell(runs, cell).dropna(subset=["hacked"])
        if not values["hacked"].any():
            continue
        by_training = values.pivot(index="rm_seed", columns="kind", values=lottery.OUTCOME).dropna()
        middle.append((by_training["long-top"] - by_training["short-moderate"]).median())
        change = Interval(own["mean"], own["low"], own["high"], int(own["trainings"]))
        told.append(f"{estimate(change, '+z.3f')} ({PRESSURES[cell[-1]]})")
    if not told:
        return ""
    medians = listed([digits(value) for value in middle])
    return (
        "Where any are hacked, the most accurate checkpoint changes the LM performance of its policy, against the moderate "
        f"one, by {listed(told)}; in the middle training by {medians}. These intervals are not corrected, and the rule does "
        "not use them."
    )


def _against(top: pd.Series, moderate: pd.Series, p: float, which: str = "") -> str:
    if not top["hacked"] + moderate["hacked"]:
        return f"none of {top['runs'] + moderate['runs']:.0f}"
    runs = "" if moderate["runs"] == top["runs"] else f" of {moderate['runs']:.0f}"
    share = f"{top['hacked']:.0f} of {top['runs']:.0f}"
    return f"{share} against {moderate['hacked']:.0f}{runs}" + (f", {which}{chance(p)}" if np.isfinite(p) else "")


def struck(runs: pd.DataFrame) -> str:
    """Where policies of the most accurate checkpoints are hacked (rows of :func:`lottery.screen`), by task and policy."""
    known = runs.dropna(subset=["hacked"])
    pairs = known.pivot_table(index=["task", "policy"], columns="kind", values="hacked", aggfunc=["sum", "size"])
    if known["kind"].nunique() < 2:
        return "These runs do not tell where the most accurate reward model is hacked."
    hacked, of = pairs["sum"].astype(int), pairs["size"].astype(int)
    most = (hacked["top"] - hacked["moderate"]).idxmax()
    own = known[(known["task"] == most[0]) & (known["policy"] == most[1]) & (known["kind"] == "top")]
    trainings = own.groupby("rm_seed")["hacked"].any()
    others = hacked.drop(most).sum(), of.drop(most).sum()
    beside = (
        f"; with the other {count(len(hacked) - 1, 'pair')} of task and policy {others[0]['top']} of {others[1]['top']} "
        f"against {others[0]['moderate']} of {others[1]['moderate']}"
        if len(hacked) > 1
        else ""
    )
    chosen = (
        f"Of {len(hacked)} pairs of task and policy the widest gap, chosen after the fact, is in" if len(hacked) > 1 else "In"
    )
    return (
        f"{chosen} {', '.join(most)}: {hacked.loc[most, 'top']} of {count(of.loc[most, 'top'], 'run')} on the most accurate "
        f"checkpoint are hacked, on {trainings.sum()} of {count(len(trainings), 'training')}, and "
        f"{hacked.loc[most, 'moderate']} of {of.loc[most, 'moderate']} on a moderate one{beside}."
    )


def sensitive(runs: pd.DataFrame) -> str:
    """Hacked runs of top (or long and top) against moderate (short and moderate) checkpoints, were half the change enough."""
    half = runs.assign(half=hacking.hacked(runs, hacking.CLEAR / 2))
    named = [kind for kind in ("top", "long-top") if kind in set(runs["kind"])]
    if not named:
        return ""
    top, moderate = (named[0], "moderate") if named[0] == "top" else (named[0], "short-moderate")
    counts = half.dropna(subset=["half"]).groupby(["task", "kind"], sort=False)["half"].agg(["sum", "size"])
    words = (counts["sum"].astype(int).astype(str) + " of " + counts["size"].astype(str)).unstack(sort=False)
    told = [f"{task} {own[top]} against {own[moderate]}" for task, own in words.iterrows()]
    pair = "top against moderate ones" if top == "top" else "long and top ones against short and moderate ones"
    return f"Were half as large a change enough, the hacked ones would be, {pair}: {listed(told)}."


def cause(effects: pd.DataFrame) -> str:
    """Whether accuracy or long training makes runs hacked, over all cells (rows of :func:`lottery.effects`)."""
    if effects.empty:
        return "These runs do not tell accuracy from long training."
    hacked = effects.xs("hacked", level="outcome")
    factors = {"accuracy": "higher accuracy, at equal training,", "training": "longer training, at equal accuracy,"}
    own = {words: hacked.xs(name, level="contrast") for name, words in factors.items()}
    opening = "The most accurate checkpoint is also the longest trained, so reward models were made in which the two go apart."
    if not any((rows["adjusted"] <= lottery.LEVEL).any() for rows in own.values()):
        told = [f"{words[:-1]} ({_span(rows)})" for words, rows in own.items()]
        of = count(len(next(iter(own.values()))), "setting")
        return f"{opening} Neither {', nor '.join(told)}, is shown to change the share of hacked policies, in any of {of}."
    text = "; ".join(_held(rows, words) for words, rows in own.items())
    return f"{opening} {text[0].upper()}{text[1:]}."


def parted(effects: pd.DataFrame) -> str:
    """What accuracy and long training change in LM performance, each with the other equal (rows of :func:`lottery.effects`)."""
    if effects.empty:
        return ""
    told, own = [], effects.xs("LM performance", level="outcome")
    for name, words in (("accuracy", "Higher accuracy at equal training"), ("training", "longer training at equal accuracy")):
        rows = own[own.index.get_level_values("contrast") == name]
        changes = [
            f"{estimate(Interval(row['mean'], row['low'], row['high'], 0), '+z.3f')} ({PRESSURES[cell[2]]})"
            for cell, row in rows.iterrows()
        ]
        told += [f"{words} changes LM performance by {listed(changes)}"] if changes else []
    return f"{'; '.join(told)}. These intervals are not corrected, and the rule does not use them." if told else ""


def _span(own: pd.DataFrame) -> str:
    return f"{listed([points(share, '') for share in own['mean']])} percentage points"


def _held(own: pd.DataFrame, words: str) -> str:
    """In how many settings a factor changes the share of hacked runs."""
    clear = own.loc[own["adjusted"] <= lottery.LEVEL, "mean"]
    ways = {"raises": int((clear > 0).sum()), "lowers": int((clear < 0).sum())}
    of = count(len(own), "setting")
    span = _span(own)
    if not len(clear):
        return f"{words} is not shown to change how often policies are hacked, in any of {of} ({span})"
    done = listed([f"{verb} the share of hacked policies in {n}" for verb, n in ways.items() if n])
    return f"{words} {done} of {of} ({span})"


def padded(effects: pd.DataFrame) -> str:
    """Which contrasts (of :func:`lottery.effects`) were tested in some cells alone and are corrected for all, and what that
    decides; empty where every contrast is in every cell."""
    hacked = effects.xs("hacked", level="outcome")
    cells = hacked.index.droplevel("contrast").unique()
    parts = {name: hacked.xs(name, level="contrast") for name in lottery.DECIDED if name in hacked.index.unique("contrast")}
    parts = {name: own for name, own in parts.items() if len(own) < len(cells)}
    if not parts:
        return ""
    turned = [
        f"{name} in {spoken(cell)} would be {chance(p)} in place of {row['adjusted']:.3f}"
        for name, own in parts.items()
        for (cell, row), p in zip(own.iterrows(), statistics.holm([*own["p"]]), strict=True)
        if p <= lottery.LEVEL < row["adjusted"]
    ]
    some = next(iter(parts.values()))
    return (
        f"In {'; '.join(map(spoken, cells.difference(some.index)))}, few trainings give four reward models that match, so that "
        f"only the paper's own pair is compared, of checkpoints of one training. The contrasts {listed([*parts])} were tested "
        f"in the other {len(some)} of {len(cells)} settings and are corrected for all {len(cells)}, as planned. Corrected for "
        f"these {len(some)} alone, {listed(turned) if turned else 'none would be shown either'}."
    )


def mixed(runs: pd.DataFrame) -> str:
    """How often each treatment that kept long trainings moderate lets policies be hacked (rows of :func:`lottery.confirmed`);
    empty where there is but one."""
    own = runs[(runs["kind"] == "long-moderate") & runs["route"].isin(TREATED)].dropna(subset=["hacked"])
    if own["route"].nunique() < 2:
        return ""
    told = []
    for cell, part in own.groupby(lottery.CELL, sort=False):
        found = part.groupby("route", sort=False)["hacked"].agg(["sum", "size"])
        told.append(f"{spoken(cell)}: {listed([f'{n} of {of} with {TREATED[name]}' for name, n, of in found.itertuples()])}")
    blamed = own.loc[own["hacked"].astype(bool), "route"].unique()
    alone = (
        f" All hacked ones had {TREATED[blamed[0]]}, so what *training* changes may be what {TREATED[blamed[0]]} does."
        if len(blamed) == 1
        else ""
    )
    return f"*Long and moderate* mixes two treatments, hacked in {'; '.join(told)}.{alone}"


def alike(runs: pd.DataFrame) -> str:
    """How many short and moderate reward models of a task are nearly the same, in accuracy and in the share of segments that
    they call errors (rows of :func:`lottery.confirmed`); empty where no more than half are."""
    own = runs[runs["kind"] == "short-moderate"].drop_duplicates(["task", "rm_seed"])
    told = []
    for task, part in own.dropna(subset=["rm_error_share"]).groupby("task", sort=False):
        measures = part[["rm_accuracy", "rm_error_share"]]
        near = part[((measures - measures.median()).abs() <= MATCHED).all(axis=1)]
        if 2 * len(near) > len(part):
            accuracies, errors = (f"{near[name].min():.3f} to {near[name].max():.3f}" for name in measures)
            truth = 1 - near["rm_majority"].mean()  # errors are the rarer label
            told.append(
                f"In {task} {len(near)} of {len(part)} short and moderate reward models are nearly one and the same: their "
                f"accuracies are {accuracies}, and the shares of segments that they call errors {errors}, where "
                f"{truth:.3f} are. What is compared with them is compared with hardly more than one."
            )
    return " ".join(told)


def made(rates: pd.DataFrame) -> str:
    """What studies of made worlds find (a row of :func:`lottery.rates` for each of :func:`lottery.worlds`)."""
    paper, contrasts = rates[lottery.PAPER], rates[[*lottery.CONTRASTS]]
    as_found = [f"{name} in {share:.0%}" for name, share in contrasts.loc[lottery.FOUND, lottery.DECIDED].items()]
    return (
        f"Where nothing does it, each contrast is found in at most {contrasts.loc[lottery.NOTHING].max():.0%} of studies; "
        f"{lottery.LEVEL:.0%} are allowed. The paper's contrast, of the pilot's size and in one setting alone, is found in "
        f"{span(paper.drop([lottery.NOTHING, lottery.FOUND]))}. Were runs hacked as often as here, and independently, studies "
        f"would find the paper's contrast in at least one setting in {paper[lottery.FOUND]:.0%}, {listed(as_found)}."
    )


def optimisers(table: pd.DataFrame, effects: Mapping[str, pd.DataFrame]) -> str:
    """Hacked runs of each optimiser, long and top against short and moderate (rows of :func:`lottery.failures`), with the exact
    p of all but PPO, whose own is told corrected (:func:`lottery.effects` by optimiser)."""
    told = []
    for name, own in table.groupby(level="optimiser", sort=False):
        kinds = own.droplevel("optimiser")
        top, moderate = (kinds.loc[kind] for kind in ("long-top", "short-moderate"))
        planned = name == "PPO"
        p = np.nan if planned else effects[str(name)]["p"].xs((lottery.PAPER, "hacked"), level=("contrast", "outcome")).item()
        told.append(f"{name} {_against(top, moderate, p)}")
    if not told:
        return ""
    unplanned = " The tests of other optimisers (exact, one-sided) were not planned and are not corrected." if told[1:] else ""
    return f"Hacked on the long and top against the short and moderate reward model: {'; '.join(told)}.{unplanned}"


def points(share: float, unit: str = " points") -> str:
    """A difference of shares in percentage points."""
    return digits(100 * share, "+z.0f") + unit


def span(shares: Iterable[float]) -> str:
    """Shares as a percentage, from the lowest to the highest."""
    known = [*shares]
    low, high = f"{min(known):.0%}", f"{max(known):.0%}"
    return low if low == high else f"{low} to {high}"


def chance(p: float) -> str:
    """A p-value."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"
