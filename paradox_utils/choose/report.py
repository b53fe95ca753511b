"""What a choice says: a sentence, the table in brief, reasons, and one page."""

from __future__ import annotations

import base64
import html
import io
import math
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from paradox_utils import files
from paradox_utils.choose.decision import LEVEL, Decision
from paradox_utils.choose.run import Choice
from paradox_utils.figures import choose as draw

LITTLE = 0.25  # of the farthest candidate's KL: one that moves the policy less is held back by the penalty
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

# What no reading of the policy's own samples can know.
UNKNOWN = {
    "What a long training finds": "A policy that wanders off writes what its samples do not contain. Where a reward pays for "
    "repeated, longer or unfinished answers, that is said above; other ways to please it are not seen.",
    "Another policy": "Each gain is that of this policy, at this temperature. Another writes other answers: choose again.",
    "The algorithm's own luck": "A gain is that of the optimum of the recipe. Learning rate, number of updates and seed decide "
    "how near a training comes to it.",
    "The judgement": "A candidate that agrees with the judges' mistakes gains by them.",
}


def sentence(choice: Choice) -> str:
    """The answer."""
    decision, names = choice.decision, _listed(choice.decision.names)
    table = choice.table.set_index("candidate")
    if decision.kind == "unjudged":
        return "No judgement given: nothing is ranked. Judge the responses of to_judge.jsonl, where the candidates differ most."
    if decision.kind == "train":
        best = table.loc[decision.names[0]]
        return f"Train with {names}: predicted gain {_gain(best)}, the best with probability {best['probability']:.3g}."
    if decision.kind == "none":
        best = table.iloc[0]
        return f"Train with none of them: the best, {table.index[0]}, is predicted to make the policy worse ({_gain(best)})."
    return f"{names}: these judgements cannot tell. {_more(decision)}{_cost(table, decision)}"


def _more(decision: Decision) -> str:
    if decision.more is None:
        return "They are so alike that no number of judged prompts is worth it."
    return f"About {decision.more:,} more judged prompts would."


def _cost(table: pd.DataFrame, decision: Decision) -> str:
    first = decision.names[0]
    lost = table.loc[first, "regret"]
    return f" Until then {first}: choosing it costs {f'{lost:.3f}' if lost >= 0.001 else 'less than 0.001'} on average."


def _gain(row: pd.Series) -> str:
    if math.isnan(row["low"]):
        return f"{row['gain']:+.3f}"
    return f"{row['gain']:+.3f}, 95 % interval {row['low']:+.3f} to {row['high']:+.3f}"


def _listed(names: Sequence[str]) -> str:
    return " or ".join(filter(None, [", ".join(names[:-1]), names[-1]])) if names else ""


def ranked(choice: Choice) -> pd.DataFrame:
    """The table in brief: a row a candidate, the best first (in the given order where nothing is judged)."""
    table = choice.table
    brief = pd.DataFrame(index=pd.Index(table["candidate"], name="candidate"))
    if "gain" in table:
        intervals = [f"{row.low:+.3f} to {row.high:+.3f}" if row.low == row.low else "" for row in table.itertuples()]
        brief["predicted gain"] = [_signed(value) for value in table["gain"]]
        brief["95 % interval"] = intervals
        brief["P(best)"] = [f"{value:.2f}" if value == value else "" for value in table["probability"]]
        brief["expected regret"] = [f"{value:.3f}" if value == value else "" for value in table["regret"]]
        brief["KL"] = [f"{value:.2f}" if value == value else "" for value in table["kl"]]
        brief["accuracy (ties)"] = [
            f"{row.accuracy:.3f} ({row.tied:.0%})" if row.accuracy == row.accuracy else "" for row in table.itertuples()
        ]
    else:
        brief["variance within prompts"] = [f"{value:.3g}" for value in table["variance"]]
    length = choice.facts["length_correlation"]
    length = 0.0 if math.isnan(length) else length
    brief["why"] = ["; ".join(reasons(table, row, length)) for _, row in table.iterrows()]
    return brief


def _signed(value: float) -> str:
    return f"{value:+.3f}" if value == value else ""


def reasons(table: pd.DataFrame, row: pd.Series, judged_length: float) -> list[str]:
    """What stands out of a candidate, in words; ``judged_length``: rank correlation of the judgement with length, 0 without."""
    if row["blocked"]:
        return [f"blocked: {row['blocked']}"]
    said = []
    if "gain" in table and row["gain"] == row["gain"]:
        if row["high"] < 0:
            said.append("makes the policy worse")
        if row["kl"] < LITTLE * table["kl"].max():
            said.append("its reward is too small beside the KL penalty to move the policy")
        if row["limit"] == "samples":
            said.append(f"read at KL {row['kl']:.2f}: these samples show no farther")
        if row["accuracy"] < table["accuracy"].max() - APART:
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
    return said or ["nothing stands out"]


def foot(choice: Choice) -> str:
    """On what the answer stands."""
    facts = choice.facts
    said = f"{facts['responses']:,} responses to {facts['prompts']:,} prompts"
    if facts["judged_prompts"]:
        said += (
            f", {facts['judged_responses']:,} to {facts['judged_prompts']:,} of them judged; the policy's own score is "
            f"{facts['start']:.3f}"
        )
    if facts["told_nothing"]:
        said += f"; {facts['told_nothing']:,} prompts with one judged response say nothing"
    return f"{said}. A choice is made where a candidate is the best in {LEVEL:.1%} of resampled sets of prompts."


def figure(choice: Choice) -> bytes:
    """The curves, as a PNG."""
    shown = io.BytesIO()
    draw.curves(choice.curves, choice.best_of, choice.table, choice.facts["start"]).savefig(shown, format="png", dpi=150)
    return shown.getvalue()


def page(choice: Choice, title: str) -> str:
    """The whole answer as one HTML file."""
    parts = [
        f"<h1>{html.escape(sentence(choice))}</h1>",
        ranked(choice).reset_index().to_html(index=False, escape=True, border=0),
    ]
    if len(choice.curves):
        image = base64.b64encode(figure(choice)).decode()
        alt = "Judged score against KL from the policy, a curve a candidate"
        parts.append(f'<img alt="{alt}" src="data:image/png;base64,{image}">')
        parts.append(
            "<p>Each curve weighs the policy's own responses by exp(reward / β), from no training on the left to where the "
            "samples end; the mark is where the recipe goes. Dots: the best of n.</p>"
        )
    parts += [f"<p>{html.escape(foot(choice))}</p>", "<h2>What this cannot know</h2>", "<table>"]
    parts += [f"<tr><th>{html.escape(name)}</th><td>{html.escape(text)}</td></tr>" for name, text in UNKNOWN.items()]
    body = "\n".join([*parts, "</table>"])
    return (
        f'<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n<title>{html.escape(title)}</title>\n'
        f"<style>{STYLE}</style>\n{body}\n</html>\n"
    )


STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;color:#222;max-width:60rem;margin:2rem auto;padding:0 1rem}h1{font-size:1.4rem}"
    "h2{font-size:1.1rem}table{border-collapse:collapse;font-size:.9rem}th,td{text-align:left;vertical-align:top;padding:.3rem "
    ".6rem;border-bottom:1px solid #ddd}img{max-width:100%}"
)


def printed(choice: Choice) -> str:
    """The answer for a terminal."""
    brief = ranked(choice)
    why = [f"  {name}: {reason}" for name, reason in brief.pop("why").items()]
    return "\n".join([sentence(choice), "", brief.to_string(), "", *why, "", foot(choice)])


def write_page(folder: Path, choice: Choice, title: str) -> None:
    """Leave ``page.html``, and its figure as ``curves.png`` where anything is judged."""
    files.write_text(folder / "page.html", page(choice, title))
    if len(choice.curves):
        files.write_bytes(folder / "curves.png", figure(choice))
