"""The engine against TRL's last ``PPOTrainer``: speed, memory, and whether both learn the same."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from statistics import median

import numpy as np
from scipy import stats

from benchmarks import table, terminal
from benchmarks.options import Options
from benchmarks.table import Row
from benchmarks.worker import Side
from paradox_utils import files

VERSION = "1.12.0"  # the last with a PPOTrainer
ENVIRONMENT = files.ROOT / ".venv-trl"
SPEED_UP = {"cpu": 2.5, "cuda": 3.0}
ALIKE = 0.25  # agreement: the difference is less than this share of TRL's value, by a 95 % interval
WINDOWS = ("first update", "middle third of the updates", "last third of the updates")


def python() -> Path:
    """The interpreter that ``PARADOX_TRL`` names, or that of TRL's own environment, made at the first call: it before this
    environment's packages."""
    if given := os.environ.get("PARADOX_TRL"):
        return Path(given)
    interpreter = ENVIRONMENT / "bin" / "python"
    packages = Path(sysconfig.get_path("purelib", vars={"base": str(ENVIRONMENT), "platbase": str(ENVIRONMENT)}))
    if not (packages / f"trl-{VERSION}.dist-info").is_dir():
        subprocess.run([sys.executable, "-m", "venv", str(ENVIRONMENT)], check=True)
        (packages / "main.pth").write_text(sysconfig.get_path("purelib") + "\n")
        pip = [str(interpreter), "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-deps"]
        subprocess.run([*pip, f"trl=={VERSION}"], check=True, stdout=sys.stderr)
    return interpreter


def run(options: Options) -> list[Row]:
    """Both sides in turn, seed by seed; the first update of each run warms up and is not timed."""
    size = terminal.SIZES[options.size]
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        terminal.build(Path(folder), size)
        settings = {"folder": folder, "device": options.device, "precision": options.precision}
        with (
            Side("benchmarks.trl_theirs", settings, options.threads, python()) as theirs,
            Side("benchmarks.trl_ours", settings, options.threads) as ours,
        ):
            runs: dict[str, list[list[dict[str, float]]]] = {"theirs": [], "ours": []}
            for seed in range(options.seeds):
                for name, side in (("theirs", theirs), ("ours", ours)):
                    runs[name].append(side.call("run", seed=seed))
                    seconds = sum(row["seconds"] for row in runs[name][-1])
                    options.say(f"trl: seed {seed}, {name}: {seconds:.1f} s")
            peaks = ours.call("peak") / 2**20, theirs.call("peak") / 2**20
    return rows(runs["ours"], runs["theirs"], peaks, size.prompts * size.samples, options.device)


def rows(ours: list[list[dict]], theirs: list[list[dict]], peaks: tuple[float, float], episodes: int, device: str) -> list[Row]:
    """The table's rows from each side's runs (reward, KL and seconds by update) and peaks (MiB)."""
    rates = [episodes / median(row["seconds"] for run in runs for row in run[1:]) for runs in (ours, theirs)]
    each = [[median(row["seconds"] for row in run[1:]) for run in runs] for runs in (ours, theirs)]
    found = [
        table.more("trl", "episodes per second", *rates, "1/s", SPEED_UP[device]),
        *table.spread("trl", "episodes per second", [its / own for own, its in zip(*each, strict=True)]),
        table.faster("trl", "peak memory", *peaks, "MiB"),
        Row("trl", "TRL's version", VERSION),
        Row("trl", "runs a side", len(ours), "seeds"),
        Row("trl", "updates, a run", len(ours[0]), "updates"),
    ]
    for name, unit in (("reward", "a response"), ("kl", "nats, a response")):
        for window in WINDOWS:
            mine, its = (_means(runs, name, window) for runs in (ours, theirs))
            found.append(Row("trl", f"{name}, {window}", float(mine.mean()), unit, float(its.mean())))
            if window == WINDOWS[0]:  # no update was made: the KL is 0, and the reward that of the same policy
                continue
            low, high, chance = welch(mine, its)
            most = max(abs(low), abs(high)) / abs(float(its.mean()))
            about = f"{name}, {window}: difference"
            found += [
                Row("trl", f"{about}, 95 % interval from", low, unit),
                Row("trl", f"{about}, 95 % interval to", high, unit),
                Row("trl", f"{about}, at most, as a share of TRL's", most, "", None, None, ALIKE, "value"),
                Row("trl", f"{about}, chance between equals (Welch)", chance),
            ]
    return found


def _means(runs: list[list[dict[str, float]]], name: str, window: str) -> np.ndarray:
    """A run's mean of ``name`` over a window of its updates; one number a run."""
    third = max(1, len(runs[0]) // 3)
    places = dict(zip(WINDOWS, (slice(0, 1), slice(third, 2 * third), slice(-third, None)), strict=True))
    return np.array([np.mean([row[name] for row in run[places[window]]]) for run in runs])


def welch(ours: np.ndarray, theirs: np.ndarray) -> tuple[float, float, float]:
    """95 % interval of the difference of means (ours − theirs), and Welch's two-sided p; NaN with one run a side."""
    if min(len(ours), len(theirs)) < 2:
        return float("nan"), float("nan"), float("nan")
    test = stats.ttest_ind(ours, theirs, equal_var=False)
    interval = test.confidence_interval(0.95)
    return float(interval.low), float(interval.high), float(test.pvalue)
