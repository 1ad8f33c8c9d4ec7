"""Prompts in the order benchmarks, test, validation, train; why one repeats another, or what a later split holds out, out.

- A prompt that is another one byte for byte is a `duplicate` within a split, and `contaminated` in validation or training if it stands in
  what is held out from it.
- A training prompt that asks the same of the same tools as an earlier one is a `near_duplicate` (`near_duplicates.py`). Validation and test
  prompts are the user's own and are taken as they are.
- A validation or training prompt that a held-out request stands in is `contaminated` (`contamination.py`), whatever its tools.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass

from distill.records import Prompt, Source, Split
from distill.sources.contamination import HeldOutTexts, build_index, overlap
from distill.sources.near_duplicates import NearDuplicates


@dataclass(frozen=True, slots=True)
class Repeat:
    """The reject's fixed word, and the words for people."""

    reason: str
    detail: str


@dataclass(frozen=True, slots=True)
class _HeldOut:
    text: str
    path: str
    line: int
    role: str


class Repeats:
    """What was seen so far. Memory: some 200 bytes for each training prompt."""

    def __init__(self, *, drop_near_duplicates: bool, drop_contaminated: bool) -> None:
        self._near = NearDuplicates() if drop_near_duplicates else None
        self._drop_contaminated = drop_contaminated
        self._held_out: list[_HeldOut] = []
        self._indexes: dict[Split, tuple[HeldOutTexts, list[_HeldOut]]] = {}
        self._ids: dict[int, int] = {}
        self._roles: list[str] = []
        self._paths: list[str] = []
        self._path_numbers, self._lines, self._role_numbers = array("L"), array("L"), array("B")
        self._train_ids = array("Q")
        self._first_train = 0

    def add_benchmark(self, prompt: Prompt) -> None:
        """A prompt that is only compared with."""
        self._hold_out(prompt, "benchmark")

    def find(self, prompt: Prompt, *, role: str, tools_key: str) -> Repeat | None:
        """Why the prompt is one too many; None if it is new, and then it is remembered. `role` is how details call its source."""
        repeat = self._same(prompt) or self._contaminated(prompt)
        if repeat is None and prompt.split == "train" and self._near is not None:
            repeat = self._near_same(prompt, tools_key)
        if repeat is None:
            # Where near-copies are looked for, they tell equal training prompts, too: no table of ids is needed.
            if prompt.split != "train" or self._near is None:
                self._ids[int(prompt.id, 16)] = len(self._lines)
            self._remember(prompt.source, role)
            if prompt.split != "train":
                self._hold_out(prompt, role)
        return repeat

    def _same(self, prompt: Prompt) -> Repeat | None:
        number = self._ids.get(int(prompt.id, 16))
        if number is None:
            return None
        role = self._roles[self._role_numbers[number]]
        is_own = role.partition(" ")[0] == prompt.split
        return Repeat("duplicate" if is_own else "contaminated", f"equal to {self._place(number)} ({role})")

    def _near_same(self, prompt: Prompt, tools_key: str) -> Repeat | None:
        assert self._near is not None
        if not self._train_ids:
            self._first_train = len(self._lines)
        text, around = _request_and_rest(prompt)
        first = self._near.first_like(f"{tools_key}\0{around}", text)
        self._train_ids.append(int(prompt.id, 16))
        if first is None:
            return None
        # Near-copies are numbered too, and remembered, so that both tables go in step.
        place = self._place(self._first_train + first)
        self._remember(prompt.source, "train")
        if self._train_ids[first] == int(prompt.id, 16):
            return Repeat("duplicate", f"equal to {place} (train)")
        return Repeat("near_duplicate", f"asks the same as {place} in nearly the same words")

    def _contaminated(self, prompt: Prompt) -> Repeat | None:
        if not self._drop_contaminated or prompt.split == "test":
            return None
        if prompt.split not in self._indexes:
            held_out = list(self._held_out)
            self._indexes[prompt.split] = build_index(item.text for item in held_out), held_out
        index, held_out = self._indexes[prompt.split]
        if not held_out:
            return None
        found = overlap(index, _said_text(prompt))
        if found is None:
            return None
        item = held_out[found.number]
        return Repeat(
            "contaminated",
            f"{found.share:.0%} of the request of {item.path}:{item.line} ({item.role}) stands in it, such as {found.ngram!r}",
        )

    def _hold_out(self, prompt: Prompt, role: str) -> None:
        if self._drop_contaminated:
            self._held_out.append(_HeldOut(_said_text(prompt), prompt.source.path, prompt.source.line, role))

    def _remember(self, source: Source, role: str) -> None:
        if not self._paths or self._paths[-1] != source.path:
            self._paths.append(source.path)
        if role not in self._roles:
            self._roles.append(role)
        self._path_numbers.append(len(self._paths) - 1)
        self._lines.append(source.line)
        self._role_numbers.append(self._roles.index(role))

    def _place(self, number: int) -> str:
        return f"{self._paths[self._path_numbers[number]]}:{self._lines[number]}"


def _said_text(prompt: Prompt) -> str:
    """What is said in a conversation, system texts and tools left out."""
    return "\n".join(
        _without_tools(prompt, index) for index, message in enumerate(prompt.messages) if message.role != "system"
    )


def _request_and_rest(prompt: Prompt) -> tuple[str, str]:
    """The last message, and all that stands before it, tools left out of both."""
    texts = [_without_tools(prompt, index) for index in range(len(prompt.messages))]
    return texts[-1], "\0".join(texts[:-1])


def _without_tools(prompt: Prompt, index: int) -> str:
    content, span = prompt.messages[index].content, prompt.tools_span
    return content if span is None or span.message_index != index else content[: span.start] + content[span.end :]
