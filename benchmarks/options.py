"""How a benchmark is run: the command line's choices."""

from __future__ import annotations

import sys
from dataclasses import dataclass


@dataclass(frozen=True)
class Options:
    """``size``: full or quick (tiny shapes: shows that it runs, measures nothing); ``rollouts``: measured ones a side;
    ``seeds``: runs a side in the comparison with TRL; ``record``: whether the table is written."""

    size: str = "full"
    device: str = "cpu"
    precision: str = "float32"
    threads: int = 1
    rollouts: int = 3
    seeds: int = 4
    record: bool = True

    @property
    def quick(self) -> bool:
        """Whether this is a rehearsal."""
        return self.size == "quick"

    def say(self, line: str) -> None:
        """Progress, on stderr: the table alone goes to stdout."""
        print(line, file=sys.stderr, flush=True)
