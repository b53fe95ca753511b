"""The command line of the book's pages: ``python -m paradox_utils.pages check``; ``-h`` lists the commands."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from paradox_utils import config, files
from paradox_utils.pages.freshness import WAY_OUT, execute, pages, shown, stale
from paradox_utils.pages.staging import stage, verdict


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; every expected problem is one clear line and exit code 1, as are stale pages for ``check``."""
    parser = argparse.ArgumentParser(prog="python -m paradox_utils.pages", description="The book's pages.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("execute", help="run the named notebooks, or the stale ones, in place").add_argument("names", nargs="*")
    commands.add_parser("check", help="name the stale pages")
    for name, text in (("stage", "write a build's sources to _build/source"), ("verdict", "print the analysis page's verdict")):
        commands.add_parser(name, help=text).add_argument("--study", type=Path, help="a results folder: results/NAME")
    given = parser.parse_args(arguments)
    try:
        if given.command == "execute":
            known, names = {page.stem: page for page in pages()}, [Path(name).stem for name in given.names]
            if unknown := sorted(set(names) - known.keys()):
                raise files.FileError(f"no page {', '.join(unknown)}; there are {', '.join(known)}")
            execute([known[name] for name in names] or stale(known.values()))
        elif given.command == "check":
            reasons = stale(pages())
            for path, changed in reasons.items():
                print(f"{shown(path)}: its {', '.join(changed)} changed since it was executed; {WAY_OUT}", file=sys.stderr)
            return int(bool(reasons))
        elif given.command == "stage":
            files.say(f"staged {shown(stage(given.study))}")
        else:
            files.say(verdict(given.study))
    except (config.ParameterError, files.FileError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
