"""Execute a notebook with papermill, for a study's run and for a page of the book."""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from paradox_utils import files


def execute(source: Path, target: Path, parameters: dict[str, Any], log: Path) -> None:
    """Execute a notebook with papermill from the project root; what its cells print goes to ``log`` as well."""
    import papermill  # half a second: only those who execute pay it
    from traitlets.config import Config

    logging.getLogger("papermill").setLevel(logging.ERROR)  # parameters that keep their default are injected all the same
    # Papermill writes the paths into the notebook: they must not be this machine's. A study's process works in the root.
    relative = [os.path.relpath(path) for path in (source, target)]
    sockets = tempfile.TemporaryDirectory(prefix="paradox-", ignore_cleanup_errors=True)
    with sockets as folder, log.open("w", encoding="utf-8") as sink, stderr_to(sink):
        # Through socket files: kernels that start at the same time could choose the same network ports.
        connection = {"transport": "ipc", "ip": f"{folder}/kernel"}
        papermill.execute_notebook(
            *relative,
            parameters=parameters,
            cwd=files.ROOT,
            config=Config({"ConnectionFileMixin": connection}),
            kernel_name="python3",  # this environment's, whatever the notebook was last saved with
            language="python",
            progress_bar=False,
            stdout_file=sink,
            stderr_file=sink,
        )


@contextlib.contextmanager
def stderr_to(sink: IO[str]) -> Iterator[None]:
    """Send file descriptor 2, which the kernel inherits, to ``sink``: warnings, and the last words of one that crashes."""
    saved = os.dup(2)
    os.dup2(sink.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
