"""What a page shows of the back-test: a figure, and a table for each of its parts."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd

from paradox_utils.choose import foretold
from paradox_utils.choose.aims import Tables, aims, answered, counted
from paradox_utils.choose.decision import SPREAD
from paradox_utils.choose.gain import SHARE
from paradox_utils.choose.pools import BASELINES, FAMILIES, FITTED, POOL, TOOL, trained
from paradox_utils.choose.tested import READ
from paradox_utils.data.tasks import among
from paradox_utils.figures import choose as draw
from paradox_utils.figures.show import Shown, named, show
from paradox_utils.figures.table import interval, table

WAYS = {name: f"{TOOL}, {said}" for name, said in READ.items()}  # what the table calls a way to choose
WAYS |= {"gain and accuracy": "mean rank of gain and accuracy", FITTED: "what lost least on the other tasks"}


def shown(made: Tables) -> dict[str, Shown]:
    """The figure ``gains`` and a table for each part of the back-test, by name, where it has rows for it, with its runs."""
    if not made:
        return {}
    rows = {"aims": aims(made), "gains": made["predictions"], "answers": answered(made)}
    rows |= {name: made[name] for name in ("agreement", "regrets", "known", "judged", "foretold")}
    makers = {"aims": _aims, "gains": _gains, "answers": _answers, "agreement": _agreement, "regrets": _regrets}
    makers |= {"known": _known, "judged": _judged, "foretold": _foretold}
    found = {name: maker(rows[name]) for name, maker in makers.items() if len(rows[name])}
    runs = named(made["predictions"]["id"]) if "id" in made["predictions"] else ""
    return {name: replace(one, runs=runs) for name, one in found.items()}


def _aims(aimed: pd.DataFrame) -> Shown:
    said = f"**What was to be reached, and was**: {counted(aimed)}"
    return table(aimed.set_index("aim"), name="backtest-aims", caption=said)


def _gains(predictions: pd.DataFrame) -> Shown:
    own = trained(predictions)
    far = (own["reached_sampled"] - own["gain"]).abs().mean()
    return show(
        draw.backtest(own),
        name="backtest-gains",
        caption="**The gain that PPO reached, beside the gain that was predicted**, in the judged score of sampled responses. "
        "A dot is a recorded run with a trained reward model; on the line both are equal.",
        alt=f"{own['task'].nunique()} panels, one a task: {len(own)} runs, {far:.3f} from the line on average.",
        data=own,
    )


def _answers(told: pd.DataFrame) -> Shown:
    names = {"one": "one alone", "named": "named", "holds": "these hold the best", "regret": "regret of the first"}
    names |= {"set_holds": "sets of 80 % hold it", "set": "their size", "pools": "pools"}
    return table(
        told.rename(columns=names)[[*names.values()]].rename_axis("of"),
        name="backtest-answers",
        caption=f"**What the tool would answer of {POOL} reward models**: how often it names one alone, how many it names on "
        "average, how often the best by PPO is among these, and what the first costs; the same of sets of 80 %. A training may "
        f"end {SPREAD:g} (a standard deviation) from what is predicted; other prompts are left out.",
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
    ordered = rows.sort_values("mean", kind="stable").set_index("choice").rename(index=WAYS)
    ordered["95 % interval"] = interval(ordered["low"], ordered["high"])
    return table(
        ordered[["mean", "95 %", "tool less", "95 % interval", *among(rows.columns)]],
        name="backtest-regrets",
        caption=f"**What each way to choose costs among {POOL} trained reward models**: the final LM performance that the "
        "choice lacks to that of the best (mean, 95th percentile, and the mean by task), and the mean regret of the predicted "
        "gain less this one, with its interval for other trainings. *Read to 1/n of the samples*: to where the effective "
        f"sample size is that part of them, the tool's being 1/{SHARE}; *at the recipe's β*: whatever they show. *What lost "
        "least on the other tasks*: one of the readings, or the mean rank of gain and accuracy.",
        data=rows,
    )


def _known(rows: pd.DataFrame) -> Shown:
    names = {"in two": "one of the best two"}
    ways = [TOOL, *list(BASELINES)[:3], "variance"]
    return table(
        rows.rename(columns=names).set_index("family")[[*ways, "one of the best two", "seeds"]],
        name="backtest-known",
        caption=f"**What each way to choose costs in the {FAMILIES}**, and how often the predicted gain chooses one of the "
        "best two.",
        data=rows,
    )


def _judged(rows: pd.DataFrame) -> Shown:
    names = {
        "contains": "sets hold",
        "size": "their size",
        "contains_fitted": "wider sets hold",
        "size_fitted": "size of these",
    }
    renamed = rows.rename(columns=names).set_index("judged prompts")
    return table(
        renamed[["regret", *names.values(), "spread", "pools"]],
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
