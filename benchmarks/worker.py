"""A side of a comparison in a process of its own, so that its memory and its caches are nobody else's.

The parent sends one JSON line a call (``{"call": NAME, "with": {…}}``) and gets one JSON line back. Both sides stay alive, so
that their rollouts can alternate: whatever else slows the machine for a while slows both.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any

from paradox_utils import files


class SideError(RuntimeError):
    """A side that died; its own message is on stderr."""


class Side:
    """A running side: ``module`` has a class ``Loop``, made with ``settings``; its methods are called by name."""

    def __init__(self, module: str, settings: dict[str, Any], threads: int, python: Path | str = sys.executable) -> None:
        self.module = module
        paths = os.pathsep.join(filter(None, [str(files.PACKAGE.parent), os.environ.get("PYTHONPATH")]))
        environment = os.environ | {"OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false", "PYTHONPATH": paths}
        environment |= {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "TQDM_DISABLE": "1"}
        command = [str(python), "-m", "benchmarks.worker", module, json.dumps(settings)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, cwd=files.ROOT
        )

    def __enter__(self) -> Side:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is not None:
            self.process.kill()
        self.process.communicate()

    def call(self, name: str, **values: Any) -> Any:
        """What the method ``name`` of the side's ``Loop`` returns."""
        assert self.process.stdin
        assert self.process.stdout
        try:
            self.process.stdin.write(json.dumps({"call": name, "with": values}) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            raise SideError(f"{self.module}: died before {name!r}; its message stands above") from None
        answer = self.process.stdout.readline()
        if not answer:
            raise SideError(f"{self.module}: died in {name!r}; its message stands above")
        return json.loads(answer)


def peak_memory(device: str) -> int:
    """Bytes: the process's largest resident set on a CPU, torch's largest allocation on a GPU."""
    if device == "cuda":
        import torch

        return torch.cuda.max_memory_allocated()
    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return size if sys.platform == "darwin" else size * 1024


def main() -> None:
    """Answer the parent until it hangs up."""
    answers, sys.stdout = sys.stdout, sys.stderr  # whatever a library prints must not pass for an answer
    loop = importlib.import_module(sys.argv[1]).Loop(**json.loads(sys.argv[2]))
    for line in sys.stdin:
        request = json.loads(line)
        result = getattr(loop, request["call"])(**request["with"])
        answers.write(json.dumps(result) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
