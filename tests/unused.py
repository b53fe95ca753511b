"""Names of the package that nothing uses, tests aside: ``python tests/unused.py``, part of ``make lint``."""

import keyword
import re
import sys
from pathlib import Path

import vulture

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from paradox_utils.identity import cells  # noqa: E402

# Name → why it stands although no code names it.
EXPLAINED = {
    "model_config": "pydantic reads it",
    "_every_part_has_questions": "pydantic calls validators",
    "_fill_data": "pydantic calls validators",
    "_has_marks": "pydantic calls validators",
    "_fill_preset": "pydantic calls validators",
    "_consistent": "pydantic calls validators",
    "_free_name": "pydantic calls validators",
    "_named_alone": "pydantic calls validators",
    "_one_kind": "pydantic calls validators",
    "cls": "of a validator",
    "on_log": "transformers calls callbacks",
    "on_save": "transformers calls callbacks",
    "on_step_end": "transformers calls callbacks",
    "on_train_begin": "transformers calls callbacks",
    "args": "of a callback",
    "control": "of a callback",
    "kwargs": "of a callback",
    "compute_loss": "TRL's trainer calls it",
    "forward": "torch calls it",
    "backward": "torch calls it",
    "update": "transformers calls a cache's layer",
    "batch_select_indices": "transformers calls a cache's layer",
    "preset": "a validator of config reads it before it is a field",
    "yaml_implicit_resolvers": "yaml reads it",
    "use_sticky_edges": "matplotlib reads it",
    "should_simplify": "matplotlib reads it",
    "_repr_mimebundle_": "Jupyter calls it",
    "normalizer": "tokenizers reads it",
    "pad_token": "transformers reads it",
    "generation_config": "transformers reads it",
    "should_save": "transformers reads it",
    "max_jobs_per_timespan": "snakemake reads it",
    "chosen": "the rule by which configs/lottery.yaml was written; a test holds it to that",
    "pairs": "the rule by which configs/lottery.yaml was written; a test holds it to that",
    "first": "the rule by which configs/lottery.yaml was written; a test holds it to that",
    "stopped_early": "the rule by which configs/lottery.yaml was written; a test holds it to that",
    "smoothed": "the rule by which configs/lottery.yaml was written; a test holds it to that",
    "early_and_late": "configs/semeval-t5.yaml says how to call it",
}


def unused() -> list[str]:
    """``FILE:LINE: what`` of each name that neither package, notebooks, benchmarks, book nor make use, and nothing explains."""
    found = vulture.Vulture()
    for path in [*sorted(ROOT.glob("paradox_utils/**/*.py")), *ROOT.glob("benchmarks/*.py"), *ROOT.glob("book/_ext/*.py")]:
        found.scan(path.read_text(encoding="utf-8"), filename=path.relative_to(ROOT))
    for path in ROOT.glob("notebooks/*.ipynb"):
        found.scan("\n".join(cells(path, frozenset())), filename=path.relative_to(ROOT))
    for path in (ROOT / "Snakefile", ROOT / "Makefile"):
        words = sorted(set(re.findall(r"[A-Za-z_]\w*", path.read_text(encoding="utf-8"))) - set(keyword.kwlist))
        found.scan("\n".join(f"None.{word}" for word in words), filename=path.name)
    items = [item for item in found.get_unused_code() if str(item.filename).startswith("paradox_utils")]
    return [f"{item.filename}:{item.first_lineno}: {item.message}" for item in items if item.name not in EXPLAINED]


if __name__ == "__main__":
    lines = unused()
    print("\n".join(lines) or "no unused names")
    sys.exit(bool(lines))
