"""Snakemake's command line, without its limit of jobs a second: ``python -m paradox_utils.study.scheduler …``.

To keep to the limit Snakemake 9 looks at all waiting jobs again a second after each look, and every job that ends starts
another such chain: after some hundred runs that takes much of a core. Its command line can only change the limit; there is none
here to keep to, as a machine's cores, or a cluster's own scheduler, hold the jobs back.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from snakemake.cli import args_to_api, parse_args


def main(arguments: Sequence[str]) -> int:
    """Run the workflow; 0 if all its jobs are finished."""
    parser, options = parse_args(list(arguments))
    options.max_jobs_per_timespan = None
    return int(not args_to_api(options, parser))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
