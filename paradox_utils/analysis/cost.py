"""What the paper's whole grid would take: operations from model shapes, times from measured rates. Imports no torch.

Operations count 2 for each multiply-add of a matrix product; a training pass takes three forward passes (Kaplan et al. 2020,
section 2.1). A prompt is read once for all of its responses.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass

import pandas as pd

from paradox_utils import config, files
from paradox_utils.analysis import tables
from paradox_utils.data.tasks import MARKED

# What the benchmark's part `matmul` records, under these names.
MEASURES = {
    "rate": "matrix-multiply rate",
    "share": "rate of the updates",
    "work": "operations of the updates, a rollout",
    "generation": "generation, a rollout",
    "scoring": "scoring, a rollout",
    "updates": "updates, a rollout",
    "prompt": "prompt length",
    "response": "response length",
    "episodes": "episodes, a rollout",
}
WHERE = ("device", "precision", "threads", "cpu", "gpu", "date")
BENCH = "run `make bench`, which writes results/recorded/benchmarks.csv"
EPOCHS, SAMPLES = 4, 4  # of the paper, and of the benchmark
PRECISION = {"cpu": "float32", "cuda": "bfloat16"}  # in which each kind of device is taken


@dataclass(frozen=True)
class Shape:
    """An encoder-decoder: ``layers`` (encoder), ``decoder_layers``, widths, ``words`` of its vocabulary."""

    layers: int
    decoder_layers: int
    width: int
    attention: int
    feed_forward: int
    words: int = 32128


POLICIES = {
    "T5-small": Shape(6, 6, 512, 512, 2048),
    "T5-base": Shape(12, 12, 768, 768, 3072),
    "T5-large": Shape(24, 24, 1024, 1024, 4096),
}
VALUE = POLICIES["T5-base"]  # whatever the policy


@dataclass(frozen=True)
class Rates:
    """What a machine does. ``operations`` per second in updates; ``besides``: seconds of generation and scoring for each second
    of updates; ``overhead``: operations counted on the benchmark's updates ÷ those of the formula (padding, mostly);
    ``prompt``, ``response``: mean lengths in tokens; ``device`` measured on: where that is no GPU, the rate is assumed."""

    operations: float
    besides: float
    overhead: float
    prompt: float
    response: float
    device: str


def forward(shape: Shape, prompt: float, response: float, samples: int, head: bool = True) -> float:
    """Operations of one forward pass, a response: projections and attention of the encoder, keys and values of cross-attention,
    projections and attention of the decoder, and the head, which a value model lacks. Lengths in tokens."""
    d, a, f, s, t = shape.width, shape.attention, shape.feed_forward, prompt, response
    encoder = s * shape.layers * (8 * d * a + 4 * d * f) + 4 * shape.layers * s * s * a
    keys = 4 * s * shape.decoder_layers * d * a
    decoder = t * shape.decoder_layers * (12 * d * a + 4 * d * f) + 4 * shape.decoder_layers * t * (t + s) * a
    return (encoder + keys) / samples + decoder + (2 * t * d * shape.words if head else 0)


def updates(policy: Shape, value: Shape, prompt: float, response: float) -> float:
    """Operations of the updates, a response: three forward passes' worth an epoch, for policy and value model."""
    both = forward(policy, prompt, response, SAMPLES) + forward(value, prompt, response, SAMPLES, head=False)
    return 3 * EPOCHS * both


def rates(table: pd.DataFrame, p: config.Cost) -> Rates:
    """What ``make bench`` measured: a GPU's rows where there are any, else those of a CPU with the assumed rate of a GPU.

    Raises :class:`files.FileError` where the table lacks the part `matmul`.
    """
    rows = table[table["part"] == "matmul"]
    device = "cuda" if (rows["device"] == "cuda").any() else "cpu"
    rows = rows[(rows["device"] == device) & (rows["precision"] == PRECISION[device])].set_index("measure")
    if missing := [name for name in MEASURES.values() if name not in rows.index]:
        raise files.FileError(f"{p.benchmarks}: has no {missing[0]!r}; {BENCH}")
    values = rows["value"].groupby(level=0).last()
    numbers = pd.to_numeric(values, errors="coerce")
    if wrong := [name for name in MEASURES.values() if not numbers[name] > 0]:
        said = f"value = {values[wrong[0]]!r} of {wrong[0]!r}: must be a number above 0"
        raise files.FileError(f"{p.benchmarks}: {said}; {BENCH}")
    found = {name: float(numbers[measure]) for name, measure in MEASURES.items()}
    small = POLICIES["T5-small"]  # the benchmark's policy, and its value model
    counted = 1e9 * found["work"] / found["episodes"]
    return Rates(
        operations=1e9 * found["share"] if device == "cuda" else 1e12 * p.assumed_rate * p.assumed_share,
        besides=(found["generation"] + found["scoring"]) / found["updates"],
        overhead=counted / updates(small, small, found["prompt"], found["response"]),
        prompt=found["prompt"],
        response=found["response"],
        device=device,
    )


def run_hours(policy: Shape, r: Rates, episodes: int) -> float:
    """GPU hours of one PPO run: episodes × operations ÷ rate × (1 + what stands beside the updates)."""
    work = r.overhead * updates(policy, VALUE, r.prompt, r.response)
    return episodes * work / r.operations * (1 + r.besides) / 3600


def grid(r: Rates, p: config.Cost) -> pd.DataFrame:
    """Policies and tasks: hours of one run, runs, GPU hours of all of them."""
    rows = []
    for name, shape in POLICIES.items():
        hours, runs = run_hours(shape, r, p.episodes), p.reward_models * p.seeds
        rows += [{"policy": name, "task": t, "hours a run": hours, "runs": runs, "GPU hours": hours * runs} for t in MARKED]
    return pd.DataFrame(rows)


def makespan(lengths: list[float], machines: int) -> float:
    """Hours until all runs are done if each machine that falls free takes the longest run left."""
    ends = [0.0] * machines
    for length in sorted(lengths, reverse=True):
        heapq.heapreplace(ends, ends[0] + length)
    return max(ends)


def load_benchmarks(p: config.Cost) -> pd.DataFrame:
    """The recorded table of benchmarks; raises as :func:`tables.read_table`."""
    needed = ("part", "measure", "value", "baseline", "unit", "ratio", "target", "met", *WHERE)
    return tables.read_table(files.resolve(p.benchmarks), needed, numbers=(), way_out=BENCH)
