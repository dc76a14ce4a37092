"""A secret of each format at each opening of a server; none comes out of it anywhere."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import anyio

from tests.secrets_of_each_kind import samples
from tests.security.canary_peer import CONFIGURED


def left_in(text: str) -> list[str]:
    """The names of the samples whose secret stands in a text."""
    found = {sample.name for sample in samples() if sample.secret in text}
    return sorted(found | ({"configured"} if CONFIGURED in text else set()))


async def test_no_secret_of_any_format_leaves_by_any_way(tmp_path: Path) -> None:
    with anyio.fail_after(120):
        done = await anyio.run_process(
            [sys.executable, "-m", "tests.security.canary_peer", str(tmp_path)], check=False
        )
    assert done.returncode == 0, done.stderr.decode()[-3_000:]
    came = json.loads(done.stdout)
    assert len(came["told"]) > 500
    assert len(came["spans"]) > 500
    assert {"guard.run", "tools/call look_at_item"} <= {span["name"] for span in came["spans"]}
    assert "mcp_ops_circuit_state" in came["metrics"]
    assert "mcp_ops.calls" in "".join(came["sent"])
    leaks = {
        "results, errors and questions": left_in("\n".join(came["told"])),
        "spans": left_in(json.dumps(came["spans"])),
        "metrics": left_in(came["metrics"]),
        "what is exported": left_in("\n".join(came["sent"])),
        "logs": left_in(done.stderr.decode()),
        "state": left_in(
            "\n".join(
                each.read_bytes().decode("utf-8", "replace")
                for each in tmp_path.rglob("*")
                if each.is_file()
            )
        ),
    }
    assert not any(leaks.values()), leaks
    assert done.stderr.count(b"\n") > 250
    assert b"[redacted]" in done.stderr
