"""What redaction costs a call: `python -m benchmarks.redaction`.

Every result, and every line of the ledger, is looked at (`suspects`); what may hold a secret is
gone through part by part (`value`).
"""

from __future__ import annotations

import random
import string
import timeit
import uuid
from typing import Any

import orjson

from mcp_ops.redact import Redactor


def results() -> dict[str, dict[str, Any]]:
    """Three results of some 4 KB: plain, with words that may lead to a secret, with a secret."""
    draw = random.Random(1)
    items = [
        {
            "name": f"worker-{number}",
            "namespace": "shop",
            "ready": "2/2",
            "image": f"shop/worker@sha256:{draw.getrandbits(256):064x}",
            "observed_at": "2026-10-10T10:10:10Z",
            "id": str(uuid.UUID(int=draw.getrandbits(128), version=4)),
            "text": f"INFO request {number} done in 12 ms GET /orders/{number} 200",
        }
        for number in range(13)
    ]
    plain = {"items": items, "truncated": False, "next_cursor": "", "searched": "60 minutes"}
    step = {"tool": "refresh_oauth_token", "why": "The token expires soon; its key is old."}
    return {
        "plain": plain,
        "with telling words": {**plain, "next_steps": [step]},
        "with a secret": {**plain, "note": "password=hunter2hunter"},
    }


def main() -> None:
    """Print a table: microseconds, the best of five."""
    draw = random.Random(2)
    letters = string.ascii_letters + string.digits
    print(f"{'result':20} {'bytes':>6} {'values':>6} {'µs':>8}")
    for values in (10, 2_000):
        redactor = Redactor()
        redactor.add(*("".join(draw.choices(letters, k=40)) for _ in range(values)))
        for name, result in results().items():
            dumped = orjson.dumps(result)

            def clean(
                redactor: Redactor = redactor,
                result: dict[str, Any] = result,
                dumped: bytes = dumped,
            ) -> Any:
                return redactor.value(result) if redactor.suspects(dumped) else result

            best = min(timeit.repeat(clean, number=50, repeat=5)) / 50
            print(f"{name:20} {len(dumped):6} {values:6} {best * 1e6:8.0f}")


if __name__ == "__main__":
    main()
