"""One line of a file in; the JSON object that it is, or the reason why it is none, out."""

from __future__ import annotations

import json
import math
from typing import Any

from distill.records import JsonObject, JsonValue
from distill.sources.files import MAX_LINE_BYTES, Line
from distill.sources.problem import RecordProblem


def read_object(line: Line) -> JsonObject:
    """The JSON object that a line is.

    Raises `RecordProblem`. `line_too_long`: it was cut at `MAX_LINE_BYTES`. `invalid_json`: not UTF-8, not one JSON object, nested
    too deeply to be parsed, or with a number that JSON has no value for (NaN, 1e999). `repeated_key`: an object names a key twice;
    parsers disagree about which value counts, so none is picked.
    """
    if line.is_cut:
        raise RecordProblem("line_too_long", f"longer than {MAX_LINE_BYTES} bytes; a record is one line")
    try:
        text = line.data.decode()
        value: JsonValue = _DECODER.decode(text[1:] if text.startswith(_BYTE_ORDER_MARK) else text)
    except RepeatedKey as error:
        raise RecordProblem("repeated_key", str(error)) from None
    except UnicodeDecodeError as error:
        raise RecordProblem("invalid_json", f"not UTF-8 at byte {error.start} of the line; save it as UTF-8") from None
    except (ValueError, RecursionError) as error:
        raise RecordProblem("invalid_json", f"not valid JSON: {error}"[:300]) from None
    if not isinstance(value, dict):
        raise RecordProblem("invalid_json", f"expected a JSON object, found {type(value).__name__}")
    return value


class RepeatedKey(ValueError):
    """An object names a key twice."""


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """For `json`'s `object_pairs_hook`: the object, or `RepeatedKey`."""
    value = dict(pairs)
    if len(value) != len(pairs):
        names = [name for name, _ in pairs]
        repeated = next(name for name in names if names.count(name) > 1)
        raise RepeatedKey(f"{ascii(repeated)[:100]} stands twice in one object; keep one")
    return value


def refuse_constant(name: str) -> Any:
    """For `json`'s `parse_constant`: NaN and the infinities are an error."""
    raise ValueError(f"{name} is no JSON")


_BYTE_ORDER_MARK = "\ufeff"


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"{text[:40]} is too large for a number")
    return value


_DECODER = json.JSONDecoder(object_pairs_hook=unique_keys, parse_float=_finite, parse_constant=refuse_constant)
