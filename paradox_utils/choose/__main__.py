"""The command line of a choice: ``python -m paradox_utils.choose run configs/choose-atlas.yaml``; ``-h`` lists the commands."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from paradox_utils import config, files, identity, threads
from paradox_utils.config import ParameterError
from paradox_utils.config.study import read_config
from paradox_utils.files import say

RECIPE = {"ppo": "kl_coefficient", "grpo": "kl_coefficient", "best-of-n": "n"}


def load(path: str) -> config.Choose:
    """The parameters of a config file, which must say the recipe: it changes the answer.

    ``out`` is results/NAME by default, with the name of the file. Raises :class:`ParameterError`.
    """
    values = read_config(Path(path))
    if not isinstance(values, dict) or "candidates" not in values:
        raise ParameterError(f"{path}: must hold names with their values, among them `candidates`")
    values.setdefault("out", f"results/{Path(path).stem}")
    p = config.check(config.Choose, values, where=path)
    for name in ("algorithm", RECIPE[p.algorithm]):
        if name not in values:
            raise ParameterError(
                f"{path}: {name} is missing: which reward model is best depends on how you train; say it as your training "
                f"has it (such as {name}: {getattr(p, name)})"
            )
    return p


def run(p: config.Choose) -> int:
    """Choose, and leave page and tables in ``p.out``; nothing is done where the answer to the same question is there."""
    from paradox_utils.choose import report
    from paradox_utils.choose import run as work

    folder = files.resolve(p.out)
    folder.mkdir(parents=True, exist_ok=True)
    asked = work.stamp(p)
    done, page = folder / work.RECORD, folder / "page.html"
    if done.is_file() and page.is_file() and (known := files.read_json(done, way_out="remove it")).get("stamp") == asked:
        say(f"{known['sentence']}\n\nAnswered before; {page} has the whole.")
        return 0
    _clear(p, folder)
    started = time.perf_counter()
    choice = work.choose(p, folder, say)
    report.write_page(folder, choice, Path(p.out).name)
    said = report.sentence(choice)
    work.write(folder, choice, {"stamp": asked, "sentence": said, "seconds": round(time.perf_counter() - started, 1)})
    say(f"{report.printed(choice)}\n\nThe page: {page}")
    return 0


def _clear(p: config.Choose, folder: Path) -> None:
    """Remove what a former call left, which must not pass for this one's; but nothing that this one reads.

    Raises :class:`ParameterError` where the answer would be written over what it reads.
    """
    from paradox_utils.choose import run as work

    read = {files.resolve(name).resolve(): (which, value) for which, value, name in identity.named(p.model_dump())}
    kept = [path for path in (folder / name for name in work.PRODUCTS) if path.resolve() in read]
    for path in kept:
        if path.name != work.RESPONSES:  # responses that are read are not written again
            which, value = read[path.resolve()]
            raise ParameterError(f"{which} = {value!r}: the answer would be written over it; copy it under another name")
    for name in {*work.PRODUCTS} - {path.name for path in kept}:
        (folder / name).unlink(missing_ok=True)


def sample(p: config.Choose) -> int:
    """Leave the policy's responses, for others to score."""
    from paradox_utils.choose.run import leave_responses, responses_of

    folder = files.resolve(p.out)
    folder.mkdir(parents=True, exist_ok=True)
    asked, _ = responses_of(p, say)
    path = leave_responses(p, folder, asked)
    say(f"{sum(len(one.responses) for one in asked):,} responses: {path}")
    return 0


def backtest(path: str) -> int:
    """Compare what PPO reached in a recorded study with what is predicted of its reward models, trained again by a study."""
    from paradox_utils.choose import backtest as work
    from paradox_utils.study.job import load as planned

    name, runs = planned(path)
    say(work.run(runs, name, files.resolve(f"results/{name}")))
    return 0


COMMANDS = {
    "run": (run, "which of the candidates to train with"),
    "sample": (sample, "the policy's responses alone, for others to score"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; every expected problem is one clear line and a non-zero exit code."""
    parser = argparse.ArgumentParser(prog="python -m paradox_utils.choose", description="Which reward model to train with.")
    commands = parser.add_subparsers(dest="command", required=True)
    texts = {name: text for name, (_, text) in COMMANDS.items()}
    texts["backtest"] = "what is predicted of a recorded study's reward models, beside what PPO made of them"
    for name, text in texts.items():
        sub = commands.add_parser(name, help=text, description=text)
        sub.add_argument("config", help="a file such as configs/choose-atlas.yaml")
    options = parser.parse_args(arguments)
    os.chdir(files.ROOT)
    try:
        if options.command == "backtest":
            threads.use({})
            return backtest(options.config)
        p = load(options.config)
        threads.use(p.model_dump())
        from paradox_utils.data.records import DataError
        from paradox_utils.policies.models import ModelError

        try:
            return COMMANDS[options.command][0](p)
        except (DataError, ModelError) as error:
            raise ParameterError(str(error)) from error
    except (ParameterError, files.FileError) as error:
        sys.stderr.write(f"{error}\n")
        return 2


if __name__ == "__main__":
    sys.exit(main())
