"""What the real kubectl writes to the lab's API server, and what it may do there."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from anyio.from_thread import start_blocking_portal

from mcp_ops.lab.kubernetes.roles import Role, Rule
from tests.adapters.kubernetes_access import behind_tls
from tests.deploy.tools import ROOT
from tests.kubectl import Cluster, Kubectl, cluster, configured
from tests.lab.kubernetes_serving import served

RIGHTS = ROOT / "deploy" / "kubernetes"
MANIFESTS = sorted(RIGHTS.glob("rbac-*.yaml"))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with cluster(tmp_path_factory.mktemp("kubectl")) as found:
        yield found


@pytest.fixture
def kubectl(place: Cluster) -> Kubectl:
    return place.kubectl


def manifest(name: str, replicas: int = 1, image: str = "lab/x:1") -> str:
    """A deployment to be applied."""
    labels = {"app": name}
    spec = {
        "replicas": replicas,
        "selector": {"matchLabels": labels},
        "template": {
            "metadata": {"labels": labels},
            "spec": {"containers": [{"name": "main", "image": image}]},
        },
    }
    meta = {"name": name}
    return json.dumps(
        {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": meta, "spec": spec}
    )


def made(kubectl: Kubectl, name: str, replicas: int = 1) -> str:
    """A deployment of a test's own, complete."""
    kubectl.says("create", "-f", "-", given=manifest(name, replicas))
    kubectl.says("rollout", "status", f"deployment/{name}")
    return f"deployment/{name}"


def revisions(kubectl: Kubectl, workload: str) -> dict[str, str]:
    """The versions that kubectl knows, with why they were made."""
    lines = kubectl.says("rollout", "history", workload).splitlines()[2:]
    return dict(line.split(maxsplit=1) for line in lines if line)


def image(kubectl: Kubectl, workload: str) -> str:
    return kubectl.says("get", workload, "-o", "jsonpath={.spec.template.spec.containers[0].image}")


def test_rollout_goes_forth_and_back_with_its_history(kubectl: Kubectl) -> None:
    app = made(kubectl, "history")
    kubectl.says("set", "image", app, "main=lab/x:2")
    kubectl.says("annotate", app, "kubernetes.io/change-cause=ticket 7")
    assert "successfully rolled out" in kubectl.says("rollout", "status", app)
    assert revisions(kubectl, app) == {"1": "<none>", "2": "ticket 7"}
    assert "lab/x:1" in kubectl.says("rollout", "history", app, "--revision=1")
    assert "server dry run" in kubectl.says("rollout", "undo", app, "--dry-run=server")
    assert image(kubectl, app) == "lab/x:2"
    kubectl.says("rollout", "undo", app)
    kubectl.says("rollout", "status", app)
    assert image(kubectl, app) == "lab/x:1"
    assert revisions(kubectl, app) == {"2": "ticket 7", "3": "<none>"}
    assert "unable to find specified revision 9" in kubectl.refused(
        "rollout", "undo", app, "--to-revision=9"
    )


@pytest.mark.parametrize("workload", ["statefulset/postgres", "daemonset/agent"])
def test_restart_of_the_other_kinds_is_followed_and_taken_back(
    kubectl: Kubectl, workload: str
) -> None:
    kubectl.says("rollout", "restart", workload)
    kubectl.says("rollout", "status", workload)
    assert set(revisions(kubectl, workload)) == {"1", "2"}
    restarted = "jsonpath={.spec.template.metadata.annotations}"
    assert "restartedAt" in kubectl.says("get", workload, "-o", restarted)
    kubectl.says("rollout", "undo", workload)
    kubectl.says("rollout", "status", workload)
    assert kubectl.says("get", workload, "-o", restarted) == ""
    assert set(revisions(kubectl, workload)) == {"2", "3"}


def test_paused_rollout_waits_until_it_is_resumed(kubectl: Kubectl) -> None:
    app = made(kubectl, "paused")
    kubectl.says("rollout", "pause", app)
    kubectl.says("set", "image", app, "main=lab/x:2")
    assert "can't restart paused deployment" in kubectl.refused("rollout", "restart", app)
    waits = kubectl.says("rollout", "status", app, "--watch=false")
    assert "0 out of 1 new replicas have been updated" in waits
    kubectl.says("rollout", "resume", app)
    assert "successfully rolled out" in kubectl.says("rollout", "status", app)
    assert "is not paused" in kubectl.refused("rollout", "resume", app)


def test_scale_respects_the_number_that_was_expected(kubectl: Kubectl) -> None:
    app = made(kubectl, "scaled")
    kubectl.says("scale", app, "--replicas=3", "--current-replicas=1")
    assert "Expected replicas to be 1, was 3" in kubectl.refused(
        "scale", app, "--replicas=2", "--current-replicas=1"
    )
    assert "server dry run" in kubectl.says("scale", app, "--replicas=0", "--dry-run=server")
    kubectl.says("rollout", "status", app)
    assert kubectl.rows(app)[0][1] == "3/3"


def test_settings_and_sizes_are_changed_and_rehearsed(kubectl: Kubectl) -> None:
    app = made(kubectl, "settings")
    kubectl.says("set", "env", app, "A=b")
    kubectl.says("set", "env", app, "A=c", "--dry-run=server")
    assert "A=b" in kubectl.says("set", "env", app, "--list").splitlines()
    kubectl.says("set", "resources", app, "--limits=memory=300Mi", "--requests=cpu=50m")
    container = kubectl.get(app)["spec"]["template"]["spec"]["containers"][0]
    assert container["env"] == [{"name": "A", "value": "b"}]
    # What has a limit and no request asks for its limit: so the API server fills it in.
    sizes = {"limits": {"memory": "300Mi"}, "requests": {"cpu": "50m", "memory": "300Mi"}}
    assert container["resources"] == sizes
    kubectl.says("set", "env", app, "A-")
    assert "A=b" not in kubectl.says("set", "env", app, "--list")


def test_autoscaler_is_made_and_changed(kubectl: Kubectl) -> None:
    app = made(kubectl, "grown")
    kubectl.says("autoscale", app, "--min=2", "--max=3", "--cpu=50%")
    spec = kubectl.get("hpa/grown")["spec"]
    assert (spec["minReplicas"], spec["maxReplicas"]) == (2, 3)
    target = {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}
    assert spec["metrics"] == [{"type": "Resource", "resource": target}]
    kubectl.says("wait", app, "--for=jsonpath={.status.readyReplicas}=2")
    kubectl.says("patch", "hpa/grown", "--type=merge", "-p", '{"spec":{"maxReplicas":7}}')
    assert kubectl.get("hpa/grown")["spec"]["maxReplicas"] == 7


def test_patch_of_an_old_version_is_a_conflict(kubectl: Kubectl) -> None:
    app = made(kubectl, "conflict")
    patch = json.dumps({"metadata": {"resourceVersion": "1"}, "spec": {"replicas": 2}})
    why = kubectl.refused("patch", app, "--type=merge", "-p", patch)
    assert "(Conflict)" in why
    assert "the object has been modified" in why


def test_server_side_apply_names_who_owns_the_field(kubectl: Kubectl) -> None:
    apply = ("apply", "--server-side", "-f", "-")
    kubectl.says(*apply, given=manifest("owned"))
    kubectl.says("scale", "deployment/owned", "--replicas=2")
    why = kubectl.refused(*apply, given=manifest("owned", 3))
    assert 'conflict with "kubectl" with subresource "scale"' in why
    assert ".spec.replicas" in why
    forced = (*apply, "--force-conflicts")
    assert "server dry run" in kubectl.says(*forced, "--dry-run=server", given=manifest("owned", 3))
    assert kubectl.get("deployment/owned")["spec"]["replicas"] == 2
    kubectl.says(*forced, given=manifest("owned", 3))
    found = kubectl.get("deployment/owned")
    assert found["spec"]["replicas"] == 3
    kinds = [(one["manager"], one["operation"]) for one in found["metadata"]["managedFields"]]
    assert ("kubectl", "Apply") in kinds


def test_client_side_apply_creates_configures_and_leaves_alone(kubectl: Kubectl) -> None:
    apply = ("apply", "-f", "-")
    for replicas, outcome in ((1, "created"), (2, "configured"), (2, "unchanged")):
        said = kubectl.says(*apply, given=manifest("applied", replicas))
        assert said == f"deployment.apps/applied {outcome}\n"
    assert kubectl.get("deployment/applied")["spec"]["replicas"] == 2


def test_unknown_field_is_refused_before_anything_is_stored(kubectl: Kubectl) -> None:
    wrong = json.loads(manifest("wrong"))
    wrong["spec"]["replica"] = 2
    why = kubectl.refused("apply", "-f", "-", given=json.dumps(wrong))
    assert 'unknown field "spec.replica"' in why
    assert "(NotFound)" in kubectl.refused("get", "deployment/wrong")


def test_job_from_a_schedule_is_the_schedules_template(kubectl: Kubectl) -> None:
    schedule = {
        "apiVersion": "batch/v1",
        "kind": "CronJob",
        "metadata": {"name": "rich"},
        "spec": {"schedule": "0 0 * * *", "jobTemplate": {"spec": RICH}},
    }
    kubectl.says("apply", "-f", "-", given=json.dumps(schedule))
    kubectl.says("create", "job", "by-hand", "--from=cronjob/rich", "--dry-run=server")
    assert "(NotFound)" in kubectl.refused("get", "job/by-hand")
    kubectl.says("create", "job", "by-hand", "--from=cronjob/rich")
    wanted = kubectl.get("cronjob/rich")
    found = kubectl.get("job/by-hand")
    # What kubectl sends in protobuf is, field by field, what was applied as JSON.
    template = wanted["spec"]["jobTemplate"]["spec"]
    kept = {key: found["spec"][key] for key in template if key != "template"}
    assert kept == {"backoffLimit": 0, "suspend": True, "ttlSecondsAfterFinished": 60}
    assert found["spec"]["template"]["spec"] == template["template"]["spec"]
    owner = found["metadata"]["ownerReferences"][0]
    assert (owner["kind"], owner["uid"]) == ("CronJob", wanted["metadata"]["uid"])
    assert found["metadata"]["annotations"] == {"cronjob.kubernetes.io/instantiate": "manual"}
    assert found["metadata"]["managedFields"][0]["manager"] == "kubectl-create"


RICH: dict[str, Any] = {
    "backoffLimit": 0,
    "suspend": True,
    "ttlSecondsAfterFinished": 60,
    "template": {
        "metadata": {"labels": {"team": "ops"}, "annotations": {"note": "x"}},
        "spec": {
            "restartPolicy": "Never",
            "serviceAccountName": "runner",
            "nodeSelector": {"disk": "ssd"},
            "initContainers": [{"name": "first", "image": "lab/first:1", "args": ["-v"]}],
            "containers": [
                {
                    "name": "main",
                    "image": "lab/main:1",
                    "command": ["run", "--all"],
                    "workingDir": "/srv",
                    "ports": [{"containerPort": 8080, "name": "web"}],
                    "env": [
                        {"name": "A", "value": "b"},
                        {
                            "name": "S",
                            "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}},
                        },
                        {
                            "name": "C",
                            "valueFrom": {
                                "configMapKeyRef": {"name": "c", "key": "k", "optional": False}
                            },
                        },
                    ],
                    "resources": {"limits": {"memory": "256Mi", "cpu": "1"}},
                }
            ],
        },
    },
}


def test_schedule_is_suspended_and_its_run_deleted(kubectl: Kubectl) -> None:
    patch = ("patch", "cronjob/nightly-sync", "-p", '{"spec":{"suspend":true}}')
    kubectl.says(*patch, "--dry-run=server")
    assert kubectl.rows("cronjob/nightly-sync")[0][7] == "False"
    kubectl.says(*patch)
    assert kubectl.rows("cronjob/nightly-sync")[0][7] == "True"
    kubectl.says("delete", "job/backfill", "--dry-run=server")
    kubectl.says("delete", "job/backfill")
    kubectl.says("wait", "pod", "-l", "job-name=backfill", "--for=delete")
    assert "(NotFound)" in kubectl.refused("get", "job/backfill")


def test_deleted_pod_is_waited_for_and_replaced(kubectl: Kubectl) -> None:
    before = kubectl.get("pod/postgres-0")["metadata"]["uid"]
    kubectl.says("delete", "pod/postgres-0", "--dry-run=server")
    assert kubectl.get("pod/postgres-0")["metadata"]["uid"] == before
    kubectl.says("delete", "pod/postgres-0")
    kubectl.says("rollout", "status", "statefulset/postgres")
    kubectl.says("wait", "pod/postgres-0", "--for=create")
    kubectl.says("wait", "pod/postgres-0", "--for=condition=Ready")
    assert kubectl.get("pod/postgres-0")["metadata"]["uid"] != before


def test_what_the_lab_does_not_read_in_protobuf_is_refused_by_name(kubectl: Kubectl) -> None:
    why = kubectl.refused("create", "deployment", "new", "--image=lab/x:1")
    assert "unknown format" in why
    rich = {"volumes": [{"name": "v", "emptyDir": {}}]}
    pod = {"restartPolicy": "Never", "containers": [{"name": "m", "image": "x"}], **rich}
    spec = {"schedule": "0 0 * * *", "jobTemplate": {"spec": {"template": {"spec": pod}}}}
    schedule = {"apiVersion": "batch/v1", "kind": "CronJob", "spec": spec}
    named = json.dumps({**schedule, "metadata": {"name": "volumes"}})
    kubectl.says("apply", "-f", "-", given=named)
    why = kubectl.refused("create", "job", "none", "--from=cronjob/volumes")
    assert "the lab does not read field 1 of a PodSpec in protobuf" in why


def test_manifests_of_rights_are_accepted(kubectl: Kubectl) -> None:
    names = {
        f"{one['kind'].lower()}.rbac.authorization.k8s.io/{one['metadata']['name']}"
        for file in MANIFESTS
        for one in objects(file)
    }
    assert len(names) == 8
    apply = ("apply", "-f", str(RIGHTS))
    for more, outcome in (
        (["--dry-run=client"], "created (dry run)"),
        (["--dry-run=server"], "created (server dry run)"),
        ([], "created"),
        ([], "unchanged"),
    ):
        said = kubectl.says(*apply, *more).splitlines()
        assert sorted(said) == sorted(f"{name} {outcome}" for name in names)


def objects(file: Path) -> list[Any]:
    return list(yaml.safe_load_all(file.read_text(encoding="utf-8")))


def test_account_can_do_what_its_manifests_grant_and_no_more(tmp_path: Path) -> None:
    rules = [rule for file in MANIFESTS for one in objects(file) for rule in one.get("rules", [])]
    role = Role(
        user="system:serviceaccount:mcp-ops:mcp-ops",
        rules=tuple(
            Rule(
                groups=tuple(rule["apiGroups"]),
                resources=tuple(rule["resources"]),
                verbs=tuple(rule["verbs"]),
            )
            for rule in rules
        ),
    )
    served_here = served(tmp_path, token="operator", roles={"account": role})
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(served_here) as lab,
        portal.wrap_async_context_manager(
            behind_tls(tmp_path, lab.url, certificates=False)
        ) as front,
    ):
        kubectl = configured(tmp_path, front.url, "account", front.authority.pem)
        listed = kubectl.says("auth", "can-i", "--list", "--no-headers")
        granted = {line.split()[0] for line in listed.splitlines()}
        assert {"deployments.apps", "pods/log", "jobs.batch", "cronjobs.batch"} <= granted
        can = ("auth", "can-i")
        assert kubectl.says(*can, "patch", "deployments") == "yes\n"
        assert kubectl.says(*can, "get", "pods", "--subresource=log") == "yes\n"
        assert kubectl.says(*can, "create", "pods", "--subresource=eviction") == "yes\n"
        for verb, resource in (("delete", "deployments"), ("create", "deployments")):
            assert kubectl.run(*can, verb, resource).out == "no\n"
        assert kubectl.rows("deployment/api")[0][0] == "api"
        assert "(Forbidden)" in kubectl.refused("delete", "deployment/api")
        kubectl.says("rollout", "restart", "deployment/api")
