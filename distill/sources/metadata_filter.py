"""A `requestMetadataFilters` object as Bedrock's API takes it in; a filter, and whether it selects a log record, out.

The object has exactly one of four members: `equals` or `notEquals`, each with exactly one key and value, or `andAll` or `orAll`, a
list of 1 to 16 objects that are `equals` or `notEquals` (no nesting). Repeated keys, of which a parser keeps the last, cannot be seen
here: `distill.config` refuses them where the YAML (or JSON) is read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from distill.config import ConfigError

MAX_TERMS = 16
MAX_KEY_CHARS = 256
MAX_VALUE_CHARS = 256


@dataclass(frozen=True, slots=True)
class MetadataTerm:
    """One `equals`, or one `notEquals` if `negated`."""

    key: str
    value: str
    negated: bool


@dataclass(frozen=True, slots=True)
class MetadataFilter:
    """Terms of which all (`match_all`) or at least one must hold."""

    terms: tuple[MetadataTerm, ...]
    match_all: bool


def parse_metadata_filter(value: object, *, where: str) -> MetadataFilter:
    """The filter that a parsed YAML or JSON object stands for. Raises `ConfigError`; `where` is the key it stands under."""
    kind, inner = _only_member(value, where, ("equals", "notEquals", "andAll", "orAll"))
    if kind in ("equals", "notEquals"):
        return MetadataFilter((_term(kind, inner, where),), match_all=True)
    where = f"{where}.{kind}"
    if not isinstance(inner, list) or not 1 <= len(inner) <= MAX_TERMS:
        found = f"{len(inner)} of them" if isinstance(inner, list) else _kind_of(inner)
        raise ConfigError(
            f"{where}: found {found}; give a list of 1 to {MAX_TERMS} objects with equals or notEquals in each"
        )
    members = [
        (*_only_member(item, f"{where}[{index}]", ("equals", "notEquals")), f"{where}[{index}]")
        for index, item in enumerate(inner)
    ]
    return MetadataFilter(tuple(_term(*member) for member in members), match_all=kind == "andAll")


def is_selected(metadata: Mapping[str, object], metadata_filter: MetadataFilter) -> bool:
    """Whether a log record with this `requestMetadata` passes.

    `equals` holds if the key is there and its value identical. `notEquals` holds otherwise, so also where the key is missing; AWS
    documents that case nowhere.
    """
    held = ((metadata.get(term.key) == term.value) is not term.negated for term in metadata_filter.terms)
    return all(held) if metadata_filter.match_all else any(held)


def _only_member(value: object, where: str, allowed: tuple[str, ...]) -> tuple[str, object]:
    if not isinstance(value, Mapping):
        raise ConfigError(f"{where}: found {_kind_of(value)}; give an object with one of {', '.join(allowed)}")
    if len(value) != 1 or next(iter(value)) not in allowed:
        nesting = " (filters do not nest)" if value.keys() & {"andAll", "orAll"} and "andAll" not in allowed else ""
        found = ", ".join(map(str, value)) or "nothing"
        raise ConfigError(f"{where}: found {found}{nesting}; give exactly one of {', '.join(allowed)}")
    return next(iter(value.items()))


def _term(kind: str, value: object, where: str) -> MetadataTerm:
    where = f"{where}.{kind}"
    if not isinstance(value, Mapping) or len(value) != 1:
        found = f"{len(value)} pairs" if isinstance(value, Mapping) else _kind_of(value)
        raise ConfigError(
            f"{where}: found {found}; give exactly one key and its value, several terms go into andAll or orAll"
        )
    key, wanted = next(iter(value.items()))
    for text, name, smallest, largest in ((key, "key", 1, MAX_KEY_CHARS), (wanted, "value", 0, MAX_VALUE_CHARS)):
        if not isinstance(text, str):
            raise ConfigError(f"{where}: the {name} {text!r} is {_kind_of(text)}; metadata is text, put it in quotes")
        if not smallest <= len(text) <= largest:
            raise ConfigError(f"{where}: the {name} has {len(text)} characters; Bedrock logs {smallest} to {largest}")
    return MetadataTerm(key=key, value=wanted, negated=kind == "notEquals")


_KINDS = {
    "NoneType": "nothing",
    "dict": "an object",
    "list": "a list",
    "str": "text",
    "int": "a number",
    "float": "a number",
}


def _kind_of(value: object) -> str:
    return _KINDS.get(type(value).__name__, f"a {type(value).__name__}")
