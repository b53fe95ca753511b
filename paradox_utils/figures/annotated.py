"""A judged answer as a page shows it: the question, and the answer's pieces and what is said of each or paid for it."""

from __future__ import annotations

import html
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from paradox_utils.analysis.phrases import digits
from paradox_utils.figures.show import Shown, emphasised, framed

NOTHING = "no error"


def annotated(
    asked: str,
    passages: Sequence[tuple[str, Sequence[str]]],
    pieces: pd.DataFrame,
    missing: Sequence[str],
    facts: Collection[str] = (),
    *,
    name: str,
    caption: str,
) -> Shown:
    """A question and one judged answer to it.

    Parameters
    ----------
    asked: the question.
    passages: each a title and its sentences, of which those that begin with one of ``facts`` stand out.
    pieces: of the answer in order: ``text``; the kinds of error that the ``annotator`` marked in it (empty: none); what the
        ``oracle`` finds, where there is one, which is shown where the two differ.
    missing: what the annotator found the answer to lack, in words.
    name, caption: as of :func:`paradox_utils.figures.show.show`; the pieces are the figure's data.
    """
    cards = "".join(_side(html.escape(title), " ".join(_sentences(told, facts))) for title, told in passages)
    lines = [_piece(piece) for piece in pieces.to_dict("records")]
    lines += [_line("bad", "✗", f"<em>{html.escape(lack)}</em>") for lack in missing]
    answer = _side("An answer, and what the annotator says of each piece", "".join(lines), "answer")
    body = f'<p class="side">{html.escape(asked)}</p><div class="panels answers">{cards}</div>'
    return drawn(
        f'<div class="interactive">{body}<div class="answers">{answer}</div></div>', pieces, name=name, caption=caption
    )


def drawn(body: str, data: pd.DataFrame, *, name: str, caption: str, runs: str = "") -> Shown:
    """A figure of HTML, with its data (``name``, ``caption`` and ``runs`` as of :func:`paradox_utils.figures.show.show`)."""
    parts = [body, f"<figcaption>{emphasised(caption)}</figcaption>"]
    return Shown("Figure", name, framed("drawing", name, parts), caption, data, runs)


def before_and_after(asked: str, sides: Mapping[str, pd.DataFrame]) -> str:
    """Answers to one question side by side, as HTML: of each the title and its segments in order (``text``; ``paid``; and
    ``judged``, good above 0), as the explorer draws them."""
    cards = "".join(
        _side(html.escape(title), "".join(_paid(segment) for segment in own.to_dict("records")), "answer")
        for title, own in sides.items()
    )
    return f'<div class="interactive"><p class="side">{html.escape(asked)}</p><div class="panels answers">{cards}</div></div>'


def pieces(response: str, cuts: Iterable[tuple[int, int]], judges: Mapping[str, Sequence[Any] | None]) -> pd.DataFrame:
    """The ``text`` of each piece of a response, cut at these offsets, and by judge the kinds of error whose spans (``start``,
    ``end``, ``kind``) overlap it; a judge without spans has no column."""
    rows = []
    for start, end in cuts:
        row = {"text": response[start:end]}
        for who, spans in judges.items():
            if spans is not None:
                kinds = {span.kind.replace("-", " ") for span in spans if span.start < end and span.end > start}
                row[who] = ", ".join(sorted(kinds))
        rows.append(row)
    return pd.DataFrame(rows)


def _side(title: str, text: str, look: str = "passage") -> str:
    return f'<div><p class="side">{title}</p><p class="{look}">{text}</p></div>'


def _sentences(told: Sequence[str], facts: Collection[str]) -> Iterator[str]:
    for sentence in told:
        text = html.escape(sentence)
        yield f"<strong>{text}</strong>" if sentence.partition(" ")[0] in facts else text


def _piece(piece: dict[str, str]) -> str:
    said, true = piece["annotator"], piece.get("oracle", piece["annotator"])
    words = said + (f" (the oracle: {true or NOTHING})" if said != true else "")
    words = words if said or not words else f"{NOTHING}{words}"
    return _line("bad" if said else "good", "✗" if said else "✓", html.escape(piece["text"]), html.escape(words.lower()))


def _paid(segment: dict[str, Any]) -> str:
    good, paid = segment["judged"] > 0, digits(segment["paid"], "+.1f")
    look = f"{'good' if good else 'bad'} {'rewarded' if segment['paid'] > 0 else 'docked'}"
    return _line(look, "✓" if good else "✗", f'<span class="words">{html.escape(segment["text"])}</span>', paid)


def _line(look: str, sign: str, text: str, said: str = "") -> str:
    """One piece on a line of its own; its sign is said aloud as well."""
    aloud = "good" if look.startswith("good") else "an error"
    marks = f'<span class="sign" aria-hidden="true">{sign}</span><span class="aloud">{aloud}: </span>'
    return f'<span class="segment {look}">{marks}{text}' + (f' <span class="pay">{said}</span>' if said else "") + "</span>"
