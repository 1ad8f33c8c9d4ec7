"""The YAML files of `domains/` in, typed domains out: parameters with their phrasings, and function concepts that use them."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, model_validator

from distill.embedded.values import OPEN_TEXT, STRUCTURED

FOLDER = Path(__file__).parent / "domains"
CUSTOMER = "entertainment_customer"
NEW_TOOLS = "entertainment_new"

Texts = Annotated[list[str], Field(min_length=1)]


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Kind(Strict):
    """What values a parameter takes: exactly one of the fields is given; `named` is a kind of `values.py` or `bool`.

    In YAML the fields are written `int`, `float`, `enum`, `words`, `list` (with `size`) and `object`; a bare word is `named`.
    """

    named: str | None = None
    int_range: list[int] | None = Field(None, alias="int")
    float_range: list[float | int] | None = Field(None, alias="float")
    enum: dict[str, Texts] | None = None
    words: Texts | None = None
    item: Kind | None = Field(None, alias="list")
    size: tuple[int, int] | None = None
    fields_by_name: dict[str, Kind] | None = Field(None, alias="object")

    @model_validator(mode="before")
    @classmethod
    def _bare_name(cls, value: Any) -> Any:
        value = {"named": value} if isinstance(value, str) else dict(value)
        return {**value, "size": tuple(value["size"])} if "size" in value else value

    @model_validator(mode="after")
    def _one_kind(self) -> Kind:
        given = [
            name
            for name in ("named", "int_range", "float_range", "enum", "words", "item", "fields_by_name")
            if getattr(self, name) is not None
        ]
        if len(given) != 1 or (self.item is None) != (self.size is None):
            raise ValueError(f"expected one kind of value, found {given}")
        if self.named is not None and self.named not in (*OPEN_TEXT, *STRUCTURED, "bool"):
            raise ValueError(f"unknown kind {self.named!r}")
        return self


class Param(Strict):
    names: Texts
    descriptions: Texts
    value: Kind
    default: Any = None
    phrases: list[str] = []
    phrases_true: list[str] = []
    phrases_false: list[str] = []

    @model_validator(mode="after")
    def _phrases_carry_the_value(self) -> Param:
        if self.value.named == "bool":
            if not (self.phrases_true and self.phrases_false):
                raise ValueError("a bool needs phrases_true and phrases_false")
            return self
        marks = [f"{{{field}}}" for field in (self.value.fields_by_name or ())] or ["{v}"]
        for phrase in self.phrases or [""]:
            if any(phrase.count(mark) != 1 for mark in marks):
                raise ValueError(f"phrase {phrase!r} must contain each of {marks} once")
        return self


class Concept(Strict):
    key: str
    names: Texts
    descriptions: Texts
    intents: Texts
    required: Texts
    optional: list[str] = []


class Domain(Strict):
    domain: str
    params: dict[str, Param]
    concepts: list[Concept]

    @model_validator(mode="after")
    def _params_exist(self) -> Domain:
        for concept in self.concepts:
            unknown = [key for key in (*concept.required, *concept.optional) if key not in self.params]
            if unknown:
                raise ValueError(f"concept {concept.key}: unknown params {unknown}")
        return self


@cache
def load_domain(file_name: str) -> Domain:
    """One domain by the name of its file without the ending."""
    return Domain.model_validate(yaml.safe_load((FOLDER / f"{file_name}.yaml").read_text(encoding="utf-8")))


def pretraining_domains() -> tuple[str, ...]:
    """File names of all domains that models are pretrained on: every file but the customer's tools and the new tools."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.yaml") if path.stem not in (CUSTOMER, NEW_TOOLS)))
