"""A secret of each format at each opening of a server; none comes out of it anywhere."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import anyio

from tests.secrets_of_each_kind import samples
from tests.security.canary_peer import CONFIGURED


def left_in(text: str) -> list[str]:
    """The names of the samples whose secret stands in a text."""
    found = {sample.name for sample in samples() if sample.secret in text}
    return sorted(found | ({"configured"} if CONFIGURED in text else set()))


def check_lines(came: dict[str, Any], log: str) -> None:
    """The lines that both exporters sent: ours alone, and without the words of exceptions."""
    lines = came["lines"]
    kinds = {item["data"]["baseType"] for item in came["azure"]}
    azure = [
        item["data"]["baseData"]
        for item in came["azure"]
        if item["data"]["baseType"] in ("MessageData", "ExceptionData")
    ]
    assert kinds >= {"MessageData", "ExceptionData", "MetricData", "RequestData"}
    assert len(lines) == len(azure) > 2 * len(samples())
    assert {line["logger"].partition(".")[0] for line in lines} == {"mcp_ops"}
    assert {"mcp_ops.canaries", "mcp_ops.server"} <= {line["logger"] for line in lines}
    assert sum("[redacted]" in line["body"] for line in lines) > len(samples()) / 2
    for sent in (json.dumps(lines), json.dumps(azure)):
        assert "defect in a call of look_at_item" in sent
        assert "RuntimeError" in sent
        assert "a library raised" not in sent
        assert ".py" not in sent
        assert "unknown" not in sent
    assert "a library raised" in log


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
    check_lines(came, done.stderr.decode())
    leaks = {
        "results, errors and questions": left_in("\n".join(came["told"])),
        "spans": left_in(json.dumps(came["spans"])),
        "metrics": left_in(came["metrics"]),
        "what is exported": left_in("\n".join(came["sent"])),
        "what Azure Monitor gets": left_in(json.dumps(came["azure"])),
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
