"""Kernels from a warm process: a fork of it has the libraries imported already, which take a new process some eight seconds.

A study that stays on this machine starts the process and each run's kernel is forked from it. It holds none of this package's
modules, so a kernel reads the code as it stands then; and no GPU is used so, as CUDA does not survive a fork.

Three processes a kernel. Jupyter starts this file as a script, the *client*; the warm process forks a *keeper* for it; and the
keeper forks the kernel. A client that ends takes the kernel with it, and it ends as the kernel does, so that to Jupyter it is
the kernel. Where the warm process ends before it has forked, the client becomes a kernel of its own. Interrupts, which Jupyter
sends before it asks a kernel to shut down, do not reach a forked one: it shuts down as asked.
"""

import contextlib
import json
import os
import select
import signal
import socket
import sys

# A client imports no more than this: what it saves would soon be spent.

DOOR = "PARADOX_WARM"  # the variable that says where the warm process listens
LIBRARIES = (
    *("torch", "transformers", "trl", "datasets", "sklearn.metrics", "scipy.stats", "seaborn"),
    *("IPython", "matplotlib_inline.backend_inline", "ipykernel.ipkernel", "ipykernel.zmqshell", "ipykernel.kernelapp"),
)
STAGES = ("supervised", "feedback", "reward_model", "ppo")


# --- the client ---------------------------------------------------------------------------------------------------------------


def client(door: str, arguments: list[str]) -> None:
    """Have a kernel with these arguments forked, and live as long as it does."""
    parent = int(os.environ.get("JPY_PARENT_PID") or os.getppid())  # the job, by Jupyter's word: it may be gone already
    with socket.socket(socket.AF_UNIX) as asked:
        try:
            asked.connect(door)
            request = {"arguments": arguments, "environment": dict(os.environ), "folder": os.getcwd()}  # noqa: PTH109
            socket.send_fds(asked, [b"!"], [0, 1, 2])
            asked.sendall(json.dumps(request).encode() + b"\n")
            forked = _heard(asked, parent, 1)
        except OSError:
            forked = b""
        if not forked:  # the warm process has ended, before its study's last run or before it could fork
            os.execv(sys.executable, [sys.executable, "-m", "ipykernel_launcher", *arguments])
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            status = int(_heard(asked, parent, 16) or -signal.SIGKILL)  # without a word where the keeper was killed
        except OSError:
            status = -signal.SIGKILL
    if status < 0:
        os.kill(os.getpid(), -status)
    sys.exit(status)


def _heard(asked: socket.socket, parent: int, most: int) -> bytes:
    """What the other side says, empty when it has gone; ends this process when nobody waits for its kernel any more."""
    while not select.select([asked], [], [], 1.0)[0]:
        if os.getppid() != parent:
            sys.exit(1)
    return asked.recv(most)


# --- the warm process ---------------------------------------------------------------------------------------------------------


def opened(door: str) -> socket.socket:
    """A socket that listens at this path: clients may come before the warm process serves it, and wait."""
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(door)
    listening.listen(64)
    return listening


def serve(door: int, owner: int) -> None:
    """Import what runs import, then fork a keeper for each client, until the process ``owner`` that started this has ended.

    ``door`` is the open file of the socket that listens (:func:`opened`).
    """
    with socket.socket(fileno=door) as listening:
        listening.settimeout(1.0)
        _warm_up()
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # keepers need no burial
        while os.getppid() == owner:
            try:
                asked, _ = listening.accept()
            except TimeoutError:
                continue
            if os.fork() == 0:
                try:
                    listening.close()
                    asked.settimeout(None)
                    keep(asked)
                finally:
                    os._exit(0)  # a client that left before its request has no use for this process's own end
            asked.close()


def _warm_up() -> None:
    """Import the libraries, by themselves and through the stages, whose own modules are then forgotten."""
    import importlib

    from paradox_utils import threads

    threads.use({})  # how a library's threads wait is settled when it loads
    for name in (*LIBRARIES, *(f"paradox_utils.stages.{stage}" for stage in STAGES), "paradox_utils.figures.run"):
        importlib.import_module(name)
    for name in [name for name in sys.modules if name.partition(".")[0] == "paradox_utils"]:
        del sys.modules[name]


def keep(asked: socket.socket) -> None:
    """Fork the kernel a client asks for, tell the client so and how it ended, or end it when the client is gone."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    _, files, _, _ = socket.recv_fds(asked, 1, 3)
    request = json.loads(asked.makefile("rb").readline())
    kernel = os.fork()
    if kernel == 0:
        asked.close()
        become(request, files)
    with contextlib.suppress(OSError):
        asked.sendall(b"!")
    for file in files:
        os.close(file)
    ended = os.pidfd_open(kernel)
    if ended not in select.select([asked, ended], [], [])[0]:
        os.kill(kernel, signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(kernel, 0)[1])
    with contextlib.suppress(OSError):  # nobody asks any more
        asked.sendall(str(status).encode())


def become(request: dict, files: list[int]) -> None:
    """Be a kernel as a new process would be: with the client's files, environment and folder. Does not return."""
    import atexit
    import random
    import traceback

    import numpy as np
    from ipykernel import kernelapp

    code = 1
    try:
        for target, file in enumerate(files):
            os.dup2(file, target)
            os.close(file)
        os.environ.clear()
        os.environ.update(request["environment"])
        os.chdir(request["folder"])
        random.seed()
        np.random.seed()
        sys.argv = ["ipykernel_launcher", *request["arguments"]]
        # so it ends when its keeper is killed; the default stems from the environment in which the library was imported
        kernelapp.launch_new_instance(parent_handle=os.getppid())
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(int(sys.argv[2]), int(sys.argv[3]))
    else:
        client(sys.argv[1], sys.argv[2:])
