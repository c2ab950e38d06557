"""As much of JSON Schema 2020-12 as the published API descriptions use: what is wrong with a value, in words."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

TYPES: dict[str, type | tuple[type, ...]] = {
    "object": dict,
    "array": list,
    "string": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
    "null": type(None),
}
KNOWN = set(
    "$ref allOf anyOf if then not type enum pattern minLength minimum maxItems items required properties "
    "additionalProperties unevaluatedProperties x-enum-varnames".split()
)


def faults(schemas: Mapping[str, Any], name: str, value: Any) -> list[str]:
    """Everything in which `value` breaks the schema `name`."""
    return _check(schemas, schemas[name], value, "$")[0]


def _check(schemas: Mapping[str, Any], schema: Mapping[str, Any], value: Any, at: str) -> tuple[list[str], set[str]]:
    """Faults, and the names of an object's properties that some part of the schema knows."""
    assert schema.keys() <= KNOWN, f"the schema of {at} uses {schema.keys() - KNOWN}"
    if "$ref" in schema:
        found, known = _check(schemas, schemas[schema["$ref"].rpartition("/")[2]], value, at)
    else:
        found, known = [], set()
    found += _plain(schema, value, at)
    parts = list(schema.get("allOf", ()))
    if "if" in schema and not _check(schemas, schema["if"], value, at)[0]:
        parts.append(schema["then"])
    for part in parts:
        more, also = _check(schemas, part, value, at)
        found += more
        known |= also
    if "anyOf" in schema and all(_check(schemas, part, value, at)[0] for part in schema["anyOf"]):
        found.append(f"{at}: fits none of the possibilities")
    if "not" in schema and not _check(schemas, schema["not"], value, at)[0]:
        found.append(f"{at}: is what it must not be")
    if isinstance(value, list) and "items" in schema:
        for index, item in enumerate(value):
            found += _check(schemas, schema["items"], item, f"{at}[{index}]")[0]
    if isinstance(value, dict):
        more, also = _object(schemas, schema, value, at, known)
        found += more
        known |= also
    return found, known


def _object(
    schemas: Mapping[str, Any], schema: Mapping[str, Any], value: dict, at: str, known: set[str]
) -> tuple[list[str], set[str]]:
    found = [f"{at}: {name} is missing" for name in schema.get("required", ()) if name not in value]
    own = schema.get("properties", {})
    for name in value.keys() & own.keys():
        found += _check(schemas, own[name], value[name], f"{at}.{name}")[0]
    more = schema.get("additionalProperties")
    for name in value.keys() - own.keys():
        if isinstance(more, dict):
            found += _check(schemas, more, value[name], f"{at}.{name}")[0]
        elif more is False or (schema.get("unevaluatedProperties") is False and name not in known):
            found.append(f"{at}: additional properties '{name}' not allowed")
    return found, set(own)


def _plain(schema: Mapping[str, Any], value: Any, at: str) -> list[str]:
    found = []
    types = schema.get("type", [])
    types = [types] if isinstance(types, str) else types
    if types and not any(_is(value, name) for name in types):
        found.append(f"{at}: got {type(value).__name__}, want {' or '.join(types)}")
    if "enum" in schema and value not in schema["enum"]:
        found.append(f"{at}: {value!r} is none of {schema['enum']}")
    if isinstance(value, str):
        if "pattern" in schema and not re.search(schema["pattern"], value):
            found.append(f"{at}: does not match {schema['pattern']}")
        if len(value) < schema.get("minLength", 0):
            found.append(f"{at}: is too short")
    if isinstance(value, int | float) and value < schema.get("minimum", value):
        found.append(f"{at}: {value} is less than {schema['minimum']}")
    if isinstance(value, list) and len(value) > schema.get("maxItems", len(value)):
        found.append(f"{at}: has more than {schema['maxItems']} items")
    return found


def _is(value: Any, name: str) -> bool:
    if isinstance(value, bool):
        return name == "boolean"
    return isinstance(value, TYPES[name])
