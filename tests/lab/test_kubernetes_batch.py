"""Jobs, cron jobs, autoscalers and kept revisions in the lab's Kubernetes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.lab.kubernetes_serving import (
    APPS,
    BATCH,
    CORE,
    MERGE,
    SCALERS,
    Lab,
    condition,
    served,
    told,
    until,
)

RESTARTED = "kubectl.kubernetes.io/restartedAt"


def job(name: str, image: str = "lab/task:1", **spec: Any) -> dict[str, Any]:
    container: dict[str, Any] = {"name": "main", "image": image}
    if spec.pop("forever", False):
        container["env"] = [{"name": "LAB_RUN", "value": "forever"}]
    template = {"spec": {"restartPolicy": "Never", "containers": [container]}}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name},
        "spec": {"template": template, **spec},
    }


async def ended(lab: Lab, name: str, kind: str) -> Any:
    found: Any = {}

    async def holds() -> bool:
        found.update(await lab.get(f"{BATCH}/jobs/{name}"))
        return condition(found, kind)[0] == "True"

    await until(holds)
    return found


async def test_seeded_jobs_have_a_past_and_a_present(tmp_path: Path) -> None:
    async with served(tmp_path) as lab:
        crons = {
            one["metadata"]["name"]: one for one in (await lab.get(f"{BATCH}/cronjobs"))["items"]
        }
        assert set(crons) == {"nightly-sync", "report", "reindex"}
        assert crons["report"]["spec"]["suspend"] is True
        assert crons["nightly-sync"]["status"]["lastSuccessfulTime"]
        active = crons["reindex"]["status"]["active"][0]
        jobs = (await lab.get(f"{BATCH}/jobs"))["items"]
        nights = [one for one in jobs if one["metadata"]["name"].startswith("nightly-sync-")]
        assert sorted(condition(one, "Failed")[0] for one in nights) == ["", "True"]
        owner = nights[0]["metadata"]["ownerReferences"][0]
        assert (owner["kind"], owner["name"], owner["controller"]) == (
            "CronJob",
            "nightly-sync",
            True,
        )
        running = {one["metadata"]["name"]: one for one in jobs if one["status"].get("active")}
        assert set(running) == {"backfill", active["name"]}
        phases = [(await lab.pods(f"job-name={one['metadata']['name']}")) for one in nights]
        assert {pod["status"]["phase"] for pods in phases for pod in pods} == {
            "Failed",
            "Succeeded",
        }


async def test_a_job_made_by_hand_runs_to_its_end(tmp_path: Path) -> None:
    async with served(tmp_path) as lab:
        made = (await lab.http.post(f"{BATCH}/jobs", json=job("once"))).json()
        uid = made["metadata"]["uid"]
        assert made["spec"]["selector"]["matchLabels"] == {
            "batch.kubernetes.io/controller-uid": uid
        }
        assert (made["spec"]["backoffLimit"], made["spec"]["completions"]) == (6, 1)
        done = await ended(lab, "once", "Complete")
        assert done["status"]["succeeded"] == 1
        assert condition(done, "Complete") == ("True", "CompletionsReached")
        pod = (await lab.pods("batch.kubernetes.io/job-name=once"))[0]
        assert pod["status"]["phase"] == "Succeeded"
        state = pod["status"]["containerStatuses"][0]["state"]["terminated"]
        assert (state["exitCode"], state["reason"]) == (0, "Completed")
        assert condition(pod, "Ready") == ("False", "PodCompleted")
        effects = lab.effects()
        assert effects.index("client.create") < effects.index("controller.job_completed")
        assert await lab.events("once") == {"SuccessfulCreate", "Completed"}


async def test_a_job_that_cannot_run_fails_at_its_backoff_limit(tmp_path: Path) -> None:
    async with served(tmp_path) as lab:
        broken = job("bad", "lab/task:1-broken", backoffLimit=1)
        assert (await lab.http.post(f"{BATCH}/jobs", json=broken)).status_code == 201
        failed = await ended(lab, "bad", "Failed")
        assert condition(failed, "Failed") == ("True", "BackoffLimitExceeded")
        assert failed["status"]["failed"] == 2
        pod = (await lab.pods("job-name=bad"))[0]
        state = pod["status"]["containerStatuses"][0]["state"]["terminated"]
        assert (pod["status"]["phase"], state["exitCode"]) == ("Failed", 1)
        log = await lab.http.get(f"{CORE}/pods/{pod['metadata']['name']}/log")
        assert "KeyError" in log.text


async def test_a_job_past_its_deadline_fails_and_loses_its_pods(tmp_path: Path) -> None:
    clock = [1_800_000_000.0]
    async with served(tmp_path, clock=lambda: clock[0]) as lab:
        slow = job("slow", forever=True, activeDeadlineSeconds=60)
        await lab.http.post(f"{BATCH}/jobs", json=slow)

        async def active() -> bool:
            return bool((await lab.get(f"{BATCH}/jobs/slow"))["status"].get("ready"))

        await until(active)
        clock[0] += 61
        failed = await ended(lab, "slow", "Failed")
        assert condition(failed, "Failed") == ("True", "DeadlineExceeded")
        assert "active" not in failed["status"]
        assert await lab.pods("job-name=slow") == []


async def test_a_suspended_job_has_no_pods_until_it_is_resumed(tmp_path: Path) -> None:
    path = f"{BATCH}/jobs/backfill"
    async with served(tmp_path) as lab:
        answer = await lab.patch(path, {"spec": {"suspend": True}})
        assert answer.json()["metadata"]["generation"] == 2
        stopped = await ended(lab, "backfill", "Suspended")
        assert "startTime" not in stopped["status"]
        assert await lab.pods("job-name=backfill") == []
        await lab.patch(path, {"spec": {"suspend": False}})

        async def resumed() -> bool:
            found = await lab.get(path)
            again = condition(found, "Suspended") == ("False", "JobResumed")
            return again and bool(found["status"].get("ready"))

        await until(resumed)
        effects = [one for one in lab.effects() if one.startswith("controller.job_")]
        assert effects == ["controller.job_suspended", "controller.job_resumed"]


@pytest.mark.parametrize("policy", ["Background", "Orphan", ""])
async def test_a_deleted_job_takes_its_pods_along_only_when_told_to(
    tmp_path: Path, policy: str
) -> None:
    async with served(tmp_path) as lab:
        answer = await lab.delete(f"{BATCH}/jobs/backfill", policy)
        assert answer.json()["status"] == "Success"
        assert ("warning" in answer.headers) == (policy == "")
        if policy == "Background":

            async def gone() -> bool:
                return not await lab.pods("job-name=backfill")

            await until(gone)
            return
        left = (await lab.pods("job-name=backfill"))[0]
        assert "ownerReferences" not in left["metadata"]


async def test_a_job_made_from_a_cron_job_is_its_own_but_not_its_active_one(tmp_path: Path) -> None:
    async with served(tmp_path) as lab:
        cron = await lab.get(f"{BATCH}/cronjobs/nightly-sync")
        owner: dict[str, Any] = {
            "apiVersion": "batch/v1",
            "kind": "CronJob",
            "name": "nightly-sync",
        }
        owner |= {"uid": cron["metadata"]["uid"], "controller": True}
        by_hand = {"cronjob.kubernetes.io/instantiate": "manual"}
        made = {
            "metadata": {"name": "by-hand", "annotations": by_hand, "ownerReferences": [owner]},
            "spec": cron["spec"]["jobTemplate"]["spec"],
        }
        assert (await lab.http.post(f"{BATCH}/jobs", json=made)).status_code == 201
        await ended(lab, "by-hand", "Complete")
        after = await lab.get(f"{BATCH}/cronjobs/nightly-sync")
        assert after["status"] == cron["status"]
        assert "UnexpectedJob" in await lab.events("nightly-sync")


async def test_cron_jobs_are_suspended_and_take_their_jobs_along(tmp_path: Path) -> None:
    path = f"{BATCH}/cronjobs/reindex"
    async with served(tmp_path) as lab:
        answer = await lab.patch(path, {"spec": {"suspend": True}}, MERGE)
        assert (answer.json()["spec"]["suspend"], answer.json()["metadata"]["generation"]) == (
            True,
            2,
        )
        line = lab.stand_in.log.read()[0]
        assert (line["kind"], line["changed"]) == ("CronJob", {"spec.suspend": True})
        running = (await lab.get(path))["status"]["active"][0]["name"]
        await lab.delete(f"{BATCH}/jobs/{running}", "Background")

        async def idle() -> bool:
            return "active" not in (await lab.get(path))["status"]

        await until(idle)
        await lab.delete(f"{BATCH}/cronjobs/nightly-sync")

        async def gone() -> bool:
            left = (await lab.get(f"{BATCH}/jobs"))["items"]
            return {one["metadata"]["name"] for one in left} == {"backfill"}

        await until(gone)


async def test_objects_that_cannot_be_are_refused(tmp_path: Path) -> None:
    async with served(tmp_path) as lab:
        always = job("x")
        always["spec"]["template"]["spec"]["restartPolicy"] = "Always"
        moved = {"spec": {"completions": 7}}
        cron = {"metadata": {"name": "c"}, "spec": {"jobTemplate": {"spec": job("c")["spec"]}}}
        spec = {"maxReplicas": 1, "minReplicas": 3, "scaleTargetRef": {"kind": "Deployment"}}
        for path, body, field in (
            (f"{BATCH}/jobs", always, "spec.template.spec.restartPolicy"),
            (f"{BATCH}/cronjobs", cron, "spec.schedule"),
            (SCALERS, {"metadata": {"name": "h"}, "spec": spec}, "spec.maxReplicas"),
        ):
            refused = await lab.http.post(path, json=body)
            assert told(refused) == (422, "Invalid")
            assert field in [c["field"] for c in refused.json()["details"]["causes"]]
        assert told(await lab.patch(f"{BATCH}/jobs/backfill", moved)) == (422, "Invalid")
        unreadable: list[Any] = [{"suspend": "yes"}, {"parallelism": 1.5}, {"template": []}]
        for wrong in unreadable:
            refused = await lab.patch(f"{BATCH}/jobs/backfill", {"spec": wrong}, MERGE)
            assert told(refused) == (400, "BadRequest")
        gone = "/apis/autoscaling/v1/namespaces/shop/horizontalpodautoscalers"
        assert (await lab.http.get(gone)).text == "404 page not found\n"
        assert lab.effects() == []


async def test_an_autoscaler_holds_its_target_within_bounds(tmp_path: Path) -> None:
    path = f"{SCALERS}/api"
    async with served(tmp_path) as lab:
        assert (await lab.get(path))["status"]["currentReplicas"] == 3
        await lab.patch(path, {"spec": {"minReplicas": 4, "maxReplicas": 5}})

        async def raised() -> bool:
            found = await lab.get(path)
            counts = found["status"]["currentReplicas"], found["status"]["desiredReplicas"]
            return (
                counts == (4, 4)
                and (await lab.get(f"{APPS}/deployments/api"))["status"].get("readyReplicas") == 4
            )

        await until(raised)
        assert "SuccessfulRescale" in await lab.events("api")
        await lab.patch(f"{APPS}/deployments/api/scale", {"spec": {"replicas": 9}})

        async def lowered() -> bool:
            return bool((await lab.get(f"{APPS}/deployments/api"))["spec"]["replicas"] == 5)

        await until(lowered)
        scaled = [
            one for one in lab.stand_in.log.read() if one["effect"] == "controller.autoscaled"
        ]
        assert [(one["before"], one["replicas"]) for one in scaled] == [(3, 4), (9, 5)]
        lab.stand_in.inject("no-metrics")

        async def blind() -> bool:
            told = condition(await lab.get(path), "ScalingActive")
            return told == ("False", "FailedGetResourceMetric")

        await until(blind)
        await lab.patch(f"{APPS}/deployments/api/scale", {"spec": {"replicas": 0}})

        async def off() -> bool:
            return condition(await lab.get(path), "ScalingActive") == ("False", "ScalingDisabled")

        await until(off)


@pytest.mark.parametrize(
    ("plural", "name"), [("statefulsets", "postgres"), ("daemonsets", "agent")]
)
async def test_former_templates_are_kept_as_revisions(
    tmp_path: Path, plural: str, name: str
) -> None:
    path, kept = f"{APPS}/{plural}/{name}", f"{APPS}/controllerrevisions"
    async with served(tmp_path) as lab:

        async def numbers() -> dict[int, Any]:
            found = (await lab.get(kept, labelSelector=f"app={name}"))["items"]
            return {one["revision"]: one for one in found}

        first = (await numbers())[1]
        assert first["metadata"]["ownerReferences"][0]["name"] == name
        assert first["data"]["spec"]["template"]["$patch"] == "replace"
        notes = {"metadata": {"annotations": {RESTARTED: "now"}}}
        await lab.patch(path, {"spec": {"template": notes}})

        async def second() -> bool:
            return set(await numbers()) == {1, 2}

        await until(second)
        await lab.patch(path, first["data"])

        async def back() -> bool:
            found = await numbers()
            again = set(found) == {2, 3} and found[3]["metadata"]["uid"] == first["metadata"]["uid"]
            pods = await lab.pods(f"app={name}")
            labels = {pod["metadata"]["labels"]["controller-revision-hash"] for pod in pods}
            return again and len(labels) == 1 and first["metadata"]["name"].endswith(labels.pop())

        await until(back)


async def test_replica_sets_carry_number_history_and_cause(tmp_path: Path) -> None:
    path, cause = f"{APPS}/deployments/web", "kubernetes.io/change-cause"
    prefix = "deployment.kubernetes.io/"
    async with served(tmp_path) as lab:
        before = (await lab.get(path))["spec"]["template"]
        image = [{"name": "web", "image": "lab/shop-web:5.1.0"}]
        notes = {"annotations": {cause: "version 5.1.0"}}
        patch = {"metadata": notes, "spec": {"template": {"spec": {"containers": image}}}}
        await lab.patch(path, patch)

        async def sets() -> dict[str, Any]:
            found = (await lab.get(f"{APPS}/replicasets", labelSelector="app=web"))["items"]
            notes = [one["metadata"]["annotations"] for one in found]
            return {one[f"{prefix}revision"]: one for one in notes}

        async def second() -> bool:
            return "2" in await sets()

        await until(second)
        assert (await sets())["2"][cause] == "version 5.1.0"
        assert cause not in (await sets())["1"]
        back = [{"op": "replace", "path": "/spec/template", "value": before}]
        await lab.patch(path, back, "application/json-patch+json")

        async def third() -> bool:
            found = await sets()
            return "3" in found and found["3"][f"{prefix}revision-history"] == "1"

        await until(third)
        await lab.patch(path, {"spec": {"revisionHistoryLimit": 0}})

        async def forgotten() -> bool:
            return set(await sets()) == {"3"}

        await until(forgotten)
