"""What a choice says: a sentence, the table in brief, reasons, and one page."""

from __future__ import annotations

import html
import io
import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path

import pandas as pd

from paradox_utils import files
from paradox_utils.choose.decision import LEVEL
from paradox_utils.choose.run import Choice
from paradox_utils.figures import choose as draw
from paradox_utils.figures.show import Shown, show
from paradox_utils.figures.table import column, interval, table

LITTLE = 0.25  # of the farthest candidate's KL: one that moves the policy less is held back by the penalty
STILL = 0.05  # nats: so is one that moves it less than this
TIES = 0.2  # of the pairs
APART = 0.05  # of the pairs: a difference in accuracy worth naming
LONG = 0.2  # of a rank correlation with length, beyond that of the judgement
SWAYED = 0.5  # deviations that an answer gains by being repeated, longer or unfinished
SWAYING = {
    "repeated": "a repeated answer",
    "long": "an answer with another behind it",
    "unfinished": "an unfinished answer",
}
MOVES = 0.05  # change of a score in bfloat16, or with padding on the other side, worth naming
ALONE = "of other prompts alone; trainings differ by more, which this scale does not allow to be counted"

# What no reading of the policy's own samples can know.
UNKNOWN = {
    "What a long training finds": "A policy that wanders off writes what its samples do not contain. Where a reward pays for "
    "repeated, longer or unfinished answers, that is said above; other ways to please it are not seen.",
    "Another policy": "Each gain is that of this policy, at this temperature. Another writes other answers: choose again.",
    "The algorithm's own luck": "A gain is that of the optimum of the recipe. Learning rate, number of updates and seed decide "
    "how near a training comes to it. The intervals are for other prompts, not for what a training reaches, which in recorded "
    "runs lay farther from the prediction than they say (the back-test in the book has by how much).",
    "The judgement": "A candidate that agrees with the judges' mistakes gains by them.",
}


def sentence(choice: Choice) -> str:
    """The answer."""
    decision, known = choice.decision, choice.table.set_index("candidate")
    if decision.kind == "unjudged":
        return f"No judgement given: nothing is ranked. {_next(choice)}"
    best = known.loc[decision.names[0]]
    if decision.kind == "none":
        said = f"Train with none of them: the best, {best.name}, is predicted to make the policy worse ({_gain(best)})."
    elif decision.kind == "no gain":
        said = f"No gain is shown: the best, {best.name}, is predicted to gain {_gain(best)}."
    elif decision.kind == "train":
        sure = f"the best with probability {best['probability']:.3g}{f' {ALONE}' if _on_unknown_scale(choice) else ''}"
        unsure = "" if not best["low"] <= 0 else " That it gains anything at all is not clear."
        said = f"Train with {best.name}: predicted gain {_gain(best)}, {sure}.{unsure}"
    else:
        alone = f" This is {ALONE}." if _on_unknown_scale(choice) else ""
        said = f"{_listed(decision.names)}: these judgements cannot tell. {_more(choice)}{_cost(choice)}{alone}"
    return f"{said}{_reach(choice)}"


def _next(choice: Choice) -> str:
    if not choice.to_judge:
        return "Nor would a judgement rank them: this recipe makes the same of the policy with each."
    return (
        "Judge the responses of to_judge.jsonl, from its top as many prompts as you can, each with all its responses: they are "
        "drawn at random."
    )


def _on_unknown_scale(choice: Choice) -> bool:
    """Whether nothing is known of how far trainings differ, where there is one."""
    return not choice.facts["spread"] and choice.facts["algorithm"] != "best-of-n"


def _more(choice: Choice) -> str:
    if choice.decision.by_training:
        return (
            f"No number of judged prompts would: a training ends about {choice.facts['spread']:g} off by luck of its own, and "
            "these are predicted to differ too little for that. Only training with each would."
        )
    if choice.decision.more is None:
        return "They are so alike that no number of judged prompts is worth it."
    return f"About {choice.decision.more:,} more judged prompts would."


def _cost(choice: Choice) -> str:
    """What it costs to take the cheapest of the undecided."""
    regrets = choice.table.set_index("candidate")["regret"].loc[list(choice.decision.names)]
    lost = f"{regrets.min():.3f}" if regrets.min() >= 0.001 else "less than 0.001"
    return f" Until then {regrets.idxmin()}: choosing it costs {lost} of the judged score on average."


def _reach(choice: Choice) -> str:
    """How far the recipe goes, where that is not as far as was asked, or nowhere."""
    read, facts = choice.table.dropna(subset=["kl"]), choice.facts
    if facts["algorithm"] == "best-of-n" and (read["limit"] == "samples").any():
        return (
            f" Not every prompt has n = {facts['n']} judged responses (the fewest: {facts['fewest']}): with fewer, the best of "
            "these is read."
        )
    if all(_held_back(row) for _, row in read.iterrows()):
        return (
            f" The KL penalty holds all of them within {STILL:g} nats of the policy: a smaller kl_coefficient would show more."
        )
    return ""


def _held_back(row: pd.Series) -> bool:
    """Whether the penalty of the recipe, which the best of n has not, hardly lets the reward move the policy."""
    return row["limit"] == "recipe" and not math.isnan(row["beta"]) and row["kl"] < STILL


def _gain(row: pd.Series) -> str:
    if math.isnan(row["low"]):
        return f"{row['gain']:+.3f}"
    return f"{row['gain']:+.3f}, 95 % interval {row['low']:+.3f} to {row['high']:+.3f}"


def _listed(names: Sequence[str]) -> str:
    return " or ".join(filter(None, [", ".join(names[:-1]), names[-1]])) if names else ""


def ranked(choice: Choice) -> pd.DataFrame:
    """The table in brief: a row a candidate, the best first (in the given order where nothing is judged)."""
    known = choice.table.set_index("candidate")
    if "gain" not in known:
        names = {"variance": "variance within prompts", "tied": "ties", "length_correlation": "correlation with length"}
        return known[[*names]].rename(columns=names)
    names = {"gain": "predicted gain", "probability": "P(best)", "regret": "expected regret", "kl": "KL", "tied": "ties"}
    shown = known.rename(columns=names)
    shown["95 % interval"] = interval(known["low"], known["high"])
    return shown[["predicted gain", "95 % interval", "P(best)", "expected regret", "KL", "accuracy", "ties"]]


def why(choice: Choice) -> dict[str, str]:
    """What stands out of each candidate, in words."""
    length = choice.facts["length_correlation"]
    length = 0.0 if math.isnan(length) else length
    return {row["candidate"]: "; ".join(reasons(choice.table, row, length)) for _, row in choice.table.iterrows()}


def reasons(known: pd.DataFrame, row: pd.Series, judged_length: float) -> list[str]:
    """What stands out of a candidate, in words; ``judged_length``: rank correlation of the judgement with length, 0 without."""
    if row["blocked"]:
        return [f"blocked: {row['blocked']}"]
    said = []
    if "gain" in known and row["gain"] == row["gain"]:
        if row["high"] < 0:
            said.append("makes the policy worse")
        elif row["low"] < 0:
            said.append("its gain is not clear of zero")
        if row["kl"] < LITTLE * known["kl"].max() or _held_back(row):
            said.append("its reward is too small beside the KL penalty to move the policy")
        if row["limit"] == "samples":
            said.append(f"read at KL {row['kl']:.2f}: these samples show no farther")
        if row["accuracy"] < known["accuracy"].max() - APART:
            said.append(f"orders {row['wrong']:.0%} of the pairs wrong")
    if row.get("tied", 0) > TIES:
        said.append(f"calls {row['tied']:.0%} of the pairs equal")
    if abs(bias := row["length_correlation"] - judged_length) > LONG:
        said.append(f"pays {'longer' if bias > 0 else 'shorter'} answers than the judgement does (Δρ {bias:+.2f})")
    for name, kind in SWAYING.items():
        if row.get(f"altered_{name}", 0) > SWAYED:
            said.append(f"pays {kind} {row[f'altered_{name}']:.1f} deviations more")
    if row.get("check_cut", 0) > 0:
        said.append(f"{row['check_cut']:.0%} of its inputs are cut")
    for name, words in {"bfloat16": "in bfloat16", "other_side": "with padding on the other side"}.items():
        if row.get(f"check_{name}", 0) > MOVES:
            said.append(f"its scores change by {row[f'check_{name}']:.2g} {words}")
    if row["unchecked"]:
        said.append(f"could not be tried with {row['unchecked']}")
    if row["layout"] == "file":
        said.append("scores from a file: batch size, padding and probe texts were not tried")
    if row["layout"] == "joined":
        said.append("read without a chat template, prompt and response as one text; set its layout if it learnt another")
    return said or ["nothing stands out"]


def by_accuracy(choice: Choice) -> str:
    """What choosing by accuracy on these responses would come to."""
    known = choice.table.set_index("candidate")
    if "gain" not in known:
        return "Nothing is judged, so no accuracy is known."
    first, most = known.index[0], known[known["accuracy"] >= known["accuracy"].max() - 1e-9]
    if list(most.index) == [first]:
        return f"Yes: {first} is also the most accurate on these responses."
    said = " and ".join(f"{name} (predicted gain {gain:+.3f})" for name, gain in most["gain"].items())
    beside = "" if first in most.index else f", where {first} has {known.loc[first, 'gain']:+.3f}"
    return f"No: the most accurate on these responses {'are' if len(most) > 1 else 'is'} {said}{beside}."


def foot(choice: Choice) -> str:
    """On what the answer stands."""
    facts = choice.facts
    said = f"{facts['responses']:,} responses to {facts['prompts']:,} prompts"
    if not facts["judged_prompts"]:
        return f"{said}, none of them judged."
    every = (facts["judged_responses"], facts["judged_prompts"]) == (facts["responses"], facts["prompts"])
    judged = "all judged" if every else f"{facts['judged_responses']:,} to {facts['judged_prompts']:,} of them judged"
    said += f", {judged}; the policy's own score is {facts['start']:.3f}"
    if facts["told_nothing"]:
        said += f"; {facts['told_nothing']:,} prompts with one judged response say nothing"
    luck = f", and of the luck of trainings, {facts['spread']:g} each" if facts["spread"] else ""
    said += f". A choice is made where a candidate is the best in {LEVEL:.1%} of draws of other prompts{luck}."
    if _on_unknown_scale(choice):
        said += " How far trainings differ is known of shares and labels alone, whose scale has ends: not allowed for here."
    return said


def _paths(choice: Choice) -> pd.DataFrame:
    """The curves that the recipe's policy goes along."""
    return choice.best_of if choice.facts["algorithm"] == "best-of-n" else choice.curves


def drawn(choice: Choice) -> Shown:
    """The one figure, where anything is judged."""
    ends = choice.table.dropna(subset=["score"])
    said = "; ".join(f"{row.candidate} {row.score:.3f} at KL {row.kl:.2f}" for row in ends.itertuples())
    return show(
        draw.curves(_paths(choice), choice.best_of, choice.table, choice.facts["start"]),
        name="choice-curves",
        caption="**What each candidate would make of the policy**, from the policy itself on the left to where the recipe "
        "goes: a mark, with a 95 % interval for other prompts.",
        alt=f"Judged score against KL from the policy, a curve a candidate. The policy itself has {choice.facts['start']:.3f}; "
        f"the recipe reaches {said}.",
        data=_paths(choice),
    )


def agreed(choice: Choice) -> Shown:
    """How far each two candidates agree, the least alike first."""
    alike = [(f"{a} and {b}", choice.agreement.loc[a, b]) for a, b in combinations(choice.agreement, 2)]
    found = pd.DataFrame(alike, columns=["candidates", "rank correlation"]).sort_values("rank correlation", kind="stable")
    said = "**How far each two agree**: the rank correlation of their scores within prompts, the least alike first."
    return table(found.set_index("candidates"), name="choice-agreement", caption=said)


def listed(choice: Choice, name: str = "choice-ranked") -> Shown:
    """The ranked table, called ``name`` on a page."""
    said = "**The candidates**, in no order."
    if "gain" in choice.table:
        said = "**The candidates, the best first**. The interval is for other prompts, not for what a training reaches."
    return table(ranked(choice), name=name, caption=said, units={"KL": "nats"}, data=choice.table)


def page(choice: Choice, title: str) -> str:
    """The whole answer as one HTML file."""
    parts = [f"<h1>{html.escape(sentence(choice))}</h1>", f"<p>{html.escape(foot(choice))}</p>"]
    parts += [shown(choice).html for shown in ((drawn, listed) if len(choice.curves) else (listed, agreed))]
    parts += ["<h2>What stands out of each</h2>", _terms(why(choice)), "<h2>What this cannot know</h2>", _terms(UNKNOWN)]
    body = "\n".join(parts)
    return (
        f'<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n<title>{html.escape(title)}</title>\n'
        f"<style>{STYLE}</style>\n{body}\n</html>\n"
    )


def _terms(said: Mapping[str, str]) -> str:
    rows = (f"<dt>{html.escape(name)}</dt><dd>{html.escape(text)}</dd>" for name, text in said.items())
    return f"<dl>{''.join(rows)}</dl>"


STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;color:#222;max-width:48rem;margin:2rem auto;padding:0 1rem}h1{font-size:1.4rem}"
    "h2{font-size:1.1rem}figure{margin:1.5rem 0}svg{width:100%}figcaption{font-size:.9rem}.scroll{overflow-x:auto}"
    "table{border-collapse:collapse;font-size:.9rem}th,td{text-align:left;padding:.3rem .6rem;border-bottom:1px solid #ddd}"
    ".number{text-align:right}.unit{font-weight:normal}dt{font-weight:600}dd{margin:0 0 .5rem}"
    ".legend{list-style:none;display:flex;flex-wrap:wrap;gap:.2rem 1rem;padding:0;font-size:.85rem;overflow-wrap:anywhere}"
    ".legend svg{width:2rem;vertical-align:middle;margin-right:.3rem}"
)


def printed(choice: Choice) -> str:
    """The answer for a terminal."""
    brief = ranked(choice)
    texts = pd.DataFrame({name: column(brief[name]) for name in brief}, index=brief.index)
    stands = [f"  {name}: {said}" for name, said in why(choice).items()]
    return "\n".join([sentence(choice), "", texts.to_string(), "", *stands, "", foot(choice)])


def write_page(folder: Path, choice: Choice, title: str) -> None:
    """Leave ``page.html``, and its figure as ``curves.png`` where anything is judged."""
    files.write_text(folder / "page.html", page(choice, title))
    if len(choice.curves):
        shown = io.BytesIO()
        draw.in_brief(_paths(choice), choice.best_of, choice.table, choice.facts["start"]).savefig(shown, format="png", dpi=150)
        files.write_bytes(folder / "curves.png", shown.getvalue())
