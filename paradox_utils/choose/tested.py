"""What a page says of the back-test: what the choice costs, how sure it may be, and on what that stands."""

from __future__ import annotations

import numpy as np
import pandas as pd

from paradox_utils import files
from paradox_utils.analysis import statistics, tables
from paradox_utils.analysis.phrases import count
from paradox_utils.choose.aims import KEPT, Tables, answered
from paradox_utils.choose.decision import LEVEL, SPREAD
from paradox_utils.choose.gain import SHARE
from paradox_utils.choose.pools import ACCURATE, BASELINES, FAMILIES, FITTED, POOL, TOOL, half_width, trained
from paradox_utils.data.tasks import among
from paradox_utils.study.tables import RECORDED

STUDY, CONFIG = f"{RECORDED}/atlas", "configs/choose-backtest.yaml"  # whose reward models were trained again, and by what
CHECKPOINT = ["task", "route", "setting", "rm_seed", "step"]  # names a reward model in both studies
SAME = 1e-6  # of an accuracy
BEST_OF = "best of 16"
READ = {f"gain/{part}": f"read to 1/{part} of the samples" for part in (2, 4, 16)}
READ["recipe"] = "read at the recipe's β"


def sentence(made: Tables) -> str:
    """What the back-test found, or that there is none."""
    if not made:
        return f"Nothing stands here yet of what PPO made of such predictions: `{KEPT}` is not there."
    return cost(made, answered(made))


def detail(made: Tables) -> str:
    """What other ways would have cost, how sure a choice may be, and on what all of it stands, in paragraphs."""
    parts = (others(made), f"{sets(made, answered(made))} {away(made)}".strip(), again()) if made else ()
    return "\n\n".join(filter(None, parts))


def cost(made: Tables, told: pd.DataFrame) -> str:
    """How many the tool names, and what its choice costs, beside a random one, its strongest rival and the most accurate;
    ``told``: what it answers (:func:`aims.answered`)."""
    by = _ways(made)
    if by.empty:
        return f"Too few reward models are there for pools of {POOL}."
    rival = by.loc[[name for name in BASELINES if name in by.index], "mean"].idxmin()
    said = [
        _names(told),
        f"Among {POOL} trained reward models, the one named first costs {by.loc[TOOL, 'mean']:.3f} of final LM performance on "
        f"average, one chosen at random {by.loc['random', 'mean']:.3f}.",
        f"The strongest rival of the predicted gain, the {rival}, costs {_lead(by.loc[rival])}.",
    ]
    if rival != ACCURATE:
        said.append(f"The {ACCURATE} costs {_lead(by.loc[ACCURATE])}.")
    return " ".join(filter(None, said))


def brief(made: Tables) -> str:
    """:func:`cost` for other pages, in one sentence."""
    by = _ways(made)
    if by.empty:
        return f"Too few reward models are there for pools of {POOL}."
    rivals = by.loc[[name for name in (BEST_OF, ACCURATE) if name in by.index]]
    listed = "".join(f", the {name} {row['mean']:.3f}" for name, row in rivals.iterrows())
    last = f"the last {len(rivals)}" if len(rivals) > 1 else "the last"
    chance = f"; that it is ahead of {last} could be chance" if len(rivals) and (rivals["high"] >= 0).all() else ""
    told, many = answered(made), ""
    if "all" in told.index:
        row = told.loc["all"]
        many = f" It names {row['named']:.1f} of them on average, one alone in {_alone(row)} pools."
    return (
        f"Among {POOL} trained reward models of this study, the one that it names first costs {by.loc[TOOL, 'mean']:.3f} of "
        f"final LM performance on average, one at random {by.loc['random', 'mean']:.3f}{listed}{chance}.{many}"
    )


def _names(told: pd.DataFrame) -> str:
    """How many reward models the tool names of a pool, how seldom one alone, and whether the best is among them."""
    if "all" not in told.index:
        return ""
    row = told.loc["all"]
    said = (
        f"Asked about {POOL} trained reward models, the tool names one alone in {_alone(row)} pools; it names "
        f"{row['named']:.1f} on average, and the best by PPO is among them in {row['holds']:.0%}."
    )
    if FAMILIES in told.index:
        row = told.loc[FAMILIES]
        said += (
            f" In {FAMILIES} it names one alone in {_alone(row)} (the surest: {row['surest']:.2f}, where {LEVEL:g} is asked)."
        )
    return f"{said} Other prompts, left out here, would make it less sure still."


def _alone(row: pd.Series) -> str:
    return f"{row['one'] * row['pools']:.0f} of {row['pools']:,.0f}"


def _ways(made: Tables) -> pd.DataFrame:
    """The regrets by way to choose; empty where there were no pools."""
    by = made["regrets"] if made else pd.DataFrame()
    return by.set_index("choice") if "choice" in by else pd.DataFrame()


def _lead(row: pd.Series) -> str:
    """What a way to choose costs, and by how much more than the tool."""
    low, lead, high = (-row[name] for name in ("high", "tool less", "low"))
    return f"{row['mean']:.3f}, {lead:.3f} more {_sure(low, high)}"


def _sure(low: float, high: float) -> str:
    chance = ", which could be chance" if low <= 0 <= high else ""
    return f"(95 % interval {low:.3f} to {high:.3f}){chance}"


def others(made: Tables) -> str:
    """What other ways would have cost: other places to stop reading, and the best of n beside accuracy."""
    return " ".join(filter(None, (_cut(_ways(made)), _best_of(made))))


def _cut(by: pd.DataFrame) -> str:
    """Whether the record favours how far the tool reads, or nothing."""
    known = [name for name in READ if name in by.index]
    if not known:
        return ""
    less = [name for name in known if by.loc[name, "mean"] < by.loc[TOOL, "mean"]]
    said = f"The record favours where the tool stops reading, at 1/{SHARE} of the samples: no other place costs less."
    if less:
        words = " or ".join(f"{READ[name]} ({by.loc[name, 'mean']:.3f})" for name in less)
        said = f"The record does not favour where the tool stops reading, at 1/{SHARE} of the samples: it costs less {words}."
    return f"{said} What lost least on the other tasks costs {by.loc[FITTED, 'mean']:.3f}." if FITTED in by.index else said


def _best_of(made: Tables) -> str:
    """Whether the score of the best of n goes with the gain more closely than accuracy, and what that saves; or nothing."""
    by, rows = _ways(made), made["predictions"]
    if not {BEST_OF, ACCURATE} <= {*by.index} or BASELINES[BEST_OF] not in rows:
        return ""
    score, accuracy = (_goes_with_gain(trained(rows), BASELINES[name]) for name in (BEST_OF, ACCURATE))
    saved = by.loc[ACCURATE, "mean"] - by.loc[BEST_OF, "mean"]
    half = half_width(rows, BASELINES[ACCURATE], beside=BASELINES[BEST_OF])
    closer, but = ("more closely than", "but") if score > accuracy else ("no more closely than", "and")
    return (
        f"The score of the {BEST_OF} goes with the gain that PPO reached {closer} accuracy does (mean rank correlation "
        f"{score:.2f} and {accuracy:.2f}), {but} among {POOL} it saves {saved:.3f} {_sure(saved - half, saved + half)}."
    )


def _goes_with_gain(own: pd.DataFrame, measure: str) -> float:
    """Mean rank correlation of a measure and the reached gain within task and policy, weighed by runs."""
    groups = [some for _, some in own.groupby(["task", "policy"])]
    found = [statistics.rank_correlation(some[measure], some["reached"]) for some in groups]
    return float(np.average(found, weights=[len(some) for some in groups]))


def sets(made: Tables, told: pd.DataFrame) -> str:
    """How often sets hold without PPO's own deviation, with that of the tool, and with one fitted elsewhere; or nothing."""
    rows = made["judged"]
    if "contains" not in rows or rows.empty:
        return ""
    alone, fitted = (f"{rows[name].min():.0%} to {rows[name].max():.0%}" for name in ("contains", "contains_fitted"))
    said = f"By other prompts alone it would be too sure: sets that should hold the best by PPO in 80% held it in {alone}."
    if "all" in told.index:
        tasks = ", ".join(f"{task} {told.loc[task, 'set_holds']:.0%}" for task in among(told.index))
        said += (
            f" With the deviation of {SPREAD:g} that the tool allows each training they hold it in "
            f"{told.loc['all', 'set_holds']:.0%} ({tasks}), with {told.loc['all', 'set']:.1f} of {POOL} in a set."
        )
    return f"{said} That value is of these same runs; with one fitted on the other tasks they held it in {fitted}."


def away(made: Tables) -> str:
    """How far PPO ended from what was predicted, and how much of that runs of one task and policy share; or nothing."""
    rows = made["predictions"] if made else pd.DataFrame()
    if "reached_sampled" not in rows or rows.empty:
        return ""
    own = trained(rows)
    far = own["reached_sampled"] - own["gain"]
    alone = far - far.groupby([own["task"], own["policy"]]).transform("mean")
    said = [f"{one.abs().mean():.3f} {{}} (root mean square {np.sqrt((one**2).mean()):.3f})" for one in (far, alone)]
    return (
        f"The tool allows each training its own deviation of {SPREAD:g}, the value with which past sets of 80 % held; single "
        f"trainings ended {said[0].format('away on average')} over {len(own)} runs, partly together: less the mean of their "
        f"task and policy, which changes no choice, {said[1].format('on average')}."
    )


def again() -> str:
    """Whether the reward models came out as they were recorded, and how to have what is not kept."""
    said = f"The reward models of the recorded study, against which PPO had been run, were trained again for this{_equal()}."
    return (
        f"{said} Rewards of single responses are not kept in the repository: `make study CONFIG={CONFIG}` and then "
        f"`python -m paradox_utils.choose backtest {CONFIG}` make them again."
    )


def _equal() -> str:
    """How many checkpoints have the accuracy that was recorded, or nothing where one of the tables is not there."""
    folders = [files.resolve(folder) for folder in (KEPT, STUDY)]
    if not all((folder / "reward_models.csv").is_file() for folder in folders):
        return ""
    new, old = (tables.load_checkpoints(folder).fillna({"setting": ""}) for folder in folders)
    both = new.merge(old, on=CHECKPOINT, suffixes=("", "_recorded"))
    gap = (both["accuracy"] - both["accuracy_recorded"]).abs()
    return (
        f", and {(gap <= SAME).sum()} of {len(old)} checkpoints of {count(old['id'].nunique(), 'model')} have the accuracy "
        f"that was recorded (largest difference {gap.max():.2g})"
    )
