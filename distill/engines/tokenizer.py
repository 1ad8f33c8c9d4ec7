"""A model's name in, its tokenizer out: the one place where stages and engines load one."""

from __future__ import annotations

from transformers import PreTrainedTokenizerFast

from distill.chat import why_unusable
from distill.config import ConfigError, model_path


def load_tokenizer(name: str) -> PreTrainedTokenizerFast:
    """The tokenizer of a folder, a hub name or `embedded:...`; `ConfigError` if it is not there or not Llama 3's."""
    try:
        # AutoTokenizer would load torch, for the same class: Llama 3's tokenizers are all of this one.
        tokenizer: PreTrainedTokenizerFast = PreTrainedTokenizerFast.from_pretrained(model_path(name))
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(
            f"model {name!r}: cannot load its tokenizer ({reason}); give a model's folder or a hub name you can reach"
        ) from None
    why = why_unusable(tokenizer)
    if why is not None:
        raise ConfigError(f"model {name!r}: {why}")
    return tokenizer


def why_other_tokens(one: PreTrainedTokenizerFast, other: PreTrainedTokenizerFast) -> str | None:
    """None if both give every id to the same token, else what differs first."""
    first, second = one.get_vocab(), other.get_vocab()
    if first == second:
        return None
    if len(first) != len(second):
        return f"{len(first)} tokens and {len(second)}"
    token = min(token for token in first if second.get(token) != first[token])
    return f"token {token!r} is {first[token]} and {second.get(token)}"
