"""Execute a notebook with papermill, for a study's run and for a page of the book."""

from __future__ import annotations

import contextlib
import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from paradox_utils import files, warm

LONGEST_SOCKET = 100  # bytes of a socket's path; the kernel takes 107, macOS 103
PATIENCE = 900  # seconds for a notebook's process to come up: on a busy machine it waits behind others


def execute(source: Path, target: Path, parameters: dict[str, Any], log: Path) -> None:
    """Execute a notebook with papermill from the project root; what its cells print goes to ``log`` as well.

    It runs in this very Python, whatever kernels are installed, and with no settings of this user's but caches.
    """
    import papermill  # half a second: only those who execute pay it
    from traitlets.config import Config

    logging.getLogger("papermill").setLevel(logging.ERROR)  # parameters that keep their default are injected all the same
    # Papermill writes the paths into the notebook: they must not be this machine's. A study's process works in the root.
    relative = [os.path.relpath(path).replace("{", "{{").replace("}", "}}") for path in (source, target)]
    with scratch() as folder, log.open("w", encoding="utf-8") as sink, stderr_to(sink), settings_in(folder):
        # Through socket files: kernels that start at the same time could choose the same network ports.
        connection = {"transport": "ipc", "ip": f"{folder}/kernel"}
        papermill.execute_notebook(
            *relative,
            parameters=parameters,
            cwd=files.ROOT,
            config=Config({"ConnectionFileMixin": connection}),
            kernel_name="python3",  # this environment's, whatever the notebook was last saved with
            language="python",
            kernel_manager_class=_own_kernel(),
            start_timeout=PATIENCE,
            progress_bar=False,
            stdout_file=sink,
            stderr_file=sink,
        )


def _own_kernel() -> type:
    """A kernel manager that knows no kernel but this Python's: others may stand under the same name on ``JUPYTER_PATH``. Where
    a warm process listens (:mod:`paradox_utils.warm`), it has its kernels from there."""
    from jupyter_client import AsyncKernelManager
    from jupyter_client.kernelspec import KernelSpecManager
    from traitlets import default

    class OwnKernel(AsyncKernelManager):
        @default("kernel_spec_manager")
        def _alone(self) -> KernelSpecManager:
            return KernelSpecManager(kernel_dirs=[])

        def format_kernel_cmd(self, extra_arguments: list[str] | None = None) -> list[str]:
            python, _, _, *arguments = command = super().format_kernel_cmd(extra_arguments)  # python -m ipykernel_launcher …
            door = os.environ.get(warm.DOOR)
            return [python, "-I", "-S", warm.__file__, door, *arguments] if door else command

    return OwnKernel


@contextlib.contextmanager
def warmed() -> Iterator[None]:
    """Have the kernels of this block, and of the processes it starts, forked from a warm process, where the system lets it."""
    if not _forks():
        yield
        return
    with scratch() as folder:
        door = f"{folder}/warm"
        with warm.opened(door) as listening:
            command = [sys.executable, "-m", warm.__name__, "serve", str(listening.fileno()), str(os.getpid())]
            # in a session of its own: an interrupt from the terminal is the study's, which ends this process afterwards
            server = subprocess.Popen(command, cwd=files.ROOT, pass_fds=[listening.fileno()], start_new_session=True)
        before = os.environ.get(warm.DOOR)
        os.environ[warm.DOOR] = door
        try:
            yield
        finally:
            os.environ |= {warm.DOOR: before} if before else {}
            if not before:
                del os.environ[warm.DOOR]
            server.terminate()
            server.wait()


def _forks() -> bool:
    """Whether kernels can be forked and watched here: macOS forbids much after a fork, and pidfd is Linux's since 5.3."""
    with contextlib.suppress(AttributeError, OSError):
        os.close(os.pidfd_open(os.getpid()))
        return sys.platform == "linux"
    return False


def scratch() -> tempfile.TemporaryDirectory[str]:
    """A temporary folder that vanishes with its ``with`` block, of a path short enough for sockets."""
    for place in (None, "/tmp", "/var/tmp"):
        with contextlib.suppress(OSError):
            folder = tempfile.TemporaryDirectory(prefix="paradox-", dir=place, ignore_cleanup_errors=True)
            if len(os.fsencode(folder.name)) + len("/kernel-1") <= LONGEST_SOCKET:
                return folder
            folder.cleanup()
    raise files.FileError(
        f"TMPDIR = {tempfile.gettempdir()}: too long a path for sockets, and /tmp takes no files; name another"
    )


@contextlib.contextmanager
def settings_in(folder: str) -> Iterator[None]:
    """Let Jupyter and IPython keep theirs in ``folder``: a home folder may be read-only, or have startup files."""
    own = {"IPYTHONDIR": f"{folder}/ipython", "JUPYTER_RUNTIME_DIR": f"{folder}/jupyter", **files.caches()}
    before = {name: os.environ[name] for name in own if name in os.environ}
    os.environ |= own
    try:
        yield
    finally:
        for name in own:
            del os.environ[name]
        os.environ |= before


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
