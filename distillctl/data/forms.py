"""Names of classes in the form that is compared. No torch here."""

from __future__ import annotations

import unicodedata


def one_form(name: str) -> str:
    """An accent is a character of its own on one system, a part of its letter on another."""
    return unicodedata.normalize("NFC", name)
