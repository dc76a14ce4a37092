"""The lab's Kubernetes as a process of its own: `python -m mcp_ops.lab.kubernetes.serve`."""

from __future__ import annotations

import argparse
import json
import socket
import sys
from pathlib import Path

import uvicorn

from mcp_ops.lab.kubernetes.api import kubeconfig, kubernetes
from mcp_ops.lab.kubernetes.fleet import FLEET
from mcp_ops.lab.kubernetes.seed import SHOP


def main(arguments: list[str] | None = None) -> None:
    """Serve until a signal ends it; one line of JSON on stdout says where, when it listens.

    The directory gets `effects.jsonl` and a `kubeconfig`.
    """
    parser = argparse.ArgumentParser(prog="python -m mcp_ops.lab.kubernetes.serve")
    parser.add_argument("--directory", type=Path, required=True)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--token", default="lab-token", help="empty: nobody needs one")
    parser.add_argument("--fleet", type=int, default=0, help="pods of the large world")
    parser.add_argument("--step", type=float, default=0.4, help="seconds of one step")
    given = parser.parse_args(arguments)
    given.directory.mkdir(parents=True, exist_ok=True)
    stand_in = kubernetes(
        directory=given.directory, token=given.token or None, settle_s=given.step, fleet=given.fleet
    )
    listener = socket.create_server(("127.0.0.1", given.port))
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    file = given.directory / "kubeconfig"
    namespace = FLEET if given.fleet else SHOP
    file.write_text(kubeconfig(url, given.token or None, namespace), encoding="utf-8")
    told = {"url": url, "kubeconfig": str(file), "namespace": namespace}
    sys.stdout.write(json.dumps(told) + "\n")
    sys.stdout.flush()
    server = uvicorn.Server(uvicorn.Config(stand_in.app, log_level="warning", lifespan="on"))
    server.run(sockets=[listener])


if __name__ == "__main__":
    main()
