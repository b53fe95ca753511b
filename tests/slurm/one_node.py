"""Run a study through a SLURM of one node on this machine, and compare its summary with that of a local run.

``make test-slurm`` calls it. It needs Debian's packages slurmctld, slurmd, slurm-client and munge, and Snakemake's plugin (the
extra ``slurm``). The daemons talk over the loopback interface, keep all they write in a temporary folder, run as whoever
calls, and are stopped by their process ids in any case.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

REPOSITORY = Path(__file__).resolve().parents[2]
PROGRAMS = {"munged": "munge", "slurmctld": "slurmctld", "slurmd": "slurmd", "sbatch": "slurm-client", "srun": "slurm-client"}
SLURM_CONF = """\
ClusterName=loopback
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CryptoType=crypto/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
MailProg=/bin/true
ReturnToService=2
MinJobAge=600
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory={memory} State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""
TIMES = ["seconds"]  # of the summary's columns, those that differ from call to call


def refuse(sentence: str) -> None:
    """End with one clear sentence."""
    sys.exit(f"test-slurm: {sentence}")


def check_installed() -> None:
    """Refuse where a package is missing, naming it."""
    if missing := sorted({package for program, package in PROGRAMS.items() if find(program) is None}):
        refuse(f"needs {', '.join(missing)}: apt-get install --no-install-recommends slurmctld slurmd slurm-client munge")
    if not importlib.util.find_spec("snakemake_executor_plugin_slurm"):
        refuse("needs Snakemake's plugin: pip install -e '.[slurm]'")


def find(program: str) -> str | None:
    """Debian puts daemons where only root's PATH looks."""
    return shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


def free_ports(number: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(number)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


@contextlib.contextmanager
def cluster(folder: Path) -> Iterator[None]:
    """A SLURM of one node whose files are all in ``folder``; ``SLURM_CONF`` points at it."""
    for name in ("state", "spool", "munge"):
        (folder / name).mkdir(mode=0o700)
    for way in (folder, folder.parent):
        way.chmod(0o711)  # munged wants its socket within everyone's reach
    key = folder / "munge" / "key"
    key.write_bytes(secrets.token_bytes(1024))
    key.chmod(0o400)
    user = subprocess.run(["id", "-un"], capture_output=True, text=True, check=True).stdout.strip()
    cpus, memory = os.cpu_count(), os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20
    conf = folder / "slurm.conf"
    host = socket.gethostname().split(".")[0]
    settings = {"host": host, "user": user, "ports": free_ports(2), "folder": folder, "cpus": cpus, "memory": memory}
    conf.write_text(SLURM_CONF.format(**settings))
    os.environ["SLURM_CONF"] = str(conf)
    # Snakemake's plugin takes SLURM's variables from the environment of a job, as a cluster has its settings in /etc.
    (folder / "bin").mkdir()
    (folder / "bin" / "srun").write_text(f'#!/bin/sh\nSLURM_CONF={conf} exec {find("srun")} "$@"\n')
    (folder / "bin" / "srun").chmod(0o755)
    os.environ["PATH"] = f"{folder / 'bin'}:{os.environ['PATH']}"
    munge = [f"--{name}={folder / 'munge' / name}" for name in ("pid-file", "log-file", "seed-file")]
    munge += [f"--key-file={key}", f"--socket={folder}/munge.socket", "--num-threads=2"]
    daemons = [
        [find("munged"), "--foreground", *munge],
        [find("slurmctld"), "-D", "-i", "-f", str(conf)],
        [find("slurmd"), "-D", "-f", str(conf)],
    ]
    running: list[subprocess.Popen[bytes]] = []
    try:
        for command in daemons:
            log = (folder / f"{Path(str(command[0])).name}.log").open("w")
            running.append(subprocess.Popen([str(word) for word in command], stdout=log, stderr=log))
            while not (folder / "munge.socket").exists() and running[0].poll() is None:  # what the others ask at their start
                time.sleep(0.1)
        wait_until_idle(running, folder)
        yield
    finally:
        if len(running) == len(daemons) and running[1].poll() is None:
            subprocess.run(["scancel", "--user", user, "--signal=KILL"], capture_output=True, timeout=300)
            time.sleep(1)
        for process in reversed(running):
            process.terminate()
            try:
                process.wait(120)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def wait_until_idle(daemons: list[subprocess.Popen[bytes]], folder: Path, seconds: float = 900) -> None:
    """Until the node takes jobs; refuses with the daemons' last words where it does not."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and all(daemon.poll() is None for daemon in daemons):
        state = subprocess.run(["sinfo", "--noheader", "--format=%T"], capture_output=True, text=True)
        if state.stdout.strip() == "idle":
            return
        time.sleep(0.5)
    logs = [f"{log.name}: {' / '.join(log.read_text().splitlines()[-3:])}" for log in sorted(folder.glob("*.log"))]
    refuse("SLURM did not come up; " + "; ".join(logs))


def project(folder: Path, source: Path) -> Path:
    """A project of its own: links to all of the source but its results, so that what a study comes to read is there."""
    folder.mkdir()
    for path in source.iterdir():
        if path.name != "results" and not path.name.startswith("."):
            (folder / path.name).symlink_to(path)
    return folder


def run(where: Path, config: str, *options: str) -> pd.DataFrame:
    """Run the study there and return its summary; refuses where a run is missing."""
    started = time.perf_counter()
    command = [sys.executable, "-m", "paradox_utils.study", "run", config, *options]
    environment = os.environ | {"PARADOX_ROOT": str(where), "PYTHONPATH": str(where)}
    code = subprocess.run(command, cwd=where, env=environment).returncode
    print(f"test-slurm: {where.name}: exit code {code} after {time.perf_counter() - started:.0f} s", flush=True)
    if code != 0:
        for log in sorted(where.glob(".snakemake/slurm_logs/**/*.log")):
            print(log.name, *log.read_text().splitlines()[-40:], sep="\n  ")
        refuse(f"the {where.name} study failed")
    return summary(next(where.glob("results/*/summary.csv")))


def summary(file: Path) -> pd.DataFrame:
    return pd.read_csv(file).drop(columns=TIMES)


def main() -> None:
    """Both runs and their comparison."""
    parser = argparse.ArgumentParser(prog="make test-slurm", description=__doc__)
    parser.add_argument("config", nargs="?", default="configs/quick.yaml")
    parser.add_argument("--source", type=Path, default=REPOSITORY, help="the project whose study is run")
    parser.add_argument("--local", type=Path, help="summary.csv of a local run that there is already")
    options = parser.parse_args()
    check_installed()
    with tempfile.TemporaryDirectory(prefix="paradox-slurm-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        (folder / "daemons").mkdir()
        with cluster(folder / "daemons"):
            quick = ["--slurm-status-command", "squeue", "--slurm-init-seconds-before-status-checks", "3"]
            quick += ["--seconds-between-status-checks", "3", "--latency-wait", "5"]
            there = run(project(folder / "slurm", options.source), options.config, "--profile", "profiles/slurm", *quick)
        here = summary(options.local) if options.local else run(project(folder / "local", options.source), options.config)
    pd.testing.assert_frame_equal(there, here, check_exact=True)
    print(f"test-slurm: the summary of {len(there)} PPO runs is the same through SLURM and on this machine, times apart")


if __name__ == "__main__":
    main()
