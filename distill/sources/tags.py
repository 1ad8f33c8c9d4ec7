"""A conversation in; the first piece of a chat template that stands in its texts out.

Such a tag is kept as text when the conversation is tokenized (`distill/chat.py`), so it does no harm by itself. It says that a rendered
prompt was stored in the place of the user's words: the model would be taught turns inside turns.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from distill.records import Message


def why_invalid_tags(messages: Sequence[Message]) -> str | None:
    """A sentence naming the first tag and where it stands, None if there is none. The reject's word is `invalid_tags`.

    Tags are those of Llama 3 and of the templates in that manner (`<|...|>`), of Llama 2 and Mistral (`[INST]`, `<<SYS>>`) and of
    Gemma (`<start_of_turn>`).
    """
    for index, message in enumerate(messages):
        found = _TAG.search(message.content)
        if found is not None:
            return (
                f"messages[{index}] ({message.role}) holds {found.group()!r} at character {found.start()}: a chat template's own "
                "tag; give the words alone, the template is applied here"
            )
    return None


_TAG = re.compile(r"<\|[A-Za-z0-9_]{1,60}\|>|\[/?INST\]|<</?SYS>>|<(?:start|end)_of_turn>")
