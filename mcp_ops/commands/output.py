"""How commands speak: results to stdout, everything else to stderr, colours on terminals only."""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from threading import Thread
from typing import Any

import anyio
import typer
from anyio import from_thread
from anyio.lowlevel import current_token

from mcp_ops.commands.exits import error_body, exit_of_error
from mcp_ops.errors import OpsError
from mcp_ops.redact import tame, visible

Advance = Callable[[float, float, str], None]


def use_utf8() -> None:
    """Make both streams UTF-8: a Windows pipe or console may otherwise refuse a character."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(encoding="utf-8", errors="replace")


def say(text: str = "") -> None:
    """A line of the result; on a terminal made harmless for it, elsewhere as it is."""
    typer.echo(tame(text, len(text)) if sys.stdout.isatty() else text)


def warn(text: str) -> None:
    """A line for the person, not part of the result."""
    typer.echo(text, err=True)


def show_json(value: Any) -> None:
    """A value as JSON: coloured on a terminal, plain elsewhere."""
    text = visible(json.dumps(value, indent=2, ensure_ascii=False))
    if not sys.stdout.isatty():
        say(text)
        return
    from rich.console import Console

    Console().print_json(text, ensure_ascii=False)


def show_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A table; cells are shown as they are, made harmless for the terminal."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text(tame(cell).replace("\n", " ")) for cell in row))
    if sys.stdout.isatty():
        Console().print(table)
        return
    # Without a terminal there is no width to fold at: a line stays a line for grep.
    plain = io.StringIO()
    Console(file=plain, width=1_000).print(table)
    say("\n".join(line.rstrip() for line in plain.getvalue().splitlines()))


def fail(error: OpsError, *, as_json: bool) -> int:
    """Say an error and answer the exit code."""
    body = error_body(error)
    if as_json:
        show_json({"error": body})
    else:
        warn(f"mcp-ops: {tame(error.message, 8_000)}")
        if error.hint:
            warn(tame(error.hint))
    return exit_of_error(body)


def interactive() -> bool:
    """Whether a person can be asked: both ends of the conversation are a terminal."""
    return sys.stdin.isatty() and sys.stderr.isatty()


async def ask_line(question: str) -> str | None:
    """Ask on the terminal and wait for a line; None when the input ended.

    The server's own tasks go on meanwhile, and Ctrl-C ends the wait: so the reading happens in a
    daemon thread, past Python's buffered stdin, whose lock such a thread would keep at exit.
    """
    typer.echo(question, nl=False, err=True)
    lines: list[bytes] = []
    answered = anyio.Event()
    token = current_token()
    descriptor = sys.stdin.fileno()

    def read() -> None:
        with suppress(OSError):
            lines.append(os.read(descriptor, 4_096))
        with suppress(RuntimeError):  # the command was interrupted meanwhile
            from_thread.run_sync(answered.set, token=token)

    Thread(target=read, daemon=True).start()
    await answered.wait()
    return lines[0].decode("utf-8", "replace").strip() if lines and lines[0] else None


async def ask_secret(question: str) -> str | None:
    """Ask on the terminal for what must not be shown there; None when the input ended."""
    with _unechoed(sys.stdin.fileno()):
        line = await ask_line(question)
    warn("")
    return line


@contextmanager
def _unechoed(descriptor: int) -> Iterator[None]:
    if sys.platform == "win32":  # its console is not asked for a secret: use the variable there
        yield
        return
    import termios

    before = termios.tcgetattr(descriptor)
    silent = [*before]
    silent[3] = before[3] & ~termios.ECHO
    termios.tcsetattr(descriptor, termios.TCSAFLUSH, silent)
    try:
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSAFLUSH, before)


def progress_bar() -> AbstractContextManager[Advance | None]:
    """A progress bar on stderr that appears with the first report; None without a terminal."""
    return _progress_bar()


@contextmanager
def _progress_bar() -> Any:
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as progress:
        tasks: list[Any] = []

        def advance(done: float, total: float, message: str) -> None:
            if not tasks:
                tasks.append(progress.add_task("", total=None))
            text = tame(message, 60).replace("[", r"\[")
            progress.update(tasks[0], completed=done, total=total or None, description=text)

        yield advance
