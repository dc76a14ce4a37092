"""The real kubectl, as a process, against the lab's Kubernetes.

The lab runs in a thread of its own, so that a test can wait for a process.
"""

from __future__ import annotations

import functools
import json
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anyio.from_thread import BlockingPortal, start_blocking_portal

from mcp_ops.adapters.kubernetes.rollout import RolloutState
from mcp_ops.lab.kubernetes.api import kubeconfig
from mcp_ops.lab.standin import StandIn
from tests.deploy.tools import install
from tests.lab.kubernetes_serving import served

# A process that says nothing for so long hangs; the machine may be busy.
LONGEST_S = 60
PAUSE_S = 0.02
COMPLETE = ("successfully rolled out", "roll out complete")


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """How a call ended, and what it said."""

    code: int
    out: str
    err: str

    @property
    def said(self) -> str:
        """All of it."""
        return self.out + self.err


@dataclass(frozen=True, slots=True, kw_only=True)
class Kubectl:
    """kubectl with one kubeconfig, and nothing of the machine's."""

    folder: Path

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """A call that runs on."""
        return subprocess.Popen(
            [str(program()), *arguments],
            env={"HOME": str(self.folder), "KUBECONFIG": str(self.folder / "config"), "PATH": ""},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
        )

    def run(self, *arguments: str, given: str = "") -> Done:
        """A call to its end."""
        with self.start(*arguments) as process:
            try:
                out, err = process.communicate(given, timeout=LONGEST_S)
            finally:
                process.kill()
        return Done(code=process.returncode, out=out, err=err)

    def says(self, *arguments: str, given: str = "") -> str:
        """What a call prints; it has to end well and to warn of nothing."""
        done = self.run(*arguments, given=given)
        assert (done.code, done.err) == (0, ""), (arguments, done)
        return done.out

    def refused(self, *arguments: str, given: str = "") -> str:
        """Why a call failed."""
        done = self.run(*arguments, given=given)
        assert done.code == 1, (arguments, done)
        return done.err

    def get(self, *arguments: str) -> Any:
        """An object, or the items of a list, with all that is kept of it."""
        found = json.loads(self.says("get", *arguments, "--show-managed-fields", "-o", "json"))
        return found["items"] if found["kind"] == "List" else found

    def verdict(self, workload: str) -> str:
        """What it makes of a rollout: done, failed, pending; or that it judges none such."""
        done = self.run("rollout", "status", workload, "--watch=false")
        if done.code:
            assert done.code == 1
            known = {"exceeded its progress deadline": "failed", "only available for": "not judged"}
            return next(word for text, word in known.items() if text in done.err)
        return "done" if any(word in done.out for word in COMPLETE) else "pending"

    def rows(self, *arguments: str) -> list[list[str]]:
        """The cells of a table without its head."""
        shown = self.says("get", *arguments, "--no-headers")
        return [line.split() for line in shown.splitlines() if line]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """The lab's Kubernetes, and a kubectl for it. Faults are put in force by its own thread."""

    kubectl: Kubectl
    stand_in: StandIn
    portal: BlockingPortal

    def inject(self, fault: str) -> None:
        """Put a fault in force."""
        self.portal.call(self.stand_in.inject, fault)

    def mend(self, fault: str) -> None:
        """Take a fault back."""
        self.portal.call(self.stand_in.mend, fault)


def ours(state: RolloutState) -> str:
    """The verdict of the adapter, in the words of `Kubectl.verdict`."""
    return "done" if state.done else "failed" if state.failed else "pending"


@functools.cache
def program() -> Path:
    """The program, of a locked version; unpacked once."""
    return install().kubectl


def configured(folder: Path, url: str, token: str | None = None, authority: str = "") -> Kubectl:
    """A kubectl for the API server at `url`; a token needs TLS, kubectl sends none without."""
    text = kubeconfig(url, token)
    if authority:
        (folder / "ca.pem").write_text(authority, encoding="utf-8")
        text = text.replace("{server:", "{certificate-authority: ca.pem, server:")
    (folder / "config").write_text(text, encoding="utf-8")
    return Kubectl(folder=folder)


@contextmanager
def cluster(folder: Path, **options: Any) -> Iterator[Cluster]:
    """A lab of its own, over plain HTTP and without a token."""
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(served(folder, **options)) as lab,
    ):
        yield Cluster(kubectl=configured(folder, lab.url), stand_in=lab.stand_in, portal=portal)


def until(holds: Callable[[], Any]) -> Any:
    """Ask until the answer is one."""
    late = time.monotonic() + LONGEST_S
    while not (found := holds()):
        assert time.monotonic() < late, "it never came"
        time.sleep(PAUSE_S)
    return found
