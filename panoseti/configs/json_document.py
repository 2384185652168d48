"""A JSON file read, checked against its schema, with every fault found by place and remedy.

Faults are errors.Fault objects: file, JSON path ("$.domes[0].name"), value, remedy.  The schemas
of `schemas/` here carry, besides standard JSON Schema 2020-12: a `description` for every field
(it becomes the remedy) and annotations: `x-unused` (known, but not used by this software: warn),
`x-analysis: "strict"` (the analysis software skips the file when this object has unknown fields),
`x-analysis: "refused"` (it may skip the file for the sake of this field, which copies leave out),
`x-analysis-required` (fields without which it skips the file).
"""

from __future__ import annotations

import difflib
import functools
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jsonschema

from panoseti.configs.json_formats import FORMATS, MASK, is_secret, masked_text
from panoseti.errors import ConfigError, Fault

SCHEMAS = Path(__file__).resolve().parent / "schemas"
SHOWN_LENGTH = 60
# A file beyond this is no config; it would only make the checks crawl.
MAX_BYTES = 16 << 20

Place = tuple[str | int, ...]
NUMBER_RULES = frozenset({"type", "minimum", "maximum", "description"})


class _Object(dict[str, Any]):
    """A JSON object that remembers which of its names were given twice."""

    twice: tuple[str, ...] = ()


@dataclass
class Document:
    """One config file.  content is None when the file could not be read or is no JSON."""

    name: str
    content: Any
    faults: list[Fault] = field(default_factory=list)
    warnings: list[Fault] = field(default_factory=list)
    faulty: set[Place] = field(default_factory=set)

    def clean(self, *place: str | int) -> bool:
        """Whether the content exists and no fault was found at this place or below it."""
        if self.content is None:
            return False
        return not any(bad[: len(place)] == place or place[: len(bad)] == bad
                       for bad in self.faulty)  # fmt: skip

    def fault(self, place: Place, value: str, remedy: str) -> None:
        """Add a fault."""
        self.faults.append(self._entry(place, value, remedy))
        self.faulty.add(place)

    def warn(self, place: Place, value: str, remedy: str) -> None:
        """Add a warning."""
        self.warnings.append(self._entry(place, value, remedy))

    def _entry(self, place: Place, value: str, remedy: str) -> Fault:
        secret = any(is_secret(step) for step in place)
        return Fault(self.name, json_path(place), MASK if secret else value, remedy)

    def raise_faults(self) -> None:
        """Raise ConfigError when there are faults."""
        if self.faults:
            raise ConfigError(self.faults)


def json_path(place: Sequence[str | int]) -> str:
    """("domes", 0, "name") -> "$.domes[0].name"."""
    text = "$"
    for step in place:
        if isinstance(step, int):
            text += f"[{step}]"
        elif re.fullmatch(r"\w+", step):
            text += f".{step}"
        else:
            text += f"[{json.dumps(step)}]"
    return text


def shown(value: object) -> str:
    """A value as messages show it: short, passwords masked."""
    if isinstance(value, Mapping):
        return "an object"
    if isinstance(value, list):
        return f"a list of {len(value)}" if value else "an empty list"
    text = masked_text(json.dumps(value, ensure_ascii=False))
    return text if len(text) <= SHOWN_LENGTH else text[: SHOWN_LENGTH - 3] + "..."


def read_document(path: Path, schema: str) -> Document:
    """Read a file and check it against `schemas/<schema>.json`; never raises for its content."""
    document = Document(path.name, None)
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        remedy = f"cannot be read: {error.strerror}; it is looked for in {path.parent.resolve()}"
        document.fault((), str(path), remedy)
        return document
    if len(data) > MAX_BYTES:
        document.fault((), str(path), f"larger than {MAX_BYTES >> 20} MB: not a config file")
        return document
    return parse_document(path.name, data, schema)


def parse_document(name: str, data: bytes, schema: str) -> Document:
    """As read_document, for the bytes of a file called `name`."""
    document = Document(name, None)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        document.fault((), f"line {line}", "not UTF-8 text; save the file as UTF-8")
        return document
    try:
        document.content = json.loads(
            text, object_pairs_hook=_object, parse_constant=_no_constant, parse_float=_finite
        )
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        document.fault((), place, f"not JSON: {error.msg}{_hint(text, error)}")
    except ValueError as error:
        document.fault((), str(error), "not JSON: write an ordinary number")
    except RecursionError:
        document.fault((), "brackets", "nested too deeply for a config file")
    else:
        _check(document, _schema(schema))
    return document


def _hint(text: str, error: json.JSONDecodeError) -> str:
    """The usual slip behind a syntax error, as far as it can be told."""
    before = text[: error.pos].rstrip()
    after = text[error.pos :].lstrip()
    if before.endswith(",") and after[:1] in ("}", "]") or after[:1] == ",":
        return "; remove the comma before the closing bracket"
    if after[:1] == "'":
        return "; write double quotes"
    if not after:
        return "; the file ends too early: a closing bracket or quote is missing"
    return ""


def _object(pairs: list[tuple[str, Any]]) -> _Object:
    result = _Object(pairs)
    names = [name for name, _ in pairs]
    result.twice = tuple(sorted({name for name in names if names.count(name) > 1}))
    return result


def _no_constant(text: str) -> float:
    raise ValueError(text)


def _finite(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise ValueError(text)
    return value


@functools.cache
def _schema(name: str) -> dict[str, Any]:
    schema: dict[str, Any] = json.loads((SCHEMAS / f"{name}.json").read_text(encoding="utf-8"))
    return schema


def _check(document: Document, schema: dict[str, Any]) -> None:
    """Fill in faults and warnings of a parsed document."""
    for place, value in _walk(document.content, ()):
        for name in value.twice if isinstance(value, _Object) else ():
            remedy = "stands twice in one object; keep one (the last would silently win)"
            document.fault((*place, name), shown(value[name]), remedy)
    validator = _Validator(schema, format_checker=FORMATS)
    for error in sorted(validator.iter_errors(document.content), key=_order):
        _add_error(document, error)
    _Fields(document, schema).check(document.content, schema, ())


def _items(
    validator: Any, items: Any, instance: Any, schema: Mapping[str, Any]
) -> Iterator[jsonschema.ValidationError]:
    """The rule "items" of the library, but lists of good numbers are seen through at a glance:
    the calibration of 1024 boards has a quarter of a million of them.
    """
    if isinstance(instance, list) and isinstance(items, dict) and items.keys() <= NUMBER_RULES:
        kinds = {"number": (int, float), "integer": (int,)}.get(items.get("type", ""), ())
        low, high = items.get("minimum", -math.inf), items.get("maximum", math.inf)
        if all(type(member) in kinds and low <= member <= high for member in instance):
            return
    yield from jsonschema.Draft202012Validator.VALIDATORS["items"](
        validator, items, instance, schema
    )


_Validator: Any = jsonschema.validators.extend(jsonschema.Draft202012Validator, {"items": _items})


def _order(error: jsonschema.ValidationError) -> list[tuple[bool, int, str]]:
    """Faults come in the order of the file's lists, names alphabetically."""
    return [
        (isinstance(step, str), step if isinstance(step, int) else 0, str(step))
        for step in error.absolute_path
    ]


def _walk(value: Any, place: Place) -> Iterator[tuple[Place, Any]]:
    """Every value of a document with its place."""
    yield place, value
    if isinstance(value, Mapping):
        for name, member in value.items():
            yield from _walk(member, (*place, name))
    elif isinstance(value, list):
        for index, member in enumerate(value):
            yield from _walk(member, (*place, index))


def _add_error(document: Document, error: jsonschema.ValidationError) -> None:
    place: Place = tuple(error.absolute_path)
    schema: Mapping[str, Any] = error.schema if isinstance(error.schema, Mapping) else {}
    description = schema.get("description", "")
    instance, rule = error.instance, error.validator_value
    if error.validator == "required" and isinstance(instance, dict) and isinstance(rule, list):
        for name in rule:
            if name not in instance:
                _add_missing(document, (*place, name), instance, schema)
        return
    if place in document.faulty:
        return  # the same value fails a second rule
    if error.validator == "anyOf" and "x-any-of-remedy" in schema:
        document.fault(place, shown(instance), schema["x-any-of-remedy"])
    elif error.validator == "format":
        reason = str(error.cause) if error.cause else "not usable"
        document.fault(place, shown(instance), f"{reason}; must be {description}")
    else:
        remedy = f"must be {description}" if description else error.message
        document.fault(place, shown(instance), remedy)


def _add_missing(
    document: Document, place: Place, instance: Mapping[str, Any], schema: Mapping[str, Any]
) -> None:
    if place in document.faulty:
        return
    name = str(place[-1])
    known = schema.get("properties", {})
    unknown = [key for key in instance if key not in known]
    near = difflib.get_close_matches(name, unknown, 1)
    if near:
        remedy = f'rename "{near[0]}" to "{name}"'
    else:
        remedy = f"add it: {known.get(name, {}).get('description', 'required')}"
    document.fault(place, "missing", remedy)


class _Fields:
    """Warnings of unknown, unused and analysis-breaking fields, object by object."""

    def __init__(self, document: Document, root: Mapping[str, Any]) -> None:
        self._document = document
        self._root = root

    def check(self, value: Any, schema: Mapping[str, Any], place: Place) -> None:
        """Check a value and all below it."""
        while "$ref" in schema:
            schema = self._root["$defs"][schema["$ref"].rpartition("/")[2]]
        if isinstance(value, list) and "items" in schema:
            for index, member in enumerate(value):
                self.check(member, schema["items"], (*place, index))
        if not isinstance(value, Mapping) or "properties" not in schema:
            return
        for name, member in value.items():
            known = self._field(name, schema)
            if known is None:
                self._unknown(name, schema, place, value)
                continue
            if "x-unused" in known:
                remedy = f"not used {known['x-unused']}; remove it"
                self._document.warn((*place, name), shown(member), remedy)
            self.check(member, known, (*place, name))
        for name in schema.get("x-analysis-required", ()):
            if name not in value:
                what = schema["properties"][name].get("description", "required there")
                remedy = f"without it the analysis software skips this file; add {what}"
                self._document.warn((*place, name), "missing", remedy)

    @staticmethod
    def _field(name: str, schema: Mapping[str, Any]) -> Mapping[str, Any] | None:
        if name in schema["properties"]:
            known: Mapping[str, Any] = schema["properties"][name]
            return known
        for pattern, known in schema.get("patternProperties", {}).items():
            if re.search(pattern, name):
                return {**known, "properties": {}} if "x-unused" in known else known
        return None

    def _unknown(
        self, name: str, schema: Mapping[str, Any], place: Place, value: Mapping[str, Any]
    ) -> None:
        left = [known for known in schema["properties"] if known not in value]
        near = difflib.get_close_matches(name, left, 1, cutoff=0.6)
        remedy = "unknown field, not used"
        if near:
            remedy += f'; did you mean "{near[0]}"?'
        elif schema.get("x-analysis") == "strict":
            remedy += "; remove it (copies in runs leave it out: the analysis refuses it)"
        else:
            remedy += "; remove it"
        self._document.warn((*place, name), shown(value[name]), remedy)


def analysis_copy(content: Any, schema_name: str) -> Any:
    """The document without the fields that make the analysis software skip the whole file."""
    root = _schema(schema_name)

    def copy(value: Any, schema: Mapping[str, Any]) -> Any:
        while "$ref" in schema:
            schema = root["$defs"][schema["$ref"].rpartition("/")[2]]
        if isinstance(value, list):
            return [copy(member, schema.get("items", {})) for member in value]
        if not isinstance(value, Mapping):
            return value
        strict = schema.get("x-analysis") == "strict"
        result = {}
        for name, member in value.items():
            known = _Fields._field(name, schema) if "properties" in schema else None
            if (strict and known is None) or (known or {}).get("x-analysis") == "refused":
                continue
            result[name] = copy(member, known or {})
        return result

    return copy(content, root)
