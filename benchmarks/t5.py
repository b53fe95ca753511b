"""One PPO run against the plain loop of the paper's code, on real prompts: episodes per second, phase by phase, and memory."""

from __future__ import annotations

import tempfile
from pathlib import Path
from statistics import median

from benchmarks import table, workload
from benchmarks.options import Options
from benchmarks.table import Row
from benchmarks.worker import Side
from benchmarks.workload import PASS_TOKENS
from paradox_utils.analysis import cost

PHASES = ("generation", "scoring", "updates")
SPEED_UP = {"cpu": 6.0, "cuda": 15.0}
GENERATION = 3.0
SHARE = {"cpu": 0.7, "cuda": 0.35}


def run(options: Options) -> list[Row]:
    """Rollouts in turn, the plain loop's first; medians over all but a warming-up one."""
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        workload.build(Path(folder), workload.SIZES[options.size])
        settings = {"folder": folder, "device": options.device, "precision": options.precision}
        with (
            Side("benchmarks.plain", settings, options.threads) as plain,
            Side("benchmarks.ours", settings, options.threads) as ours,
        ):
            for side in (plain, ours):  # on a CPU one prompt warms up as well as eight, and the plain loop takes minutes
                side.call("rollout", index=0, prompts=1 if options.device == "cpu" else 0)
            laps: dict[str, list[dict[str, float]]] = {"plain": [], "ours": []}
            for index in range(1, options.rollouts + 1):
                for name, side in (("plain", plain), ("ours", ours)):
                    laps[name].append(side.call("rollout", index=index))
                    options.say(f"t5: rollout {index}, {name}: {_seconds(laps[name][-1]):.1f} s")
            peaks = {"plain": plain.call("peak"), "ours": ours.call("peak")}
    return rows(laps["plain"], laps["ours"], peaks, options.device)


def rows(plain: list[dict], ours: list[dict], peaks: dict[str, int], device: str) -> list[Row]:
    """The table's rows from both sides' laps (seconds) and peaks (bytes)."""
    rates = [median(lap["episodes"] / _seconds(lap) for lap in laps) for laps in (ours, plain)]
    turns = [_seconds(its) / _seconds(own) for own, its in zip(ours, plain, strict=True)]
    found = [table.more("t5", "episodes per second", *rates, "1/s", SPEED_UP[device])]
    found += table.spread("t5", "episodes per second", turns)
    for phase in PHASES:
        ours_seconds, plain_seconds = (median(lap[phase] for lap in laps) for laps in (ours, plain))
        target = GENERATION if phase == "generation" else None
        found.append(table.faster("t5", f"{phase}, a rollout", ours_seconds, plain_seconds, "s", target))
    found.append(table.faster("t5", "peak memory", peaks["ours"] / 2**20, peaks["plain"] / 2**20, "MiB"))
    for name, measure in {"prompt_tokens": "prompt length", "response_tokens": "response length"}.items():
        found.append(Row("t5", measure, sum(lap[name] for lap in ours) / len(ours), "tokens"))
    found.append(Row("t5", "prompts cut", sum(lap["cut"] for lap in ours), "prompts"))
    found.append(Row("t5", "episodes, a rollout", ours[0]["episodes"], "episodes"))
    found.append(Row("t5", "rollouts measured", len(ours), "rollouts"))
    found.append(Row("t5", "tokens of a pass at most (pass_tokens)", PASS_TOKENS[device], "tokens"))
    return found


def paper(options: Options) -> list[Row]:
    """The first update of a run in the paper's setting, nothing warm: a T5-small policy, a T5-base value model, and a
    Longformer-base that reads the passages (factuality), with random weights."""
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        workload.build(Path(folder), workload.PAPERS[options.size])
        settings = {"folder": folder, "device": options.device, "precision": options.precision}
        settings |= {"task": "factuality", "preset": "as-published", "value_weights": f"{folder}/value"}
        with Side("benchmarks.ours", settings, options.threads) as ours:
            lap, peak = ours.call("rollout", index=0), ours.call("peak")
    return [
        Row("paper", "one update", _seconds(lap), "s"),
        *(Row("paper", f"{phase} of it", lap[phase], "s") for phase in PHASES),
        Row("paper", "peak memory", peak / 2**20, "MiB"),
        Row("paper", "episodes", lap["episodes"], "episodes"),
        Row("paper", "prompt length", lap["prompt_tokens"], "tokens"),
        Row("paper", "response length", lap["response_tokens"], "tokens"),
    ]


def _seconds(lap: dict[str, float]) -> float:
    return sum(lap[phase] for phase in PHASES)


def updates_share(options: Options) -> list[Row]:
    """The updates' share of the machine's matrix-multiply rate: operations counted ÷ seconds ÷ rate.

    The rate is the mean of one measured before the rollouts and one after, in the same process. The operations are those of the
    engine itself: work that it saves does not count for it.
    """
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        workload.build(Path(folder), workload.SIZES[options.size])
        settings = {"folder": folder, "device": options.device, "precision": options.precision}
        with Side("benchmarks.ours", settings, options.threads) as ours:
            rates = [ours.call("rate")]
            ours.call("rollout", index=0, prompts=1 if options.device == "cpu" else 0)
            laps = [ours.call("rollout", index=1) for _ in range(options.rollouts)]
            rates.append(ours.call("rate"))
            work = ours.call("update_work")
    rate = sum(rates) / len(rates)
    phases = {phase: median(lap[phase] for lap in laps) for phase in PHASES}
    reached = work / phases["updates"]
    names = cost.MEASURES
    return [
        Row("matmul", names["rate"], rate / 1e9, "GFLOP/s"),
        Row("matmul", names["share"], reached / 1e9, "GFLOP/s", rate / 1e9, reached / rate, SHARE[options.device]),
        Row("matmul", names["work"], work / 1e9, "GFLOP"),
        *(Row("matmul", names[phase], seconds, "s") for phase, seconds in phases.items()),
        Row("matmul", names["prompt"], laps[0]["prompt_tokens"], "tokens"),
        Row("matmul", names["response"], laps[0]["response_tokens"], "tokens"),
        Row("matmul", names["episodes"], laps[0]["episodes"], "episodes"),
    ]


def compiled(options: Options) -> list[Row]:
    """One epoch of updates with the feed-forward layers compiled by ``torch.compile`` against the same as they are.

    These layers are most of the work outside attention, and the engine's hooks are not on them.
    """
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        workload.build(Path(folder), workload.SIZES[options.size])
        settings = {"folder": folder, "device": options.device, "precision": options.precision}
        with Side("benchmarks.ours", settings, options.threads) as ours:
            found = ours.call("compiled", index=1, repeats=options.rollouts)
    return [
        table.faster("compile", "an epoch of updates, compiled", found["compiled"], found["eager"], "s"),
        Row("compile", "compilation, once a run", found["first"] - found["compiled"], "s"),
    ]


def profile(options: Options) -> list[Row]:
    """Where the engine's time goes in one rollout, operator by operator."""
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        workload.build(Path(folder), workload.SIZES[options.size])
        settings = {"folder": folder, "device": options.device, "precision": options.precision}
        with Side("benchmarks.ours", settings, options.threads) as ours:
            ours.call("rollout", index=0, prompts=1 if options.device == "cpu" else 0)
            found = ours.call("profile", index=1)
    return operator_rows("profile", found)


def operator_rows(part: str, found: list[dict], prefix: str = "") -> list[Row]:
    """The table's rows of :func:`benchmarks.ours.operators`."""
    unit = "share of the phase"
    return [Row(part, f"{prefix}{one['phase']}: {one['operator']}, {one['calls']} calls", one["share"], unit) for one in found]
