"""Texts in, a Llama-3-style tokenizer out: byte-level BPE, Llama's special tokens and chat format, digits one by one."""

from __future__ import annotations

from collections.abc import Iterable

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from distill.chat import BEGIN_OF_TEXT, END_HEADER, END_OF_MESSAGE, END_OF_TEXT, END_OF_TURN, START_HEADER

PYTHON_TAG = "<|python_tag|>"
PADDING = "<|finetune_right_pad_id|>"
VOCABULARY_SIZE = 2048
CONTEXT_LENGTH = 8192

# Unlike Llama 3's split a word stands alone, without the space or bracket before it, so that it has the same tokens in a request,
# in a specification and in a call: what a small model copies, it copies token for token. Digits stand alone for the same reason.
SPLIT = r"\p{Lu}?\p{Ll}+|\p{Lu}+(?!\p{Ll})|[\p{L}\p{M}]|\p{N}|[\r\n]+|[^\p{L}\p{M}\p{N}\r\n]+"
CHAT_TEMPLATE = (
    "{% for message in messages %}{% if loop.first %}{{ bos_token }}{% endif %}"
    "<|start_header_id|>{{ 'ipython' if message['role'] == 'tool' else message['role'] }}<|end_header_id|>\n\n"
    "{{ message['content'] | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)


def train_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """Learn the merges from the texts. Every learned token occurs in them; single bytes stand for everything else."""
    tokenizer = Tokenizer(models.BPE(ignore_merges=False))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    special = [BEGIN_OF_TEXT, END_OF_TEXT, PADDING, START_HEADER, END_HEADER, END_OF_MESSAGE, END_OF_TURN, PYTHON_TAG]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        max_token_length=16,
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BEGIN_OF_TEXT,
        eos_token=END_OF_TURN,
        pad_token=PADDING,
        chat_template=CHAT_TEMPLATE,
        model_max_length=CONTEXT_LENGTH,
        clean_up_tokenization_spaces=False,
    )
