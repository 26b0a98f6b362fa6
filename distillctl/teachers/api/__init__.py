"""A teacher behind an endpoint that speaks as OpenAI's does: texts in, a distribution over classes for each out, nothing paid twice.

`labelling.py: label` is the way in, `estimate.py` what it would cost, `audit.py` whether to believe it. Below, from the whole to its parts:
`row.py` asks one prompt (what is sent is in `requests.py`, what comes back in `replies.py`, and becomes numbers in `words.py` and
`scores.py`); `exchange.py` gets one request answered within `money.py`, `pace.py` and `retries.py`, and keeps it in `ledger.py` (by `appending.py`, entries
are `book.py`); `client.py` is the only place that speaks HTTP, and `secret.py` the only one that knows the key.
"""
