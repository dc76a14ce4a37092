"""The clients of the field whose installation takes long: `make clients` runs them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.clients.field import FIELD, QUICK, FieldClient, keyed_place, prove_remote, prove_stdio
from tests.clients.install import Installed
from tests.clients.live import LiveLab, Place

LONG = [each for each in FIELD if each not in QUICK]


@pytest.mark.parametrize("client", LONG, ids=lambda each: each.name)
async def test_a_framework_works_over_stdio(
    client: FieldClient, lab: LiveLab, place: Place, clients: Installed
) -> None:
    await prove_stdio(client, clients, lab, place)


@pytest.mark.parametrize("client", LONG, ids=lambda each: each.name)
async def test_a_framework_works_over_http_with_a_key(
    client: FieldClient, lab: LiveLab, clients: Installed, tmp_path: Path
) -> None:
    await prove_remote(client, clients, lab, keyed_place(lab, tmp_path))
