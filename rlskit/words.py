"""Words for people: how errors and plans put things."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def counted(number: int, what: str) -> str:
    """Return ``1 table``, ``2 tables``."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return ``did you mean `x`?`` for the nearest of ``known``, or the list of them."""
    known = list(known)
    if near := get_close_matches(word, known, n=1, cutoff=0.6):
        return f"did you mean `{near[0]}`?"
    return "known: " + ", ".join(f"`{each}`" for each in known) if known else ""
