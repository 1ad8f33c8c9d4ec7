"""Prompts in, requests out: token ids by our own chat rendering or a conversation for the server's, and a key that finds paid-for answers.

A key is made of the messages, not of their tokens, so that a start after a kill knows what is missing before anything is tokenized.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal

from transformers import PreTrainedTokenizerFast

from distill.chat import prompt_ids, reply_ids
from distill.engines.chat_wire import chat_of
from distill.engines.golden import num_system
from distill.engines.protocol import Request
from distill.records import JsonObject, Message, Prompt, Tool, ToolsSpan, content_id

RENDERING = "llama3-1"
"""Changes when `distill.chat` renders otherwise, so that no answer to other tokens is taken for one to these."""


@dataclass(frozen=True)
class Asking:
    """How prompts are asked: `model` is the engine's, the tokenizer renders (None where the server does), the rest is the sampling."""

    model: str
    tokenizer: PreTrainedTokenizerFast | None
    run_seed: int
    max_new_tokens: int
    num_samples: int = 1
    sampling_temperature: float = 0.0
    num_logprobs: int = 0
    sampling_parameters: JsonObject = field(default_factory=dict)
    date_line: str | None = None
    native_tools: bool = False

    def key(
        self, prompt_id: str, messages: Sequence[Message], tools: Sequence[Tool] = (), scored: str | None = None
    ) -> str:
        """The content hash of all that determines the answer."""
        said = [[message.role, message.content] for message in messages]
        native = [[tool.name, tool.description, tool.parameters] for tool in tools] if self.native_tools else None
        return content_id(self._settings_hash, said, native, scored, self.seed(prompt_id))

    def seed(self, prompt_id: str) -> int:
        """Follows from the run's seed and the prompt alone."""
        return int(content_id(self.run_seed, prompt_id), 16) % 2**31

    def request(
        self,
        prompt_id: str,
        messages: Sequence[Message],
        tools: Sequence[Tool] = (),
        tools_span: ToolsSpan | None = None,
        scored: str | None = None,
    ) -> Request:
        """One request; with `scored`, for the log-probabilities of that reply and its end of turn."""
        chat, ids, scored_ids = None, tuple[int, ...](), None
        if self.tokenizer is None:
            assert scored is None, "the server renders: nothing can be scored"
            place: Literal["text", "native"] = "native" if self.native_tools else "text"
            chat = chat_of(messages, tools, tools_span, tools_place=place)
        else:
            ids = tuple(prompt_ids(messages, self.tokenizer, date_line=self.date_line))
            scored_ids = None if scored is None else reply_ids(scored, self.tokenizer)
        return Request(
            key=self.key(prompt_id, messages, tools, scored),
            prompt_id=prompt_id,
            prompt_ids=ids,
            num_samples=self.num_samples,
            sampling_temperature=self.sampling_temperature,
            max_new_tokens=self.max_new_tokens,
            seed=self.seed(prompt_id),
            num_logprobs=self.num_logprobs,
            scored_ids=scored_ids,
            sampling_parameters=self.sampling_parameters,
            chat=chat,
        )

    def prompt_request(self, prompt: Prompt, messages: Sequence[Message], scored: str | None = None) -> Request:
        """A request about a prompt, to whose system text golden exchanges may have been added."""
        span, added = prompt.tools_span, len(messages) - len(prompt.messages)
        if span is not None and span.message_index >= num_system(prompt.messages):
            span = replace(span, message_index=span.message_index + added)
        return self.request(prompt.id, messages, prompt.tools, span, scored)

    @cached_property
    def _settings_hash(self) -> str:
        rendering = None
        if self.tokenizer is not None:
            vocabulary = hashlib.sha256(self.tokenizer.backend_tokenizer.to_str().encode()).hexdigest()
            rendering = [RENDERING, vocabulary, self.date_line]
        return content_id(
            self.model,
            rendering,
            self.num_samples,
            self.sampling_temperature,
            self.max_new_tokens,
            self.num_logprobs,
            self.sampling_parameters,
        )


def prefix_order(messages: Sequence[Message]) -> bytes:
    """A sort key that brings prompts together that begin alike: digests of the conversation's beginnings, each twice as long."""
    text = "\x1e".join(f"{message.role}\x1f{message.content}" for message in messages).encode("utf-8", "surrogatepass")
    ends = [64 << power for power in range(16) if 64 << power < len(text)]
    return b"".join(hashlib.blake2b(text[:end], digest_size=4).digest() for end in ends) + text[-16:]
