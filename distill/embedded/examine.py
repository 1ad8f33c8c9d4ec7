"""An embedded model in, the share of replies it would give exactly and where the others first go wrong, out.

Teacher-forced: one forward pass per prompt; a reply counts when every token is the likeliest after the right ones before it. That is
what greedy decoding would write, at a twentieth of its cost, and it shows *what* is not learned yet: choosing the tool, choosing
the next parameter, finding a value's beginning, or copying on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Literal

import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from distill.chat import example_ids
from distill.embedded.conventions import TARGET, USUAL_LAYOUT, reply_text, tools_text
from distill.embedded.corpus import draw_invented_conversation
from distill.embedded.customer import SYSTEM, CustomerPrompt, customer_prompts
from distill.records import Message

Place = Literal["tool", "parameter", "value", "copying"]


@dataclass(frozen=True, slots=True)
class Finding:
    """Of `num_prompts` prompts of one set and category, how many replies are `exact`, and the place of each other's first error."""

    test_set: str
    category: str
    num_prompts: int
    exact: int
    first_errors: dict[str, int]


def examine(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, *, per_category: int, seed: int
) -> list[Finding]:
    """Findings on the demo customer's tools, on new tools, and on tools invented for each prompt, in the target convention.

    `per_category` prompts each. Invented tools are of pretraining's kind and were never met before; three of them are `multiple`.
    """
    cases: dict[tuple[str, str], list[tuple[list[Message], str]]] = {}
    for test_set in ("same_tools", "new_tools"):
        prompts = customer_prompts(test_set, per_category, Random(f"{seed}-examine-{test_set}"))
        for category in ("simple", "multiple"):
            cases[test_set, category] = [
                (messages_of(prompt), reply_text(prompt.request.calls, TARGET))
                for prompt in prompts
                if prompt.category == category
            ]
    random = Random(f"{seed}-examine-invented")
    for category, num_tools in (("simple", 1), ("multiple", 3)):
        drawn = [draw_invented_conversation(num_tools, random) for _ in range(per_category)]
        cases["invented", category] = [
            ([conversation.system, user], reply) for conversation in drawn for user, reply in conversation.exchanges
        ]
    findings = []
    for (test_set, category), pairs in cases.items():
        errors = [_first_error(model, tokenizer, messages, reply) for messages, reply in pairs]
        wrong = Counter(str(error) for error in errors if error is not None)
        findings.append(Finding(test_set, category, len(errors), errors.count(None), dict(wrong)))
    return findings


def messages_of(prompt: CustomerPrompt) -> list[Message]:
    """The conversation of the demo customer's record."""
    system = Message("system", SYSTEM + tools_text(prompt.tools, USUAL_LAYOUT))
    return [system, Message("user", prompt.request.text)]


@torch.inference_mode()
def _first_error(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, messages: Sequence[Message], reply: str
) -> Place | None:
    example = example_ids(messages, reply, tokenizer)
    trained = [position for position, mask in enumerate(example.loss_mask) if mask]
    ids = torch.tensor([example.input_ids], device=model.device)
    best = model(ids).logits[0].argmax(dim=1).tolist()
    for position in trained:
        if best[position - 1] != example.input_ids[position]:
            before = tokenizer.decode(list(example.input_ids[trained[0] : position]))
            return _place(str(before))
    return None


def _place(before: str) -> Place:
    """Where a reply stands that has been written up to here."""
    if "(" not in before:
        return "tool" if before in ("", "[") else "copying"
    if before.endswith(("(", ", ")) and before.count('"') % 2 == 0:
        return "parameter"
    if before.endswith(("=", '="', "=[", '=["')):
        return "value"
    return "copying"


def report(findings: Sequence[Finding]) -> str:
    """One line per set and category."""
    lines = []
    for found in findings:
        errors = ", ".join(f"{place} {count}" for place, count in sorted(found.first_errors.items()))
        share = found.exact / found.num_prompts
        lines.append(
            f"{found.test_set:<11}{found.category:<9} exact {found.exact}/{found.num_prompts} = {share:.3f}   first errors: {errors}"
        )
    return "\n".join(lines)
