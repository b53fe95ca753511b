"""What the back-test was to reach, beside what it reached, in the tables that it leaves; and how a page shows these."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

import numpy as np
import pandas as pd

from paradox_utils import files
from paradox_utils.analysis import tables
from paradox_utils.choose import foretold, gain
from paradox_utils.choose.decision import SPREAD, decide
from paradox_utils.choose.gain import Array, Reading
from paradox_utils.choose.pools import ACCURATE, BASELINES, KNOWN, POOL, TOOL, trained
from paradox_utils.data.tasks import among
from paradox_utils.figures import choose as draw
from paradox_utils.figures.show import Shown, named, show
from paradox_utils.figures.table import interval, table
from paradox_utils.study.tables import BACKTEST, RECORDED

KEPT, MEASURED = f"{RECORDED}/choose-backtest", f"{RECORDED}/benchmarks.csv"
REGRET, TAIL = 0.025, 0.15  # in pools: mean, and 95th percentile
WORSE = 0.005  # than the most accurate, on average
LOST = 0.05  # in the families where the most accurate are worse teachers
HOLD = (0.75, 0.90)  # of the sets of 80 % contain the best
ABSTAIN, CHEAPER = 0.95, 20.0  # choices between copies; PPO on every candidate, in costs of a choice
WORLDS, LITTLE = 100, 0.01  # made up, and by how much a reward is made smaller there
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
    tested = (_of_pools(made["regrets"]), _of_families(made["known"]), _of_sets(made["judged"]), _of_worlds(), _of_cost())
    for what, found, low, high in (aim for part in tested for aim in part):
        target = f"≤ {high:g}" if low is None else f"≥ {low:g}" if high is None else f"{low:g} to {high:g}"
        met = (low is None or found >= low) and (high is None or found <= high)
        said = "not measured yet" if math.isnan(found) else "met" if met else "missed"
        rows.append({"aim": what, "found": found, "target": target, "met": said})
    return pd.DataFrame(rows, columns=["aim", "found", "target", "met"])


def _of_pools(regrets: pd.DataFrame) -> Iterator[Aim]:
    if regrets.empty or "choice" not in regrets:
        return
    by = regrets.set_index("choice")
    yield f"mean regret in pools of {POOL}", by.loc[TOOL, "mean"], None, REGRET
    yield "its 95th percentile", by.loc[TOOL, "95 %"], None, TAIL
    yield f"mean regret above that of the {ACCURATE}", by.loc[ACCURATE, "tool less"], None, WORSE


def _of_families(known: pd.DataFrame) -> Iterator[Aim]:
    for _, row in known.iterrows() if "family" in known else ():
        if row["family"].startswith(KNOWN[0]):
            yield f"regret in {row['family']}", row[TOOL], None, LOST
        else:
            yield f"choices of one of the best two in {row['family']}", row["in two"], 1.0, None


def _of_sets(judged: pd.DataFrame) -> Iterator[Aim]:
    for _, row in judged.iterrows() if "contains" in judged else ():
        prompts = f"{row['judged prompts']:.0f} judged prompts"
        yield f"sets of 80 % that contain the best by PPO, {prompts}", row["contains_fitted"], *HOLD


def _of_worlds() -> Iterator[Aim]:
    """In made-up worlds: copies of a reward model are not told apart, and a hundredth of a reward counts where it should."""
    abstained, changed = _in_worlds()
    yield "choices between two copies that abstain", abstained, ABSTAIN, None
    what = f"worlds in which a reward × {LITTLE:g} changes the rank under PPO with a fixed β, and not under group normalisation"
    yield what, changed, ABSTAIN, None


@functools.cache  # the same for all tables
def _in_worlds() -> tuple[float, float]:
    """Shares of the worlds in which copies are not told apart, and in which a smaller reward counts under PPO alone."""
    worlds = [_World(seed) for seed in range(WORLDS)]
    counts = [one.changes_rank() and not one.changes_rank(gain.group_normalised) for one in worlds]
    return float(np.mean([one.abstains() for one in worlds])), float(np.mean(counts))


class _World:
    """Shares of good segments of 16 responses to each of 60 prompts, and rewards that follow them closely, or hardly."""

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.size = np.full((60, 16), 5.0)
        self.good = rng.binomial(5, rng.beta(4, 2, (60, 1)), self.size.shape).astype(float)
        self.close, self.loose = (self.good / self.size + error * rng.normal(size=self.size.shape) for error in (0.1, 0.6))

    def read(self, rewards: Array) -> Reading:
        return gain.read(rewards, self.good, self.size, gain.strongest(rewards, 0.2)[0])

    def abstains(self) -> bool:
        start = self.good.mean(1), self.size.mean(1)
        return decide("ab", [self.read(self.close)] * 2, *start, resamples=100, seed=0, spread=SPREAD)[0].kind == "undecided"

    def changes_rank(self, seen: Callable[[Array], Array] = np.asarray) -> bool:
        large, other, small = (self.read(seen(one)).score for one in (self.close, self.loose, LITTLE * self.close))
        return large > other > small


def _of_cost() -> Iterator[Aim]:
    """By the recorded benchmark of a choice; NaN where there is none."""
    path, found = files.resolve(MEASURED), math.nan
    if path.is_file():
        rows = tables.read_table(path, ("part", "ratio", "target"), numbers=("ratio",))
        own = rows[(rows["part"] == "choose") & rows["ratio"].notna() & rows["target"].notna()]
        found = float(own["ratio"].iloc[0]) if len(own) else found
    yield "PPO on every candidate, in costs of a choice", found, CHEAPER, None


def sentence(made: Tables) -> str:
    """What the back-test found, or that there is none."""
    if not made:
        return f"Nothing stands here yet of what PPO made of such predictions: `{KEPT}` is not there."
    aimed = aims(made)
    again = (
        "The reward models of the recorded study were trained again for this, and read as the candidates above; PPO had been "
        "run on each."
    )
    open_ones = (aimed["met"] == "not measured yet").sum()
    unknown = f" ({open_ones} is not measured yet)" if open_ones else ""
    counted = f"{(aimed['met'] == 'met').sum()} of {len(aimed)} aims are met{unknown}."
    return " ".join(filter(None, (counted, tested(made), sets(made), away(made), again)))


def tested(made: Tables) -> str:
    """What choosing by predicted gain costs, beside a random one, its strongest rival and the most accurate."""
    by = made["regrets"] if made else pd.DataFrame()
    if by.empty or "choice" not in by:
        return f"Too few reward models are there for pools of {POOL}."
    by = by.set_index("choice")
    rival = by.loc[[name for name in BASELINES if name in by.index], "mean"].idxmin()
    said = [
        f"Among {POOL} trained reward models, choosing by predicted gain costs {by.loc[TOOL, 'mean']:.3f} of final LM "
        f"performance on average, choosing at random {by.loc['random', 'mean']:.3f}."
    ]
    said.append(f"Its strongest rival, the {rival}, costs {_lead(by.loc[rival])}.")
    if rival != ACCURATE:
        said.append(f"The {ACCURATE} costs {_lead(by.loc[ACCURATE])}.")
    return " ".join(said)


def _lead(row: pd.Series) -> str:
    """What a way to choose costs, and by how much more than the tool."""
    low, lead, high = (-row[name] for name in ("high", "tool less", "low"))
    chance = ", which could be chance" if low <= 0 <= high else ""
    return f"{row['mean']:.3f}, {lead:.3f} more (95 % interval {low:.3f} to {high:.3f}){chance}"


def sets(made: Tables) -> str:
    """How often sets hold with and without PPO's own deviation, or nothing."""
    rows = made["judged"]
    if "contains" not in rows or rows.empty:
        return ""
    alone, fitted = (f"{rows[name].min():.0%} to {rows[name].max():.0%}" for name in ("contains", "contains_fitted"))
    return (
        f"By other prompts alone it would be too sure: sets that should hold the best by PPO in 80% held it in {alone} of the "
        f"pools. Allowing PPO a deviation, fitted on the other tasks, they held it in {fitted}; the tool allows {SPREAD:g}."
    )


def away(made: Tables) -> str:
    """How far PPO ended from what was predicted, or nothing."""
    rows = made["predictions"] if made else pd.DataFrame()
    if "reached_sampled" not in rows or rows.empty:
        return ""
    own = trained(rows)
    far = (own["reached_sampled"] - own["gain"]).abs().mean()
    return f"The gain that PPO reached was {far:.3f} from the predicted one on average, over {len(own)} runs."


# --- on a page ----------------------------------------------------------------------------------------------------------------


def shown(made: Tables) -> dict[str, Shown]:
    """The figure ``gains`` and a table for each part of the back-test, by name, where it has rows for it, with its runs."""
    if not made:
        return {}
    found = {"aims": table(aims(made).set_index("aim"), name="backtest-aims", caption="**What was to be reached, and was.**")}
    makers = {"gains": _gains, "agreement": _agreement, "regrets": _regrets, "known": _known, "judged": _judged}
    needs = {"gains": "predictions"}
    for name, maker in (makers | {"foretold": _foretold}).items():
        rows = made[needs.get(name, name)]
        if len(rows):
            found[name] = maker(rows)
    runs = named(made["predictions"]["id"]) if "id" in made["predictions"] else ""
    return {name: replace(one, runs=runs) for name, one in found.items()}


def _gains(predictions: pd.DataFrame) -> Shown:
    away = (predictions["reached_sampled"] - predictions["gain"]).abs().mean()
    return show(
        draw.backtest(predictions),
        name="backtest-gains",
        caption="**The gain that PPO reached, beside the gain that was predicted**, in the judged score of sampled responses. "
        "A dot is a recorded run; on the line both are equal.",
        alt=f"{predictions['task'].nunique()} panels, one a task: {len(predictions)} runs, {away:.3f} from the line on "
        "average.",
        data=predictions,
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
    ordered = rows.sort_values("mean", kind="stable").set_index("choice")
    ordered["95 % interval"] = interval(ordered["low"], ordered["high"])
    return table(
        ordered[["mean", "95 %", "tool less", "95 % interval", *tasks]],
        name="backtest-regrets",
        caption=f"**What each way to choose costs among {POOL} trained reward models**: the final LM performance that the "
        "choice lacks to that of the best (mean, 95th percentile, and the mean by task), and the mean regret of the predicted "
        "gain less this one, with its interval for other trainings.",
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
