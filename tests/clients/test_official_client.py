"""The official Python client runs every tool, over every transport, in both eras."""

from __future__ import annotations

import pytest

from tests.clients.live import LiveLab, Place
from tests.clients.official import ERAS, TRANSPORTS, Person, connected
from tests.clients.sweep import DESTROYS, PUBLISHED, Sweep

# What the default policy has confirmed; isolating and stricter modes need nobody.
CONFIRMED = (
    "reset_circuit",
    "refresh_oauth_token",
    "begin_oauth_authorization",
    "complete_oauth_authorization",
    "retry_deadletters",
    "restore_deadletters",
    "restart_deployment",
    "scale_deployment",
    "set_config",
    "pause_rollout",
    "resume_rollout",
    "start_deployment",
    "run_job",
    "suspend_job",
    "resume_job",
)


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_every_tool_does_its_work(
    transport: str, era: str, lab: LiveLab, place: Place
) -> None:
    person = Person()
    async with connected(place, transport, era, person=person) as talk:
        listed = (await talk.client.list_tools()).tools
        schemas = {each.name: each.output_schema or {} for each in listed}
        assert all(schemas.values())
        sweep = Sweep(call=talk.call, place=place, schemas=schemas)
        await sweep.everything(lab)
    assert set(sweep.answers) == set(schemas) == PUBLISHED
    # Nobody can be asked before 2025-06-18: over stdio the client's own dialog counts, over HTTP
    # a person approves. What destroys is approved everywhere.
    asks = era >= "2025-06-18"
    confirmed = [] if transport == "stdio" or asks else CONFIRMED
    approved = [tool for tool in sweep.approved if tool != "stop_job"]  # the sweep judges that
    assert sorted(approved) == sorted([*confirmed, *DESTROYS])
    assert len(person.asked) == (len(CONFIRMED) if asks else 0)
