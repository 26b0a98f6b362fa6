"""How long to wait before a request is tried again."""

from __future__ import annotations

import math
from datetime import timezone
from email.utils import parsedate_to_datetime

from distillctl.draws import uniform

FIRST_S = 0.5
LONGEST_S = 30.0
PATIENCE_S = 3600.0  # a server that wants to be left alone for longer is asked another day


def backoff_s(attempt: int, seed: int, row: int) -> float:
    """Seconds before try `attempt` + 1 of a row, attempt >= 1: min(LONGEST_S, FIRST_S 2^(attempt - 1)) times a draw from [1/2, 1).

    "Equal jitter" of Brooker 2015, "Exponential backoff and jitter" (AWS Architecture Blog): rows that failed together do not come back
    together. The draw is a function of seed, row and attempt.
    """
    full = min(LONGEST_S, FIRST_S * 2.0 ** min(attempt - 1, 60))
    return full * (0.5 + 0.5 * float(uniform(seed, "api backoff", row, attempt)))


def retry_after_s(header: str | None, wall: float) -> float | None:
    """Seconds that `Retry-After` asks for, RFC 9110 section 10.2.3: a number of them, or an HTTP date; None for what is neither.

    wall: seconds since 1970 now.
    """
    if header is None:
        return None
    try:
        asked = float(header)
        return max(0.0, asked) if math.isfinite(asked) else None
    except ValueError:
        pass
    try:
        date = parsedate_to_datetime(header)
        # a date without a zone is GMT there
        return max(0.0, (date if date.tzinfo else date.replace(tzinfo=timezone.utc)).timestamp() - wall)
    except (ValueError, TypeError, OverflowError, IndexError):
        return None
