"""A tool's own name in, the name it can have on Bedrock's Converse API out, and back.

Bedrock allows letters, digits, `_` and `-`, 64 characters at most, so a dotted name such as `math.factorial` has to be sent under
another. Every character that is not allowed is written as `-_` hex `_-` (its code point: `math-_2e_-factorial`), and so is a `-` that a
`_` follows, which leaves `-_` to open such groups alone. Reading from the left therefore undoes it exactly.
"""

from __future__ import annotations

import re

from distill.records import DataError

MAX_NAME_CHARS = 64


def to_bedrock_name(name: str) -> str:
    """The name to declare the tool under. Names that Bedrock takes and that hold no `-_` stay as they are.

    Raises `DataError` if the name is empty or its form is longer than 64 characters: no reversible form of it fits.
    """
    mapped = _mapped(name)
    if not 1 <= len(mapped) <= MAX_NAME_CHARS:
        raise DataError(
            f"tool name {name!a}: {len(mapped)} characters as {mapped!r}; Bedrock takes 1 to {MAX_NAME_CHARS}, shorten it"
        )
    return mapped


def from_bedrock_name(name: str) -> str:
    """The tool's own name: the inverse of `to_bedrock_name`. A name which that function does not write stays as it is."""
    original = _GROUP.sub(_character, name)
    return original if _mapped(original) == name else name


_NOT_ALLOWED = re.compile(r"[^a-zA-Z0-9_-]|-(?=_)")
_GROUP = re.compile(r"-_([0-9a-f]{1,6})_-")


def _mapped(name: str) -> str:
    return _NOT_ALLOWED.sub(lambda found: f"-_{ord(found.group()):x}_-", name)


def _character(group: re.Match[str]) -> str:
    code = int(group.group(1), 16)
    return chr(code) if code <= 0x10FFFF else group.group()
