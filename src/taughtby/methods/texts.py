"""The texts of rows and queries, for methods that read words."""

from __future__ import annotations

from typing import Literal

from taughtby.data.example import Example
from taughtby.methods.base import QueryFeatures


def row_text(row: Example, part: Literal["both", "prompt", "answer"] = "both") -> str:
    """Return a row's text without system prompts: all of it, the prompt's turns, or the last turn."""
    messages = {"both": row.messages, "prompt": row.messages[:-1], "answer": row.messages[-1:]}[part]
    return " ".join(str(message["content"]) for message in messages if message["role"] not in ("system", "developer"))


def query_texts(queries: QueryFeatures) -> list[str]:
    """Return prompt and response of each query as one text."""
    return [f"{prompt} {response}" for prompt, response in zip(queries.prompts, queries.responses, strict=True)]
