"""Numbers and names as words of a sentence."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pandas as pd

from paradox_utils.analysis.outcomes import usable
from paradox_utils.analysis.statistics import Interval


def run_counts(summary: pd.DataFrame) -> str:
    """How the study's runs ended, in words."""
    runs = summary.drop_duplicates("id")
    counts = Counter(runs["status"])
    kept = int((usable(runs) & (runs["status"] == "diverged")).sum())
    words = {
        "diverged": f"{counts['diverged']} diverged ({kept} with a performance at its end, which counts)",
        "failed": f"{counts['failed']} failed",
        "blocked": f"{counts['blocked']} not started",
        "running": f"{counts['running']} still running",
    }
    lost = [text for status, text in words.items() if counts[status]]
    return f"{counts['ok']} of {count(len(runs), 'PPO run')} finished" + (f"; {', '.join(lost)}" if lost else "") + "."


def listed(names: Sequence[str]) -> str:
    """Names in a row: a, b and c."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def count(n: int, one: str, many: str = "") -> str:
    """A number with its noun."""
    return f"{n} {one if n == 1 else many or one + 's'}"


def digits(value: float, form: str = "+z.3f") -> str:
    """A number in digits of a ``form``, signed if none is given, with a true minus."""
    return f"{value:{form}}".replace("-", "−")


def estimate(of: Interval, form: str = "z.3f") -> str:
    """An estimate with its interval, in digits of a ``form``."""
    low, middle, high = (digits(value, form) for value in (of.low, of.estimate, of.high))
    return f"{middle} (95 % interval {low} to {high})"
