"""The command builder of the page *Rerun it*: what each notebook takes, and which studies there are."""

from __future__ import annotations

from typing import Any

from paradox_utils import config, files
from paradox_utils.config.study import load_study, studies
from paradox_utils.config.words import describe
from paradox_utils.figures.interactive import Interactive
from paradox_utils.pages.freshness import assigned, pages, parameters_of, read_page

WORDS = "Where scripts run, a form stands here that writes the command; what it may say stands on the page of all parameters."


def command_builder() -> str:
    """The form's data as HTML, for the page to include."""
    notebooks, schemas = [], {}
    for path in pages():
        given = parameters_of(path)
        schema = type(given).__name__
        schemas[schema] = _fields(type(given))
        title = next(cell.source for cell in read_page(path).cells if cell.cell_type == "markdown").split("\n")[0].lstrip("# ")
        values = given.model_dump(mode="json") | assigned(read_page(path), path)  # a candidate's own words, not all its fields
        notebooks.append({"name": path.stem, "title": title, "schema": schema, "values": values})
    known = [(path.stem, load_study(path)) for path in studies(files.ROOT / "configs")]
    configs = [{"name": name, "about": study.about} for name, study in known]
    data = {"notebooks": notebooks, "schemas": schemas, "configs": configs}
    return Interactive("commands", "Command builder", WORDS, data).html() + "\n"


def _fields(schema: type[config.Stage]) -> list[dict[str, Any]]:
    """What the form must know of each parameter: its type (or none, for text), choices and bounds, and words."""
    fields = []
    for name, known in schema.model_json_schema()["properties"].items():
        meaning, kind = known.get("description", ""), known.get("type", "")
        choices = ["True", "False"] if kind == "boolean" else known.get("enum", [known["const"]] if "const" in known else None)
        field = {"name": name, "kind": kind, "choices": choices, "meaning": meaning}
        field |= {"minimum": known.get("minimum", known.get("exclusiveMinimum")), "maximum": known.get("maximum")}
        fields.append(field | {"allowed": describe(schema, name).removesuffix(f": {meaning}").split(", default ")[0]})
    return fields
