"""Clients of the field list and call over every transport they have; `make clients` has the rest.

Here are the official TypeScript client, which most hosts are built on, and those frameworks that
install quickly.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.clients.field import QUICK, FieldClient, keyed_place, prove_remote, prove_stdio
from tests.clients.install import Installed
from tests.clients.live import LiveLab, Place
from tests.clients.table import on_page, table


@pytest.mark.parametrize("client", QUICK, ids=lambda each: each.name)
async def test_a_client_of_the_field_works_over_stdio(
    client: FieldClient, lab: LiveLab, place: Place, clients: Installed
) -> None:
    await prove_stdio(client, clients, lab, place)


@pytest.mark.parametrize("client", QUICK, ids=lambda each: each.name)
async def test_a_client_of_the_field_works_over_http_with_a_key(
    client: FieldClient, lab: LiveLab, clients: Installed, tmp_path: Path
) -> None:
    await prove_remote(client, clients, lab, keyed_place(lab, tmp_path))


def test_the_table_of_clients_is_what_was_tested() -> None:
    assert on_page() == table(), "python -m tests.clients.table writes it"
