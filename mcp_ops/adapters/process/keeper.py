"""The keeper of one command: a process of its own that outlives the server.

Run as `main(FOLDER)` with the configuration and a first request as JSON on standard input. It
starts the command, keeps what it writes, starts it again when it dies, and takes requests over a
socket in the folder, which only its owner can enter. A request carries the id of its call and the
generation that was looked at: the same call again is answered and not repeated, another generation
is refused. Needs nothing but Python, and little memory.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import selectors
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from mcp_ops.adapters.process.kernel import die_with, kills_by_memory
from mcp_ops.adapters.process.record import (
    ENDED,
    LOCK,
    LOCKED,
    NO_CHILD,
    REQUEST_BYTES,
    SOCKET,
    STATE,
    read_state,
)
from mcp_ops.adapters.process.ring import Ring
from mcp_ops.wire.marked import MARK, end_left_over

CALLS = 50
_LINGER_S = 0.2
_SHORT_RUN_S = 60.0
_DESCRIPTORS = 4_096


class Keeper:
    """The command, its state, and the socket."""

    def __init__(self, folder: Path, config: dict[str, Any]) -> None:
        self.folder = folder
        self.config = config
        self.state = read_state(folder)
        self.log = Ring(folder, int(config["log_bytes"]))
        self.child: subprocess.Popen[bytes] | None = None
        self.select = selectors.DefaultSelector()
        self.kill_at = 0.0
        self.then = ""
        self.by_us = False
        self.short_runs = 0
        self.memory_kills = 0
        self.until = 0.0

    def save(self, **changes: Any) -> bool:
        """Change the state and write it; whether the disk took it."""
        self.state.update(changes)
        draft = self.folder / f"{STATE}.tmp"
        try:
            with draft.open("w", encoding="utf-8") as file:
                json.dump(self.state, file)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(self.folder / STATE)
        except OSError:
            return False
        return True

    def take_over(self) -> None:
        """End what an earlier keeper that was killed left running."""
        if self.state["phase"] in ENDED:
            return
        end_left_over(str(self.state["token"]))
        self.save(phase="failed", changed=time.time(), exit={"lost": True}, **NO_CHILD)

    # Requests

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """What a request is answered with."""
        do, call = str(request.get("do")), str(request.get("call", ""))
        if do == "state":
            return {"ok": True, "state": self.state}
        known = next((each for each in self.state["calls"] if each["call"] == call), None)
        if known is not None:
            return {"ok": True, "call": known}
        if do not in ("start", "restart", "stop") or not call:
            return {"ok": False, "why": "bad"}
        if request.get("generation") != self.state["generation"]:
            return {"ok": False, "why": "changed"}
        entry = {
            "call": call,
            "do": do,
            "generation": self.state["generation"] + 1,
            "run": self.state["run"],
            "at": time.time(),
        }
        before = dict(self.state)
        calls = [*self.state["calls"], entry][-CALLS:]
        if not self.save(generation=entry["generation"], calls=calls, restarts=0, next=0.0):
            self.state = before  # what could be forgotten is not begun
            return {"ok": False, "why": "disk"}
        self.short_runs = 0
        if isinstance(request.get("config"), dict):
            self.config = request["config"]
        self._act(do)
        return {"ok": True, "call": entry}

    def _act(self, do: str) -> None:
        self.then = "" if do == "stop" else "start"
        if self.child is not None:
            if self.state["phase"] != "stopping":
                self._stop_child()
        elif do == "stop":
            self.save(phase="stopped", changed=time.time())
        else:
            self._spawn()

    # The command

    def _spawn(self) -> None:
        token = secrets.token_hex(16)
        config, own = self.config, os.getpid()
        self.by_us, self.memory_kills = False, kills_by_memory()
        run = self.state["run"] + 1
        try:
            child = subprocess.Popen(  # noqa: S603 - what the operator listed
                config["argv"],
                cwd=config["cwd"],
                env={**config["env"], MARK: token},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
                preexec_fn=lambda: die_with(own),
            )
        except OSError as exc:
            self.log.feed("err", f"mcp-ops: {exc.strerror}: {config['argv'][0]}\n".encode(), run)
            self.save(run=run, started=time.time(), **NO_CHILD)
            self._ended({"code": 127, "at": time.time()})
            return
        self.child = child
        for name, stream in (("out", child.stdout), ("err", child.stderr)):
            if stream is not None:
                os.set_blocking(stream.fileno(), False)
                self.select.register(stream, selectors.EVENT_READ, name)
        now = time.time()
        self.save(phase="running", changed=now, started=now, run=run, pid=child.pid, token=token)

    def _stop_child(self) -> None:
        self.by_us = True
        self.kill_at = time.monotonic() + float(self.config["grace_s"])
        self.save(phase="stopping", changed=time.time())
        self._signal(getattr(signal, f"SIG{self.config['stop_signal']}"))

    def _signal(self, number: int) -> None:
        """To the whole group: its number is ours until the child is waited for."""
        if self.child is not None:
            try:
                os.killpg(self.child.pid, number)
            except OSError:
                return

    def _read(self, stream: Any, name: str) -> None:
        try:
            data = os.read(stream.fileno(), 65_536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.select.unregister(stream)
            return
        lines = self.log.feed(name, data, self.state["run"])
        words = self.config.get("ready_log")
        if words and not self.state["ready"] and any(words in line for line in lines):
            self.save(ready=time.time())

    def reap(self) -> None:
        """Notice that the command has ended, and end what it left behind."""
        child = self.child
        if (
            child is None
            or os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
        ):
            return
        self._signal(signal.SIGKILL)  # before it is waited for, so that the number is still ours
        end_left_over(str(self.state["token"]), own=child.pid)
        for key in list(self.select.get_map().values()):
            if key.data in ("out", "err"):
                self._drain(key.fileobj, key.data)
        code = child.wait()
        self.log.flush(self.state["run"])
        for stream in (child.stdout, child.stderr):
            if stream is not None:
                stream.close()
        self.child = None
        how: dict[str, Any] = {"at": time.time(), "by_us": self.by_us}
        how |= {"signal": -code} if code < 0 else {"code": code}
        if code == -signal.SIGKILL and not self.by_us and kills_by_memory() > self.memory_kills:
            how["oom"] = True
            self.state["oom_kills"] += 1
        self._ended(how)

    def _drain(self, stream: Any, name: str) -> None:
        for _ in range(64):
            self._read(stream, name)
            if stream not in {key.fileobj for key in self.select.get_map().values()}:
                return
        self.select.unregister(stream)

    def _ended(self, how: dict[str, Any]) -> None:
        """What follows an end: the next run at once, later, or none."""
        lived = time.time() - float(self.state["started"])
        self.save(exit=how, changed=time.time(), **NO_CHILD)
        if self.by_us:
            self.by_us = False
            if self.then:
                self._spawn()
            else:
                self.save(phase="stopped")
            return
        policy = self.config["restart"]
        if policy == "never" or (policy == "on-failure" and how.get("code") == 0):
            self.save(phase="failed" if how.get("code") != 0 else "stopped")
            return
        self.short_runs = 0 if lived > _SHORT_RUN_S else min(self.short_runs + 1, 16)
        wait = float(self.config["backoff_s"]) * 2 ** max(self.short_runs - 1, 0)
        wait = min(wait, float(self.config["max_backoff_s"]))
        restarts = self.state["restarts"] + 1
        self.save(phase="backoff", restarts=restarts, next=time.monotonic() + wait)

    # The loop

    def serve(self, listener: socket.socket, wake: socket.socket) -> None:
        """Until the command has ended for good."""
        self.select.register(listener, selectors.EVENT_READ, "listener")
        self.select.register(wake, selectors.EVENT_READ, "wake")
        while True:
            for key, _ in self.select.select(self._wait_s()):
                self._meet(key, listener)
            self.reap()
            now = time.monotonic()
            if self.state["phase"] == "stopping" and now >= self.kill_at:
                self._signal(signal.SIGKILL)
                self.kill_at = now + 1.0
            if self.state["phase"] == "backoff" and now >= self.state["next"]:
                self._spawn()
            if self.state["phase"] not in ENDED:
                self.until = 0.0
            elif not self.until:
                self.until = now + _LINGER_S
            elif now >= self.until:
                return

    def _wait_s(self) -> float | None:
        ends = {"stopping": self.kill_at, "backoff": float(self.state["next"])}
        at = ends.get(self.state["phase"], self.until)
        return max(at - time.monotonic(), 0.0) if at else None

    def _meet(self, key: selectors.SelectorKey, listener: socket.socket) -> None:
        source: Any = key.fileobj
        if key.data == "listener":
            self._talk(listener)
        elif key.data == "wake":
            if b"\x0f" in source.recv(4_096):  # SIGTERM: the machine stops
                self.then = ""
                if self.child is None:
                    self.save(phase="stopped", changed=time.time())
                elif self.state["phase"] != "stopping":
                    self._stop_child()
        else:
            self._read(source, key.data)

    def _talk(self, listener: socket.socket) -> None:
        """One request, one answer; whoever is slow is left."""
        peer, _ = listener.accept()
        with peer:
            peer.settimeout(1.0)
            data = bytearray()
            try:
                while not data.endswith(b"\n") and len(data) < REQUEST_BYTES:
                    more = peer.recv(REQUEST_BYTES)
                    if not more:
                        return
                    data += more
                request = json.loads(data)
                told = self.answer(request) if isinstance(request, dict) else {"ok": False}
                peer.sendall(json.dumps(told).encode("ascii") + b"\n")
            except (OSError, ValueError):
                return


def main(folder: str) -> int:
    """Become a keeper; 0 once it listens (in the process that was started), 3 when there is one."""
    given = json.loads(sys.stdin.buffer.read())
    os.closerange(3, _DESCRIPTORS)  # what uvloop leaves to whatever it starts
    os.umask(0o077)
    os.chdir(folder)
    lock = Path(LOCK).open("w")  # noqa: SIM115 - held until the end
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return LOCKED
    Path(SOCKET).unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(SOCKET)
    listener.listen(16)
    if os.fork():
        os._exit(0)
    os.setsid()
    nothing = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(nothing, number)
    wake, waker = socket.socketpair()
    waker.setblocking(False)
    signal.set_wakeup_fd(waker.fileno(), warn_on_full_buffer=False)
    for number in (signal.SIGCHLD, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    keeper = Keeper(Path(folder), given["config"])
    keeper.take_over()
    keeper.answer(given["first"])
    keeper.serve(listener, wake)
    Path(SOCKET).unlink(missing_ok=True)
    return 0
