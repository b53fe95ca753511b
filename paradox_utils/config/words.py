"""What is wrong with a parameter, and what it may be, in words."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from typing import Any, get_args

from pydantic import BaseModel

LARGEST = 10**9  # of any count: more would not end, or not fit; what the words on a parameter leave out

# What a value of a wrong type must be, and what a right one looks like.
TYPES = {
    "string_type": ("must be text; put it in quotes", ""),
    "int_type": ("must be an integer", "40"),
    "float_type": ("must be a number", "0.5"),
    "bool_type": ("must be true or false", "true"),
    "list_type": ("must be a list", "[0, 10]"),
    "dict_type": ("must be names, each with its value", "{name: value}"),
    "model_type": ("must be names, each with its value", "{name: value}"),
}


def explain(schema: type[BaseModel], problem: Mapping[str, Any], papermill: bool) -> str:
    """One problem as a sentence: the parameter, its value, what is wrong, and what is allowed.

    ``papermill``: its command line may have given the value.
    """
    place = [part for part in problem["loc"] if part != "[key]"]
    name, value = ".".join(map(str, place)), repr(problem["input"])
    value = value if len(value) <= 100 else f"{value[:100]}…"
    schema, field = _innermost(schema, place)
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "extra_forbidden":
        near = difflib.get_close_matches(field, schema.model_fields, n=1, cutoff=0.0)
        hint = f"; the nearest existing name is {near[0]!r} ({describe(schema, near[0])})" if near else ""
        return f"unknown parameter {name!r} = {value}{hint}"
    if problem["type"] == "missing":
        return f"parameter {name!r} is missing; give it a value"
    if not place:
        return message
    if problem["type"] == "value_error" and isinstance(problem["input"], Mapping):  # of several fields together
        return f"{name}: {message}"
    wrong, example = TYPES.get(problem["type"], (re.sub(r"^\w+ should ", "must ", message), ""))
    if problem["type"] == "int_type" and isinstance(problem["input"], float) and problem["input"].is_integer():
        wrong += f", written as {int(problem['input'])}"
    if problem["type"] == "list_type" and not re.search(r"array of (integer|number)", _described(schema, field)):
        example = "[a, b]"
    if example and isinstance(problem["input"], str):
        wrong += f", not text: give a plain {example}"
        wrong += f" (with papermill: {_option(name, problem['input'], example)})" if papermill else ""
    allowed = f" (allowed: {words})" if (words := _described(schema, field)) else ""
    return f"{name} = {value}: {wrong}{allowed}"


def _described(schema: type[BaseModel], name: str) -> str:
    return describe(schema, name) if name in schema.model_fields else ""


def _option(name: str, text: str, example: str) -> str:
    """The option of papermill's command line that gives a value as it is meant: -y reads 1e-4 as text, -p lists."""
    try:
        float(text)
    except ValueError:
        return f"-y '{name}: {example}' in the place of -p"
    return f"-p {name} {text} in the place of -y"


def _innermost(schema: type[BaseModel], place: Sequence[str | int]) -> tuple[type[BaseModel], str]:
    """The schema that a place's last named field belongs to, and that field: of ``arms.0.route`` an arm's, and ``route``."""
    field = str(place[0]) if place else ""
    if len(place) > 2 and field in schema.model_fields:
        for inner in get_args(schema.model_fields[field].annotation):
            if isinstance(inner, type) and issubclass(inner, BaseModel):
                return _innermost(inner, place[2:])
    return schema, field


def describe(schema: type[BaseModel], name: str) -> str:
    """Type, bounds, default and meaning of one parameter, in words."""
    field = schema.model_json_schema()["properties"][name]
    words = [_words(option) for option in field.get("anyOf", [field])]
    default = "" if "default" not in field else f", default {field['default']!r}"
    meaning = f": {field['description']}" if "description" in field else ""
    return " or ".join(words) + default + meaning


def _words(option: Mapping[str, Any]) -> str:
    if "enum" in option:
        return " | ".join(map(repr, option["enum"]))
    if "const" in option:
        return repr(option["const"])
    names = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<", "pattern": "matching"}
    bounds = [f"{sign} {option[key]}" for key, sign in names.items() if key in option and option[key] != LARGEST]
    inner = f" of {_words(option['items'])}" if option.get("items") else ""
    kind = option["$ref"].rsplit("/", 1)[-1] if "$ref" in option else option.get("type", "any")
    return " ".join([{"null": "unset"}.get(kind, kind) + inner, *bounds])
