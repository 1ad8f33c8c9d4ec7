"""Token ids in, completions out, by a transformers model in this process: the engine of the embedded models.

Rows of like length are decoded together; a finished row leaves the batch. Sampling draws from a generator of each row's own, so an
answer does not depend on which rows happened to be its neighbours.

Legend: B rows, T tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import cast

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, DynamicCache, LlamaForCausalLM, PreTrainedTokenizerFast

from distill.chat import stop_ids
from distill.config import ConfigError, model_path
from distill.engines.fingerprint import model_label
from distill.engines.protocol import Answer, Request
from distill.engines.tokenizer import load_tokenizer
from distill.records import Completion, TokenLogprobs

DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}


def open_transformers(name: str, *, dtype: str, batch_tokens: int) -> TransformersEngine:
    """Load a model folder, hub name or `embedded:...` onto the GPU if there is one. `batch_tokens` bounds rows x length of a batch."""
    tokenizer = load_tokenizer(name)
    path = model_path(name)
    try:
        loaded = AutoModelForCausalLM.from_pretrained(
            path, dtype=DTYPES[dtype], attn_implementation="sdpa", trust_remote_code=False
        )
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(
            f"model {name!r}: cannot load its weights ({reason}); give a model's folder or a hub name you can reach"
        ) from None
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = cast(LlamaForCausalLM, loaded)
    torch.nn.Module.to(model, device).eval()
    return TransformersEngine(model=model_label(name), network=model, tokenizer=tokenizer, batch_tokens=batch_tokens)


@dataclass(slots=True)
class Row:
    """One sample of one request while it is being decoded."""

    request: Request
    sample: int
    generator: torch.Generator
    ids: list[int] = field(default_factory=list)
    top: list[tuple[tuple[int, ...], tuple[float, ...]]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class TransformersEngine:
    """An `Engine` over a model in this process."""

    model: str
    network: LlamaForCausalLM
    tokenizer: PreTrainedTokenizerFast
    batch_tokens: int

    def complete(self, requests: Iterable[Request]) -> Iterator[Sequence[Answer]]:
        """Answers in order of falling length, a batch at a time. A request longer than the model's context is answered with an error."""
        limit = self.network.config.max_position_embeddings
        fitting: list[Request] = []
        for request in requests:
            why = _why_refused(request, limit)
            if why is not None:
                yield [Answer(request=request, completions=(), error=why)]
            elif request.scored_ids is not None:
                yield [Answer(request=request, completions=(self._score(request),), error=None)]
            else:
                fitting.append(request)
        for batch in _batches(fitting, self.batch_tokens):
            yield self._answer(batch)

    def close(self) -> None:
        """Nothing is held outside this object."""

    def _answer(self, batch: Sequence[Request]) -> list[Answer]:
        rows = [
            Row(request, sample, _generator(request, sample))
            for request in batch
            for sample in range(request.num_samples)
        ]
        self._decode(rows)
        by_request: dict[str, list[Completion]] = {}
        for row in rows:
            by_request.setdefault(row.request.key, []).append(self._completion(row))
        return [Answer(request=request, completions=tuple(by_request[request.key]), error=None) for request in batch]

    @torch.inference_mode()
    def _score(self, request: Request) -> Completion:
        """Log-probabilities of `scored_ids` behind the prompt, in one forward pass."""
        assert request.scored_ids is not None
        ids = torch.tensor([[*request.prompt_ids, *request.scored_ids]], device=self.network.device)
        num_scored = len(request.scored_ids)
        logits_TV = self.network(input_ids=ids, logits_to_keep=num_scored + 1).logits[0, :-1].float()
        top = [
            _top(logprobs_V, token, request.num_logprobs)
            for logprobs_V, token in zip(logits_TV.log_softmax(dim=1), request.scored_ids, strict=True)
        ]
        return Completion(
            text="",
            finish_reason="stop",
            num_prompt_tokens=len(request.prompt_ids),
            num_completion_tokens=num_scored,
            logprobs=_token_logprobs(request.scored_ids, top),
        )

    @torch.inference_mode()
    def _decode(self, rows: Sequence[Row]) -> None:
        device = self.network.device
        stops = torch.tensor(stop_ids(self.tokenizer), device=device)
        input_ids_BT, attention_BT = _left_padded(
            [row.request.prompt_ids for row in rows], self.tokenizer.pad_token_id or 0, device
        )
        position_ids_BT = (attention_BT.cumsum(1) - 1).clamp(min=0)
        cache = DynamicCache(config=self.network.config)
        active = list(rows)
        while active:
            output = self.network(
                input_ids=input_ids_BT,
                attention_mask=attention_BT,
                position_ids=position_ids_BT,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
            logits_BV = output.logits[:, -1].float()
            next_B = _choose(logits_BV, active)
            for index, (row, token) in enumerate(zip(active, next_B.tolist(), strict=True)):
                row.ids.append(token)
                if row.request.num_logprobs:
                    row.top.append(_top(logits_BV[index].log_softmax(dim=0), token, row.request.num_logprobs))
            going = [
                index
                for index, row in enumerate(active)
                if row.ids[-1] not in stops and len(row.ids) < row.request.max_new_tokens
            ]
            if len(going) < len(active):
                active = [active[index] for index in going]
                kept = torch.tensor(going, device=device, dtype=torch.long)
                if active:
                    cache.batch_select_indices(kept)
                next_B, attention_BT, position_ids_BT = next_B[kept], attention_BT[kept], position_ids_BT[kept]
            input_ids_BT = next_B[:, None]
            attention_BT = torch.cat([attention_BT, attention_BT.new_ones(len(active), 1)], dim=1)
            position_ids_BT = position_ids_BT[:, -1:] + 1

    def _completion(self, row: Row) -> Completion:
        stopped = row.ids[-1] in stop_ids(self.tokenizer)
        text = self.tokenizer.decode(row.ids, skip_special_tokens=True)
        return Completion(
            text=str(text),
            finish_reason="stop" if stopped else "length",
            num_prompt_tokens=len(row.request.prompt_ids),
            num_completion_tokens=len(row.ids),
            logprobs=_token_logprobs(row.ids, row.top) if row.request.num_logprobs else None,
        )


def _why_refused(request: Request, limit: int) -> str | None:
    needed = len(request.prompt_ids) + len(request.scored_ids or ()) + request.max_new_tokens * (not request.scored_ids)
    if needed > limit:
        return f"needs {needed} tokens, the model's context is {limit}"
    if request.sampling_parameters:
        return f"the in-process engine knows no {', '.join(request.sampling_parameters)}; use engine `server`"
    return None


def _top(logprobs_V: Tensor, token: int, count: int) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """The `count` likeliest ids and their log-probabilities, likeliest first, and the text's own where it is none of them."""
    values, ids = logprobs_V.topk(count)
    pairs = list(zip(ids.tolist(), values.tolist(), strict=True))
    if token not in ids.tolist():
        pairs.append((token, float(logprobs_V[token])))
    return tuple(found for found, _ in pairs), tuple(value for _, value in pairs)


def _token_logprobs(
    token_ids: Sequence[int], top: Sequence[tuple[tuple[int, ...], tuple[float, ...]]]
) -> TokenLogprobs:
    return TokenLogprobs(
        token_ids=tuple(token_ids),
        top_ids=tuple(ids for ids, _ in top),
        top_logprobs=tuple(values for _, values in top),
    )


def _batches(requests: Sequence[Request], batch_tokens: int) -> Iterator[list[Request]]:
    batch: list[Request] = []
    rows = longest = 0
    for request in sorted(requests, key=lambda request: (-len(request.prompt_ids), request.prompt_ids, request.key)):
        longest = max(longest, len(request.prompt_ids) + request.max_new_tokens // 4)
        if batch and (rows + request.num_samples) * longest > batch_tokens:
            yield batch
            batch, rows, longest = [], 0, len(request.prompt_ids) + request.max_new_tokens // 4
        batch.append(request)
        rows += request.num_samples
    if batch:
        yield batch


def _generator(request: Request, sample: int) -> torch.Generator:
    return torch.Generator().manual_seed(request.seed + sample)


def _left_padded(prompts: Sequence[tuple[int, ...]], pad_id: int, device: torch.device) -> tuple[Tensor, Tensor]:
    longest = max(len(ids) for ids in prompts)
    input_ids_BT = torch.tensor([[pad_id] * (longest - len(ids)) + list(ids) for ids in prompts], device=device)
    attention_BT = torch.tensor([[0] * (longest - len(ids)) + [1] * len(ids) for ids in prompts], device=device)
    return input_ids_BT, attention_BT


def _choose(logits_BV: Tensor, rows: Sequence[Row]) -> Tensor:
    """Greedy at temperature 0, else one draw per row from its own generator."""
    chosen_B = logits_BV.argmax(dim=1)
    for index, row in enumerate(rows):
        if row.request.sampling_temperature > 0:
            probabilities_V = (logits_BV[index] / row.request.sampling_temperature).softmax(dim=0).cpu()
            chosen_B[index] = torch.multinomial(probabilities_V, 1, generator=row.generator)[0]
    return chosen_B
