"""What the back-test was to reach, beside what it reached, in the tables that it leaves; and how a page shows these."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pandas as pd

from paradox_utils import files
from paradox_utils.analysis import tables
from paradox_utils.choose import foretold
from paradox_utils.choose.pools import ACCURATE, BASELINES, KNOWN, POOL, TOOL
from paradox_utils.data.tasks import among
from paradox_utils.figures import choose as draw
from paradox_utils.figures.show import Shown, show
from paradox_utils.figures.table import interval, table
from paradox_utils.study.tables import BACKTEST, RECORDED

KEPT = f"{RECORDED}/choose-backtest"
REGRET, TAIL = 0.025, 0.15  # in pools: mean, and 95th percentile
WORSE = 0.005  # than the most accurate, on average
LOST = 0.05  # in the families where the most accurate are worse teachers
HOLD = (0.75, 0.90)  # of the sets of 80 % contain the best
TEXT = ("id", "task", "policy", "arm", "route", "setting", "limit", "choice", "family", "measure", "of")

Tables = Mapping[str, pd.DataFrame]
Aim = tuple[str, float, float | None, float | None]  # what, found, and the bounds


def load(folder: str = KEPT) -> dict[str, pd.DataFrame]:
    """The tables of a recorded back-test by name; none where it is not recorded."""
    path = files.resolve(folder)
    if not (path / "regrets.csv").is_file():
        return {}
    return {name: tables.read_table(path / f"{name}.csv", text=TEXT) for name in BACKTEST}


def aims(made: Tables) -> pd.DataFrame:
    """Each aim with what was ``found``, the ``target`` in words, and whether it is ``met``; without those of empty tables."""
    rows = []
    for what, found, low, high in (*_of_pools(made["regrets"]), *_of_families(made["known"]), *_of_sets(made["judged"])):
        target = f"≤ {high:g}" if low is None else f"≥ {low:g}" if high is None else f"{low:g} to {high:g}"
        met = (low is None or found >= low) and (high is None or found <= high)  # NaN meets none
        rows.append({"aim": what, "found": found, "target": target, "met": "met" if met else "missed"})
    return pd.DataFrame(rows, columns=["aim", "found", "target", "met"])


def _of_pools(regrets: pd.DataFrame) -> Iterator[Aim]:
    if regrets.empty or "choice" not in regrets:
        return
    by = regrets.set_index("choice")
    yield f"mean regret in pools of {POOL}", by.loc[TOOL, "mean"], None, REGRET
    yield "its 95th percentile", by.loc[TOOL, "95 %"], None, TAIL
    yield f"mean regret above that of the {ACCURATE}", by.loc[TOOL, "mean"] - by.loc[ACCURATE, "mean"], None, WORSE
    for task in by.columns.difference(["mean", "95 %", "performance", "pools"]):
        yield f"the same in {task}", by.loc[TOOL, task] - by.loc[ACCURATE, task], None, WORSE


def _of_families(known: pd.DataFrame) -> Iterator[Aim]:
    for _, row in known.iterrows() if "family" in known else ():
        if row["family"].startswith(KNOWN[0]):
            yield f"regret in {row['family']}", row[TOOL], None, LOST
        else:
            yield f"choices of one of the best two in {row['family']}", row["in two"], 1.0, None


def _of_sets(judged: pd.DataFrame) -> Iterator[Aim]:
    for _, row in judged.iterrows() if "contains" in judged else ():
        prompts = f"{row['judged prompts']:.0f} judged prompts"
        yield f"sets of 80 % that contain the best by PPO, {prompts}", row["contains"], *HOLD
        yield f"the same, with PPO's deviation fitted on the other tasks, {prompts}", row["contains_fitted"], *HOLD


def sentence(made: Tables) -> str:
    """What the back-test found, or that there is none."""
    if not made:
        return f"Nothing stands here yet of what PPO made of such predictions: `{KEPT}` is not there."
    aimed = aims(made)
    again = (
        "The reward models of the recorded study were trained again for this, and read as the candidates above; PPO had been "
        "run on each."
    )
    return f"{(aimed['met'] == 'met').sum()} of {len(aimed)} aims are met. {tested(made)} {again}"


def tested(made: Tables) -> str:
    """What choosing by predicted gain costs, beside the most accurate and a random one."""
    by = made["regrets"] if made else pd.DataFrame()
    if by.empty or "choice" not in by:
        return f"Too few reward models are there for pools of {POOL}."
    lost = by.set_index("choice")["mean"]
    return (
        f"Among {POOL} trained reward models, choosing by predicted gain costs {lost[TOOL]:.3f} of final LM performance on "
        f"average, choosing the {ACCURATE} {lost[ACCURATE]:.3f}, and choosing at random {lost['random']:.3f}."
    )


# --- on a page ----------------------------------------------------------------------------------------------------------------


def shown(made: Tables) -> dict[str, Shown]:
    """The figure ``gains`` and a table for each part of the back-test, by name; those that it has rows for."""
    if not made:
        return {}
    found = {"aims": table(aims(made).set_index("aim"), name="backtest-aims", caption="**What was to be reached, and was.**")}
    makers = {"gains": _gains, "agreement": _agreement, "regrets": _regrets, "known": _known, "judged": _judged}
    needs = {"gains": "predictions"}
    for name, maker in (makers | {"foretold": _foretold}).items():
        rows = made[needs.get(name, name)]
        if len(rows):
            found[name] = maker(rows)
    return found


def _gains(predictions: pd.DataFrame) -> Shown:
    away = (predictions["reached_sampled"] - predictions["gain"]).abs().mean()
    return show(
        draw.backtest(predictions),
        name="backtest-gains",
        caption="**The gain that PPO reached, beside the gain that was predicted**, in the judged score of sampled responses. "
        "A dot is a recorded run; on the line both are equal.",
        alt=f"{predictions['task'].nunique()} panels, one a task: {len(predictions)} runs, {away:.3f} from the line on "
        "average.",
        data=predictions.rename(columns={"id": "run"}),
    )


def _agreement(rows: pd.DataFrame) -> Shown:
    names = {"spearman": "Spearman", "accurate": "accuracy's", "beyond": "reached − predicted", "short": "cut by samples"}
    known = rows.assign(**{"95 % interval": interval(rows["low"], rows["high"])}).rename(columns=names)
    columns = ["runs", "Spearman", "95 % interval", "accuracy's", "reached − predicted", "cut by samples"]
    return table(
        known.set_index(["task", "policy"])[columns],
        name="backtest-agreement",
        caption="**Predicted and reached gain go together**, over trained reward models: Spearman's correlation, that of "
        "accuracy and gain, the mean difference, and the share of readings that end where the samples do.",
        data=rows,
    )


def _regrets(rows: pd.DataFrame) -> Shown:
    tasks = among(rows.columns)
    return table(
        rows.sort_values("mean", kind="stable").set_index("choice")[["mean", "95 %", "performance", *tasks]],
        name="backtest-regrets",
        caption=f"**What each way to choose costs among {POOL} trained reward models**: the final LM performance that the "
        "choice lacks to that of the best (mean, 95th percentile, and the mean by task), and that of what is chosen.",
        data=rows,
    )


def _known(rows: pd.DataFrame) -> Shown:
    names = {"in two": "one of the best two"}
    ways = [TOOL, *list(BASELINES)[:3], "variance"]
    return table(
        rows.rename(columns=names).set_index("family")[[*ways, "one of the best two", "seeds"]],
        name="backtest-known",
        caption="**What each way to choose costs in the families of known truth**, and how often the predicted gain chooses "
        "one of the best two.",
        data=rows,
    )


def _judged(rows: pd.DataFrame) -> Shown:
    names = {
        "contains": "sets hold",
        "size": "their size",
        "contains_fitted": "wider sets hold",
        "size_fitted": "size of these",
    }
    named = rows.rename(columns=names).set_index("judged prompts")
    return table(
        named[["regret", *names.values(), "spread", "pools"]],
        name="backtest-judged",
        caption="**By the number of judged prompts**: the regret, how often the set of 80 % contains the best by PPO, and the "
        "same for sets that allow PPO the deviation (*spread*) that the other tasks show.",
        data=rows,
    )


def _foretold(rows: pd.DataFrame) -> Shown:
    words = foretold.SAMPLES | foretold.PROBES | foretold.WORDS
    wide = rows.pivot(index="measure", columns="task", values="auc").loc[list(words)]
    every = rows[rows["task"] == "all"].set_index("measure").loc[list(words)]
    wide = wide[["all", *among(wide)]].rename(index=words)
    wide.insert(1, "95 % interval", interval(every["low"], every["high"]))
    return table(
        wide.rename_axis("measure"),
        name="backtest-foretold",
        caption="**Which measure tells the hacked run of a pair** (AUC; 0.5 tells nothing, less tells the other way round): of "
        "the samples, of probe texts, and of several together, fitted on the other tasks.",
        data=rows,
    )
