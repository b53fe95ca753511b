"""The page of every parameter, written from :mod:`paradox_utils.config`."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any

from paradox_utils import config
from paradox_utils.config.study import Arm, Study
from paradox_utils.config.words import describe


def parameter_page() -> str:
    """Every parameter of every stage and of a config file, as a page of tables."""
    read, other = ([f"`{k}`" for k, v in config.STAGES.items() if issubclass(v, config.Source) == has] for has in (True, False))
    lines = [
        "# Every parameter",
        "",
        "*What can be set, and to which values?* This page is written from `paradox_utils/config/` each time the book is",
        "built; names and bounds live there.",
        "A value outside the bounds, a wrong type or an unknown name is refused before anything runs.",
        "So is a count of more than a billion.",
        "",
        "```{raw} html",
        '<div class="interactive" data-kind="filter" role="search"></div>',
        "```",
        "",
        "## Shared by all stages that read questions",
        "",
        f"{', '.join(read)} take these; {', '.join(other)} take `out` alone of them.",
        "",
        *_table(config.Source, config.Source.model_fields),
    ]
    for stage, schema in config.STAGES.items():
        own = [name for name in schema.model_fields if not _shared(schema, name)]
        lines += ["", f"## Stage `{stage}`", "", _first_sentence(schema), "", *_table(schema, own)]
        lines += _preset() if schema is config.PPO else []
        lines += _whole("### One of its `candidates`, and its `judge`", config.Candidate) if schema is config.Choose else []
    lines += [*_whole("## A config file", Study), *_whole("### One of its `arms`", Arm)]
    return "\n".join(lines) + "\n"


def _whole(title: str, schema: type[config.Parameters]) -> list[str]:
    return ["", title, "", _first_sentence(schema), "", *_table(schema, schema.model_fields)]


def _preset() -> list[str]:
    lines = ["", "### The preset `as-published`", "", "`preset: as-published` sets these; a value given beside it wins.", ""]
    lines += ["| parameter | default | as published |", "|---|---|---|"]
    defaults = config.PPO().model_dump()
    return lines + [f"| `{k}` | {_code_span(defaults[k])} | {_code_span(v)} |" for k, v in config.AS_PUBLISHED.items()]


def _table(schema: type[config.Parameters], names: Iterable[str]) -> list[str]:
    rows = ["| parameter | allowed | meaning |", "|---|---|---|"]
    properties = schema.model_json_schema()["properties"]
    for name in names:
        field, default = properties[name], ""
        meaning = field.get("description", "")
        words = describe(schema, name).removesuffix(f": {meaning}")
        if "default" in field:
            words = words.removesuffix(f", default {field['default']!r}")
            default = f"; default {_code_span(field['default'])}"
        words = re.sub(r"'([^']*)'", r"`\1`", words)  # typographic quotes would not survive copying
        rows.append(f"| `{name}` | {_cell(words)}{default} | {_cell(meaning)} |")
    return rows


def _shared(schema: type[config.Parameters], name: str) -> bool:
    shared = config.Source
    return name in shared.model_fields and describe(schema, name) == describe(shared, name)


def _first_sentence(schema: type[config.Parameters]) -> str:
    text = " ".join((schema.__doc__ or "").split("\n\n")[0].split()).split(": ", 1)[-1]
    return text[:1].upper() + text[1:]


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("*", "\\*")


def _code_span(value: Any) -> str:
    if value is None or value == "":
        return "unset" if value is None else "(empty)"
    return f"`{_cell(value if isinstance(value, str) else json.dumps(value))}`"
