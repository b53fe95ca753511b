"""``python -m benchmarks [PART …] [--quick]``: run parts, print their table, and put their rows into the recorded one."""

from __future__ import annotations

import argparse
import importlib
import os
import subprocess
import sys

os.environ |= {"TRANSFORMERS_VERBOSITY": "error", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "TOKENIZERS_PARALLELISM": "false"}
os.environ |= {"TRL_EXPERIMENTAL_SILENCE": "1", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}

# name → module and function
PARTS = {
    "t5": ("benchmarks.t5", "run", "against the plain loop of the paper's code, T5-small shapes, real prompts"),
    "paper": (
        "benchmarks.t5",
        "paper",
        "one update at the paper's size: T5-small policy, T5-base values, Longformer-base",
    ),
    "matmul": ("benchmarks.t5", "updates_share", "the updates' share of the machine's matrix-multiply rate"),
    "compile": ("benchmarks.t5", "compiled", "what torch.compile would bring to the updates"),
    "trl": ("benchmarks.trl", "run", "against TRL's last PPOTrainer, a decoder-only policy"),
    "study": ("benchmarks.study", "run", "a study of twelve runs, two workers against one, and a hundred short runs"),
    "atlas": ("benchmarks.atlas", "run", "a whole PPO run of the atlas size on one core"),
    "side": ("benchmarks.side_by_side", "run", "runs of the atlas size side by side on one device"),
    "choose": ("benchmarks.choose", "run", "a choice among reward models against PPO on each of them, one core"),
    "profile": ("benchmarks.t5", "profile", "where the engine's time goes, operator by operator"),
}
ALONE = ("study", "atlas", "choose")  # have one thread and no GPU, whatever the rest has


def main() -> int:
    """Run what is asked for; 1 if a part failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure speed and memory.")
    words = "; ".join(f"{name}: {text}" for name, (_, _, text) in PARTS.items())
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"all if none is named. {words}")
    parser.add_argument(
        "--quick", action="store_true", help="tiny shapes: shows that it runs, measures nothing, records nothing"
    )
    parser.add_argument(
        "--device", choices=["cpu", "cuda"], help=f"of all but {', '.join(ALONE)}; unset: the GPU where there is one"
    )
    parser.add_argument(
        "--precision", choices=["float32", "bfloat16"], help="of both sides; unset: float32 on a CPU, else bfloat16"
    )
    parser.add_argument("--threads", type=int, default=0, help=f"of all but {', '.join(ALONE)}; 0: one a core")
    parser.add_argument(
        "--rollouts",
        type=int,
        default=0,
        help="turns of each side (t5: rollouts; study, choose: rounds); 0: 3 on a CPU, 5 on a GPU",
    )
    parser.add_argument("--unrecorded", action="store_true", help="print the table and leave the recorded one as it is")
    parser.add_argument("--seeds", type=int, default=5, help="runs a side in the comparison with TRL")
    given = parser.parse_args()
    if unknown := set(given.parts) - PARTS.keys():
        parser.error(f"no part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")

    from benchmarks import table
    from benchmarks.options import Options
    from benchmarks.worker import SideError
    from paradox_utils import config, files
    from paradox_utils.data.records import DataError

    device = given.device or _device()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    options = Options(
        size="quick" if given.quick else "full", device=device,
        precision=given.precision or ("float32" if device == "cpu" else "bfloat16"), threads=given.threads or cores,
        rollouts=given.rollouts or (3 if device == "cpu" else 5), seeds=2 if given.quick else given.seeds,
        record=not (given.quick or given.unrecorded),
    )  # fmt: skip
    failed = []
    for name in given.parts or PARTS:
        module, function, _ = PARTS[name]
        place = ("cpu", 1, "float32") if name in ALONE else (options.device, options.threads, options.precision)
        try:
            rows = getattr(importlib.import_module(module), function)(options)
        except (DataError, SideError, files.FileError, config.ParameterError, subprocess.CalledProcessError) as error:
            sys.stderr.write(f"{name}: {error}\n{_last_words(error)}")
            failed.append(name)
            continue
        if rows:
            made = table.tabulate(rows, *place, options.size)
            files.say(table.show(made))
            if options.record:
                table.record(made)
    if failed:
        sys.stderr.write(f"not measured: {', '.join(failed)}\n")
    return int(bool(failed))


def _device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _last_words(error: Exception) -> str:
    words = getattr(error, "stderr", None) or b""
    lines = (words.decode(errors="replace") if isinstance(words, bytes) else words).strip().splitlines()
    return "".join(f"  {line}\n" for line in lines[-5:])


if __name__ == "__main__":
    sys.exit(main())
