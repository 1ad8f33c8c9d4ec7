"""A value of a tool call -> a text that is equal exactly for equal values."""

from __future__ import annotations

import json
from typing import Any


def canonical_value(value: Any) -> str:
    """JSON with sorted keys and one form for each number: 2 and 2.0 are one value, 1 and True are two, -0.0 is 0, nan is itself.

    Takes what a lenient parse gives as well: a tuple is not a list, and bytes, complex numbers and None keys stand as Python prints
    them.
    """
    if isinstance(value, str):
        return json.dumps(value)
    if isinstance(value, bool):
        return repr(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, int):
        # Hexadecimal prints integers of any size, decimal only those of 4,300 digits.
        return format(value, "x")
    if isinstance(value, list):
        return f"[{','.join(map(canonical_value, value))}]"
    if isinstance(value, dict):
        pairs = (f"{canonical_value(key)}:{canonical_value(item)}" for key, item in value.items())
        return f"{{{','.join(sorted(pairs))}}}"
    if isinstance(value, tuple):
        return f"tuple{canonical_value(list(value))}"
    return repr(value)
