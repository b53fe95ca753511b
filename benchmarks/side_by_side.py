"""PPO runs of the `atlas` study's size side by side on one device: how many updates a second all of them do together."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from statistics import median

from benchmarks import table
from benchmarks.atlas import parameters_of
from benchmarks.options import Options
from benchmarks.table import Row
from benchmarks.worker import Side, SideError

COUNTS = {"cpu": (1, 2), "cuda": (1, 16, 64)}
UPDATES = 20


def run(options: Options) -> list[Row]:
    """Each number of runs in turn, a process and a thread each; all have warmed up before any is timed."""
    parameters, rates = parameters_of("relevance") | {"device": options.device, "precision": options.precision}, {}
    for count in COUNTS[options.device]:
        updates = 2 if options.quick else UPDATES
        try:
            rates[count] = together(parameters, count, updates)
        except SideError as error:  # so many do not fit: what did is told
            options.say(f"side: {count} runs: {error}")
            break
        options.say(f"side: {count} runs: {rates[count]:.1f} updates a second")
    return rows(rates)


def rows(rates: Mapping[int, float]) -> list[Row]:
    """The table's rows from the updates a second of each number of runs."""
    named = {count: f"updates a second, {count} runs together" for count in rates}
    found = [table.more("side", named[count], rate, rates[1], "1/s") for count, rate in rates.items()]
    return [*found, Row("side", "most runs that were measured together", max(rates), "runs")]


def together(parameters: dict, count: int, updates: int) -> float:
    """Updates a second of so many runs at once, each a rollout and its updates."""
    with ExitStack() as stack, ThreadPoolExecutor(count) as pool:
        sides = [stack.enter_context(Side("benchmarks.atlas", {"parameters": parameters}, 1)) for _ in range(count)]
        list(pool.map(lambda side: side.call("phases", rollouts=1), sides))
        seconds = pool.map(lambda side: sum(side.call("phases", rollouts=updates).values()), sides)
        return count / median(seconds)
