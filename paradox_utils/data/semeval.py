"""SemEval-2016 Task 3, subtask A (Nakov et al. 2016): questions of a forum with the first ten answers of their threads, which
people called Good, PotentiallyUseful or Bad.

``data`` is a directory with the organisers' XML files. The same question returns in several threads and files, so that the
official split leaks: threads of equal subject and body are joined, and questions are split here, by a hash. Where two
labellings of an answer differ, that of the more reliable file stands.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from paradox_utils import config, files
from paradox_utils.data import sets
from paradox_utils.data.records import BAD, BETWEEN, GOOD, DataError, JudgedSet, Question, Splits, question_id

# From the most reliable labels on: those of dev were checked twice, those of train are the noisiest (the organisers say).
FILES = tuple(f"SemEval2016-Task3-CQA-QL-{part}.xml" for part in ("dev", "test", "train-part2", "train-part1"))
TEST = FILES[1]
LABEL = "RELC_RELEVANCE2RELQ"
GRADES = {"Good": GOOD, "PotentiallyUseful": BETWEEN, "Bad": BAD}
ANSWERS = 10
SKIPPED = "SubtaskA_Skip_Because_Same_As_RelQuestion_ID"  # of a thread that the official scores of subtask A leave out
MEND = "restore the organisers' file"


def load_sets(p: config.Source) -> dict[str, list[JudgedSet]]:
    """Judged sets by use, see :func:`paradox_utils.data.sets.split`.

    With ``official_split`` the threads that count in the official scores of subtask A are held out, with the test file's own
    labels, and all questions that do not stand in that file are learnt from. Raises :class:`DataError` for files that cannot be
    used, or a part left empty.
    """
    found = {path.name: _parse(path, path.stat().st_mtime_ns) for path in sets.present(p, FILES)}
    known = _joined(found)
    if not p.official_split:
        return sets.split(p, known.values())
    if TEST not in found:
        raise DataError(f"official_split = True: {p.data} lacks {TEST}; add it, or leave official_split out")
    tested = {one.question.id for one, _ in found[TEST]}
    heldout = [one for one, counts in found[TEST] if counts]
    return {"train": [one for key, one in known.items() if key not in tested], "heldout": heldout, "evaluator": []}


def load_splits(p: config.Source) -> Splits:
    """Questions for the policy, see :func:`paradox_utils.data.sets.splits`; references are the answers called Good."""
    return sets.splits(p, load_sets(p))


def _joined(found: dict[str, list[tuple[JudgedSet, bool]]]) -> dict[str, JudgedSet]:
    """Each question once, by id, with what the most reliable file says of its answers, and how often others say the same."""
    known: dict[str, JudgedSet] = {}
    for threads in found.values():
        inside: dict[str, JudgedSet] = {}
        for one, _ in threads:
            again = inside.get(one.question.id)
            inside[one.question.id] = replace(again, copies=again.copies + 1) if again else one
        for key, one in inside.items():
            first = known.get(key, one)
            if first is not one:
                same = first.same + sum(old == new for old, new in zip(first.grades, one.grades, strict=True))
                first = replace(first, copies=first.copies + one.copies, regraded=first.regraded + ANSWERS, same=same)
            known[key] = first
    return known


@lru_cache(maxsize=len(FILES))
def _parse(path: Path, _modified: int) -> list[tuple[JudgedSet, bool]]:
    """Each thread of a file as a judged set, and whether official scores count it."""
    text = files.read_text(path, MEND)
    try:
        root = ET.fromstring(text)
    except ET.ParseError as error:
        raise DataError(f"{path}: is no whole XML file ({error}); {MEND}") from error
    threads = root.findall("OrgQuestion/Thread")
    if not threads:
        inside = ", ".join(dict.fromkeys(child.tag for child in root)) or "nothing"
        raise DataError(
            f"{path}: must hold OrgQuestion with Thread, as the files of 2016 do, and holds {inside}; {MEND} of 2016"
        )
    try:
        return [(_set_of(thread), thread.get(SKIPPED) is None) for thread in threads]
    except _FaultError as fault:
        line = text.count("\n", 0, max(0, text.find(f'"{fault.name}"'))) + 1
        raise DataError(f"{path}, line {line}, {fault.name}: {fault}; {MEND}") from fault


class _FaultError(ValueError):
    """What is wrong with the element of a ``name``."""

    def __init__(self, name: str, problem: str) -> None:
        super().__init__(problem)
        self.name = name


def _set_of(thread: ET.Element) -> JudgedSet:
    name, comments = thread.get("THREAD_SEQUENCE", "Thread"), thread.findall("RelComment")
    asked = [" ".join((thread.findtext(f"RelQuestion/{field}") or "").split()) for field in ("RelQSubject", "RelQBody")]
    if not any(asked):
        raise _FaultError(name, "RelQSubject and RelQBody are empty")
    if len(comments) != ANSWERS:
        raise _FaultError(name, f"RelComment: stands there {len(comments)} times, and must {ANSWERS} times")
    graded = [(place, *_graded(comment)) for place, comment in enumerate(comments)]
    good = tuple(text for _, text, grade in graded if grade == GOOD)
    words = " ".join(filter(None, asked))
    question = Question(question_id(" | ".join(asked), "SemEval-2016"), words, (), f"question: {words}", good)
    return sets.shuffled(question, graded)


def _graded(comment: ET.Element) -> tuple[str, int]:
    text, label = " ".join((comment.findtext("RelCText") or "").split()), comment.get(LABEL)
    name = comment.get("RELC_ID", "RelComment")
    if not text:
        raise _FaultError(name, "RelCText is empty")
    if label not in GRADES:
        raise _FaultError(name, f"{LABEL} = {label!r}: must be one of {', '.join(GRADES)}")
    return text, GRADES[label]
