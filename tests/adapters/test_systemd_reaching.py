"""Which other units a plan names: those that systemd would stop or start with the one."""

from __future__ import annotations

from pathlib import Path

from tests.adapters.systemd_stage import REDIS, Stage, stage

DOWN = "shutdown.target"


async def test_what_systemd_changes_with_a_unit_is_told(tmp_path: Path) -> None:
    async with stage(tmp_path) as place:
        platform = place.platform
        assert (await platform.plan_stop(REDIS)).reaches == []
        place.box.set(REDIS, Names=f"{REDIS} Cache.service", RequiredBy="api.service")
        others(
            place,
            api={"ConsistsOf": "web.service", "OnFailure": "page.service"},
            web={"RequiredBy": REDIS},
        )
        stopped = ["api.service", "cache.service", "web.service"]
        for planning in (platform.plan_stop, platform.plan_restart):
            plan = await planning(REDIS)
            assert plan.reaches == sorted([*stopped, "page.service"])
            assert plan.lines[-2].endswith("the same as: api.service, cache.service, web.service.")
            assert plan.lines[-1] == "It may also start: page.service."


async def test_what_systemd_starts_and_stops_for_a_start_is_told(tmp_path: Path) -> None:
    async with stage(tmp_path) as place:
        # A service conflicts with shutdown.target, as all others do; it waits for a database, whose
        # disk may not be mounted beside the backup's, which two others need.
        place.box.set(REDIS, Requires="db.service sysinit.target gone.mount", Conflicts=DOWN)
        others(
            place,
            db={"Wants": "disk.mount"},
            backup={"ActiveState": "active", "BoundBy": "copy.service", "Conflicts": DOWN},
            copy={"ActiveState": "active", "RequiredBy": "mail.service"},
            idle={"BoundBy": "never.service"},
            **{
                "disk.mount": {"ConflictedBy": "backup.service idle.service"},
                "sysinit.target": {"ActiveState": "active", "Requires": "early.service"},
                "gone.mount": {"LoadState": "not-found"},
                DOWN: {"ConflictedBy": " ".join(f"u{number}.service" for number in range(300))},
            },
        )
        stopped = ["backup.service", "copy.service", "mail.service"]
        for planning in (place.platform.plan_start, place.platform.plan_restart):
            plan = await planning(REDIS)
            assert plan.reaches == sorted([*stopped, "db.service", "disk.mount"])
            assert plan.lines[-2].endswith(", ".join(stopped) + ".")
            assert plan.lines[-1] == "It may also start: db.service, disk.mount."
        assert (await place.platform.plan_stop(REDIS)).reaches == []


def others(place: Stage, **units: dict[str, str]) -> None:
    """Units that the target does not list, by their relations; down unless they say otherwise."""
    known = {name if "." in name else f"{name}.service": told for name, told in units.items()}
    base = {"LoadState": "loaded", "ActiveState": "inactive"}
    place.box.change(
        lambda state: state["units"].update(
            {name: {"Names": name, **base, **told} for name, told in known.items()}
        )
    )


async def test_units_that_are_too_many_to_tell_are_unknown(tmp_path: Path) -> None:
    async with stage(tmp_path) as place:
        many = " ".join(f"u{number}.service" for number in range(300))
        place.box.set(REDIS, BoundBy=many)
        assert (await place.platform.plan_stop(REDIS)).reaches is None
