"""The lab's PostgreSQL: it starts, keeps its data, and never outlives the lab."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import anyio
import psycopg
import pytest
from anyio.streams.buffered import BufferedByteReceiveStream

from mcp_ops.lab.place import reserve
from mcp_ops.lab.postgres import ADMIN, DATABASE, Postgres, postgres

PASSWORD = "it's a \\ secret @:/"


def free_port() -> int:
    with reserve(0) as taken:
        return int(taken.getsockname()[1])


async def value(server: Postgres, sql: str) -> object:
    """The only value of a statement of the role that programs have."""
    async with await psycopg.AsyncConnection.connect(server.url, autocommit=True) as client:
        row = await (await client.execute(sql.encode())).fetchone()
    return None if row is None else row[0]


async def test_data_survive_a_stop_a_crash_and_a_new_lab(tmp_path: Path) -> None:
    port = free_port()
    # What a lab leaves that is killed while it makes the directory: it is made anew.
    (tmp_path / "data" / "base").mkdir(parents=True)
    (tmp_path / "data" / "PG_VERSION").write_text("18\n", encoding="utf-8")
    with anyio.fail_after(60):
        async with postgres(tmp_path, port, password=PASSWORD) as server:
            async with server.admin(DATABASE) as admin:
                await admin.execute("CREATE TABLE public.kept AS SELECT 1 AS number")
                await admin.execute("GRANT SELECT ON public.kept TO public")
            for end in (server.stop, server.crash):
                await end()
                assert not server.up
                with pytest.raises(psycopg.OperationalError):
                    await value(server, "SELECT 1")
                await server.start()
                assert await value(server, "SELECT number FROM public.kept") == 1
            assert await value(server, "SHOW is_superuser") == "off"
            wrong = server.address("postgres", user=ADMIN).replace("it", "is", 1)
            with pytest.raises(psycopg.OperationalError, match="authentication failed"):
                await psycopg.AsyncConnection.connect(wrong)
            with pytest.raises(KeyError):
                await server.inject("no such fault")
        async with postgres(tmp_path, port, password=PASSWORD) as server:
            assert await value(server, "SELECT number FROM public.kept") == 1


LAB = """
import sys, anyio
from pathlib import Path
from mcp_ops.lab.postgres import postgres
async def main():
    async with postgres(Path(sys.argv[1]), int(sys.argv[2]), password=sys.argv[3]) as server:
        print(server.pid, flush=True)
        await anyio.sleep_forever()
anyio.run(main)
"""


async def test_the_server_ends_when_the_lab_is_killed_though_a_client_stays(
    tmp_path: Path,
) -> None:
    port = free_port()
    server = Postgres(tmp_path, port, PASSWORD)
    with anyio.fail_after(60):
        command = [sys.executable, "-c", LAB, str(tmp_path), str(port), PASSWORD]
        async with await anyio.open_process(command, cwd=Path(__file__).parents[2]) as lab:
            assert lab.stdout is not None
            pid = int(await BufferedByteReceiveStream(lab.stdout).receive_until(b"\n", 100))
            os.kill(pid, 0)
            client = await psycopg.AsyncConnection.connect(server.url, autocommit=True)
            async with client:
                lab.send_signal(signal.SIGKILL)
                await lab.wait()
                with pytest.raises(psycopg.OperationalError):
                    await client.execute("SELECT pg_sleep(30)")
        while True:
            try:
                stream = await anyio.connect_tcp("127.0.0.1", port)
            except OSError:
                break
            await stream.aclose()
