"""Filters select what Bedrock's union says, a missing key counts as not equal, and what is no such union fails by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill.config import ConfigError, load_config
from distill.sources.metadata_filter import is_selected, parse_metadata_filter

RECORDS: dict[str, dict[str, Any]] = {
    "both": {"project": "CustomerService", "priority": "High"},
    "low": {"project": "CustomerService", "priority": "Low"},
    "other": {"project": "Search", "priority": "High"},
    "case": {"project": "customerservice"},
    "number": {"project": "CustomerService", "priority": 1},
    "none": {},
}
SERVICE, NOT_LOW = {"equals": {"project": "CustomerService"}}, {"notEquals": {"priority": "Low"}}
SELECTED: list[tuple[dict[str, Any], str]] = [
    (SERVICE, "both low number"),
    ({"equals": {"priority": "High"}}, "both other"),
    ({"equals": {"priority": "1"}}, ""),  # a value is identical or it is not
    ({"equals": {"priority": ""}}, ""),  # a missing key equals nothing
    ({"equals": {"team": "x"}}, ""),
    (NOT_LOW, "both other case number none"),  # a missing key is not equal
    ({"notEquals": {"team": "x"}}, "both low other case number none"),
    ({"andAll": [SERVICE]}, "both low number"),
    ({"andAll": [SERVICE, NOT_LOW]}, "both number"),
    ({"andAll": [SERVICE, {"equals": {"project": "Search"}}]}, ""),
    ({"orAll": [NOT_LOW]}, "both other case number none"),
    ({"orAll": [{"equals": {"project": "Search"}}, {"equals": {"priority": "Low"}}]}, "low other"),
    ({"orAll": [SERVICE, {"notEquals": {"project": "CustomerService"}}]}, "both low other case number none"),
    ({"andAll": [NOT_LOW] * 16}, "both other case number none"),
]
REFUSED: list[tuple[Any, str]] = [
    ({}, "found nothing; give exactly one of equals, notEquals, andAll, orAll"),
    ({**SERVICE, **NOT_LOW}, "found equals, notEquals; give exactly one"),
    ({"and": [SERVICE]}, "found and; give exactly one"),
    (None, "found nothing; give an object"),
    ([SERVICE], "found a list; give an object"),
    ({"equals": {"project": "a", "priority": "b"}}, "equals: found 2 pairs; give exactly one key"),
    ({"notEquals": {}}, "notEquals: found 0 pairs"),
    ({"equals": ["project", "a"]}, "equals: found a list"),
    ({"equals": {"priority": 1}}, "the value 1 is a number; metadata is text, put it in quotes"),
    ({"equals": {"priority": None}}, "the value None is nothing"),
    ({"equals": {1: "a"}}, "the key 1 is a number"),
    ({"equals": {"": "a"}}, "the key has 0 characters; Bedrock logs 1 to 256"),
    ({"equals": {"a": "b" * 257}}, "the value has 257 characters; Bedrock logs 0 to 256"),
    ({"andAll": []}, "andAll: found 0 of them; give a list of 1 to 16"),
    ({"orAll": [SERVICE] * 17}, "orAll: found 17 of them"),
    ({"andAll": SERVICE}, "andAll: found an object; give a list"),
    ({"andAll": [SERVICE, {"orAll": [NOT_LOW]}]}, r"andAll\[1\]: found orAll \(filters do not nest\); give exactly one of equals, notEquals"),
    ({"orAll": [{**SERVICE, **NOT_LOW}]}, r"orAll\[0\]: found equals, notEquals"),
    ({"orAll": [{"equals": {"a": "b", "c": "d"}}]}, r"orAll\[0\].equals: found 2 pairs"),
]  # fmt: skip


@pytest.mark.parametrize(("value", "names"), SELECTED, ids=str)
def test_a_filter_selects_as_bedrocks_table_says(value: dict[str, Any], names: str) -> None:
    chosen = parse_metadata_filter(value, where="filter")
    assert [name for name, metadata in RECORDS.items() if is_selected(metadata, chosen)] == names.split()


@pytest.mark.parametrize(("value", "message"), REFUSED, ids=lambda part: str(part)[:50])
def test_what_is_no_such_union_fails_by_name(value: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=f"^prompts.filter.*{message}"):
        parse_metadata_filter(value, where="prompts.filter")


METADATA = st.dictionaries(st.sampled_from("abc"), st.sampled_from(["", "x", "y"]))
TERM = st.builds(
    lambda kind, key, value: {kind: {key: value}},
    st.sampled_from(["equals", "notEquals"]),
    st.sampled_from("abc"),
    st.sampled_from(["", "x", "y"]),
)


@given(terms=st.lists(TERM, min_size=1, max_size=16), metadata=METADATA)
def test_and_or_and_not_are_those_of_logic(terms: list[dict[str, Any]], metadata: dict[str, str]) -> None:
    def selects(value: dict[str, Any]) -> bool:
        return is_selected(metadata, parse_metadata_filter(value, where="filter"))

    single = [selects(term) for term in terms]
    opposite = [{"equals" if "notEquals" in term else "notEquals": next(iter(term.values()))} for term in terms]
    assert selects({"andAll": terms}) == all(single)
    assert selects({"orAll": terms}) == any(single)
    assert selects({"andAll": opposite}) != selects({"orAll": terms})
    assert [selects(term) for term in opposite] == [not held for held in single]


@pytest.mark.parametrize(
    "text",
    [
        "metadata_filter:\n    equals: {project: a}\n    equals: {priority: b}",
        'metadata_filter: {"equals": {"project": "a"}, "equals": {"priority": "b"}}',
        'metadata_filter: {"equals": {"project": "a", "project": "b"}}',
        "metadata_filter:\n    andAll:\n      - {equals: {project: a}, equals: {priority: b}}",
    ],
)
def test_a_repeated_key_in_a_configurations_filter_is_an_error(text: str, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(f"prompts:\n  logs:\n   {text}\n")
    with pytest.raises(ConfigError, match=r"line \d: key '(equals|project)' is given twice; keep one"):
        load_config(path)
