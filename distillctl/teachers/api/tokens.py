"""How many tokens a text takes, without the model's tokenizer: what is likely, and what it cannot exceed."""

from __future__ import annotations

from dataclasses import dataclass

BYTES_A_TOKEN = 4.0  # of English prose in current vocabularies of 30,000 to 200,000 tokens; other languages and code take more tokens
TEMPLATE_TOKENS = 256  # that a server may put around the messages: roles, a system prompt of its own, its spelling of a schema
HOW = "bytes of the prompts / 4"


@dataclass(frozen=True)
class Usage:
    """Tokens of prompts and of answers."""

    prompt: int = 0
    answer: int = 0

    @property
    def total(self) -> int:
        return self.prompt + self.answer

    def __add__(self, other: Usage) -> Usage:
        return Usage(self.prompt + other.prompt, self.answer + other.answer)


def likely(size_bytes: int, bytes_a_token: float = BYTES_A_TOKEN) -> int:
    """Tokens of a prompt of so many bytes of UTF-8, about."""
    return max(1, round(size_bytes / bytes_a_token))


def at_most(size_bytes: int) -> int:
    """Tokens that the prompt of a request of so many bytes can take: a token stands for at least a byte, in vocabularies with and without
    bytes of their own, and a template adds some."""
    return size_bytes + TEMPLATE_TOKENS
