"""What the real kubectl reads from the lab's API server."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests.kubectl import Cluster, Kubectl, cluster, until


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with cluster(tmp_path_factory.mktemp("kubectl")) as found:
        yield found


@pytest.fixture
def kubectl(place: Cluster) -> Kubectl:
    return place.kubectl


def test_tables_have_the_columns_of_the_api_server(kubectl: Kubectl) -> None:
    shown = kubectl.says("get", "all,configmaps,controllerrevisions", "-o", "wide")
    heads = [" ".join(line.split()) for line in shown.splitlines() if line.startswith("NAME")]
    template = "CONTAINERS IMAGES SELECTOR"
    expected = (
        "NAME READY STATUS RESTARTS AGE IP NODE NOMINATED NODE READINESS GATES",
        f"NAME READY UP-TO-DATE AVAILABLE AGE {template}",
        f"NAME DESIRED CURRENT READY AGE {template}",
        "NAME READY AGE CONTAINERS IMAGES",
        f"NAME DESIRED CURRENT READY UP-TO-DATE AVAILABLE NODE SELECTOR AGE {template}",
        "NAME REFERENCE TARGETS MINPODS MAXPODS REPLICAS AGE",
        f"NAME STATUS COMPLETIONS DURATION AGE {template}",
        f"NAME SCHEDULE TIMEZONE SUSPEND ACTIVE LAST SCHEDULE AGE {template}",
        "NAME CONTROLLER REVISION AGE",
    )
    assert tuple(heads) == expected


@pytest.mark.parametrize(
    ("asked", "row"),
    [
        ("deployment/api", "api 3/3 3 3 3d"),
        ("statefulset/postgres", "postgres 1/1 3d"),
        ("daemonset/agent", "agent 2 2 2 2 2 <none> 3d"),
        ("pod/postgres-0", "postgres-0 1/1 Running 0 3d"),
        ("hpa/api", "api Deployment/api cpu: 42%/80% 1 10 3 3d"),
        ("job/backfill", "backfill Running 0/1 5h 5h"),
        ("cronjob/report", "report 30 6 * * 1 <none> True 0 <none> 3d"),
        ("cronjob/reindex", "reindex 15 */6 * * * <none> False 1 5h 3d"),
        ("namespace/shop", "shop Active 3d"),
    ],
)
def test_row_says_what_the_object_is(kubectl: Kubectl, asked: str, row: str) -> None:
    # Hours are shown with their minutes, once there are some.
    cells = [re.sub(r"5h\d+m", "5h", cell) for cell in kubectl.rows(asked)[0]]
    assert cells == row.split()


def test_pods_that_ended_say_how(kubectl: Kubectl) -> None:
    jobs = kubectl.get("jobs")
    ended = {
        one["metadata"]["name"]: [c["type"] for c in one["status"].get("conditions", [])][-1:]
        for one in jobs
    }
    for job, outcome in ended.items():
        if outcome:
            states = {row[2] for row in kubectl.rows("pods", "-l", f"job-name={job}")}
            assert states == {"Completed" if outcome == ["Complete"] else "Error"}


def test_list_in_chunks_is_the_list(kubectl: Kubectl) -> None:
    whole = kubectl.rows("pods")
    assert len(whole) == 15
    assert kubectl.rows("pods", "--chunk-size=2") == whole
    items = kubectl.get("pods", "--chunk-size=4")
    assert [one["metadata"]["name"] for one in items] == [row[0] for row in whole]
    assert all(one["kind"] == "Pod" for one in items)


@pytest.mark.parametrize(
    ("narrowed", "count"),
    [
        (["-l", "app=api"], 3),
        (["-l", "app in (api,worker),app!=worker"], 3),
        (["-l", "!job-name"], 10),
        (["--field-selector", "status.phase=Failed"], 2),
        (["--field-selector", "metadata.name=postgres-0", "-l", "app=postgres"], 1),
    ],
)
def test_selectors_narrow_a_list(kubectl: Kubectl, narrowed: list[str], count: int) -> None:
    assert len(kubectl.rows("pods", *narrowed)) == count


def test_object_comes_in_every_form_that_is_printed(kubectl: Kubectl) -> None:
    assert kubectl.says("get", "deployment/api", "-o", "name") == "deployment.apps/api\n"
    path = "jsonpath={.spec.replicas}"
    assert kubectl.says("get", "deployment/api", "-o", path) == "3"
    assert "kind: Deployment\n" in kubectl.says("get", "deployment/api", "-o", "yaml")
    columns = "custom-columns=N:.metadata.name,K:.kind"
    shown = kubectl.says("get", "deploy/api", "cronjob/report", "-o", columns)
    assert [line.split() for line in shown.splitlines()] == [
        ["N", "K"],
        ["api", "Deployment"],
        ["report", "CronJob"],
    ]
    scale = json.loads(kubectl.says("get", "deploy/api", "--subresource=scale", "-o", "json"))
    assert (scale["kind"], scale["spec"]) == ("Scale", {"replicas": 3})


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ("deployment/api", "Replicas:               3 desired | 3 updated | 3 total | 3 available"),
        ("statefulset/postgres", "Pods Status:            1 Running / 0 Waiting"),
        ("daemonset/agent", "Number of Nodes Scheduled with Available Pods: 2"),
        ("pod/postgres-0", "QoS Class:"),
        ("job/backfill", "Pods Statuses:    1 Active (1 Ready) / 0 Succeeded / 0 Failed"),
        ("cronjob/nightly-sync", "Schedule:                      0 2 * * *"),
        ("hpa/api", "resource cpu on pods  (as a percentage of request):  42% (42m) / 80%"),
        ("namespace/shop", "Status:       Active"),
    ],
)
def test_object_is_described(kubectl: Kubectl, asked: str, words: str) -> None:
    assert words in kubectl.says("describe", asked)


def test_logs_are_cut_as_asked(kubectl: Kubectl) -> None:
    lines = kubectl.says("logs", "-l", "app=api", "--tail=1", "--prefix").splitlines()
    assert len(lines) == 3
    assert all(line.startswith("[pod/api-") for line in lines)
    assert len(kubectl.says("logs", "postgres-0", "--limit-bytes=50")) == 50
    stamped = kubectl.says("logs", "postgres-0", "--timestamps", "--since=1h", "--tail=1")
    assert stamped[:2] == "20"
    both = kubectl.run("logs", "daemonset/agent", "--all-containers", "--prefix", "--tail=1")
    assert {line.split("]")[0].rpartition("/")[2] for line in both.out.splitlines()} == {
        "agent",
        "setup",
        "shipper",
    }
    why = kubectl.refused("logs", "postgres-0", "--previous")
    assert 'previous terminated container "postgres" in pod "postgres-0" not found' in why


def test_usage_is_shown_by_pod_and_by_container(kubectl: Kubectl) -> None:
    shown = kubectl.says("top", "pods", "-l", "app=api", "--sum", "--no-headers").splitlines()
    assert len(shown) == 5
    assert shown[-1].split()[1] == "192Mi"
    one = kubectl.says("top", "pods", "-l", "app=agent", "--containers", "--no-headers")
    assert {line.split()[1] for line in one.splitlines()} == {"agent", "shipper"}


def test_server_tells_what_it_serves(kubectl: Kubectl) -> None:
    served = {line.split()[0] for line in kubectl.says("api-versions").splitlines()}
    assert {"apps/v1", "batch/v1", "autoscaling/v2", "v1"} <= served
    assert "authorization.k8s.io/v1" in served
    kinds = kubectl.says("api-resources", "--verbs=list", "--namespaced", "-o", "name")
    assert {"pods", "deployments.apps", "cronjobs.batch"} <= set(kinds.split())
    told = json.loads(kubectl.says("version", "-o", "json"))
    assert told["serverVersion"]["gitVersion"] == "v1.36.0"
    assert kubectl.says("get", "--raw", "/readyz") == "ok"


def test_what_is_missing_or_denied_is_said_in_the_words_of_the_server(kubectl: Kubectl) -> None:
    why = kubectl.refused("get", "deployment/nothing")
    assert why == 'Error from server (NotFound): deployments.apps "nothing" not found\n'
    assert "Error from server (Forbidden)" in kubectl.refused("get", "pods", "-A")
    assert "(Forbidden)" in kubectl.refused("get", "deployment/vault", "-n", "restricted")


def test_wait_ends_when_the_condition_holds(kubectl: Kubectl) -> None:
    met = kubectl.says("wait", "pod", "-l", "app=api", "--for=condition=Ready")
    assert met.count("condition met") == 3
    path = "--for=jsonpath={.status.readyReplicas}=1"
    assert "condition met" in kubectl.says("wait", "statefulset/postgres", path)
    late = kubectl.refused("wait", "job/backfill", "--for=condition=Complete", "--timeout=0s")
    assert "condition not met" in late or "timed out" in late


def test_watch_shows_changes_and_goes_on_from_a_version(place: Cluster) -> None:
    kubectl = place.kubectl
    kubectl.says("create", "configmap", "seen", "--from-literal=a=b")
    with kubectl.start("get", "configmap/seen", "-w", "-o", "json") as watching:
        assert watching.stdout is not None
        assert _next(watching.stdout)["data"] == {"a": "b"}
        kubectl.says("patch", "configmap/seen", "--type=merge", "-p", '{"data":{"a":"c"}}')
        changed = _next(watching.stdout)
        assert changed["data"] == {"a": "c"}
        watching.terminate()
    version = changed["metadata"]["resourceVersion"]
    kubectl.says("delete", "configmap/seen")
    # What a watch sends that is begun again where the last one ended.
    query = f"watch=1&resourceVersion={version}&timeoutSeconds=1"
    again = kubectl.says("get", "--raw", f"/api/v1/namespaces/shop/configmaps?{query}")
    events = [json.loads(line) for line in again.splitlines()]
    assert [(one["type"], one["object"]["metadata"]["name"]) for one in events] == [
        ("DELETED", "seen")
    ]


def _next(stream: Any) -> Any:
    """The next object of a stream of them, which are written over many lines."""
    text = ""
    for line in stream:
        text += line
        if line == "}\n":
            return json.loads(text)
    raise AssertionError("the stream ended")


def test_watched_table_names_its_columns_once(place: Cluster) -> None:
    kubectl = place.kubectl
    with kubectl.start("get", "deployment/web", "-w") as watching:
        assert watching.stdout is not None
        assert watching.stdout.readline().split()[:2] == ["NAME", "READY"]
        assert watching.stdout.readline().split()[:2] == ["web", "2/2"]
        kubectl.says("annotate", "deployment/web", "seen=yes")
        assert watching.stdout.readline().split()[:2] == ["web", "2/2"]
        watching.terminate()


def test_streaming_list_says_where_its_initial_events_end(kubectl: Kubectl) -> None:
    path = "/apis/apps/v1/namespaces/shop/statefulsets?watch=1&timeoutSeconds=1"
    begun = "&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true"
    told = [json.loads(line) for line in kubectl.says("get", "--raw", path + begun).splitlines()]
    assert [one["type"] for one in told] == ["ADDED", "BOOKMARK"]
    ends = told[1]["object"]["metadata"]
    assert ends["annotations"] == {"k8s.io/initial-events-end": "true"}
    assert int(ends["resourceVersion"]) >= int(told[0]["object"]["metadata"]["resourceVersion"])
    for query, why in (
        ("&sendInitialEvents=true", "sendInitialEvents requires setting resourceVersionMatch"),
        ("&resourceVersionMatch=NotOlderThan", "unless sendInitialEvents is provided"),
    ):
        assert why in kubectl.refused("get", "--raw", path + query)


def test_ended_and_failing_pods_are_told_in_events_logs_and_rows(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    with cluster(tmp_path_factory.mktemp("broken")) as place:
        kubectl = place.kubectl
        for fault in ("bad-release", "image-pull", "unschedulable"):
            place.inject(fault)
        rows = until(lambda: _crashed(kubectl))
        assert int(rows[0][3]) > 0
        assert rows[0][5].startswith("ago")
        why = kubectl.says("logs", rows[0][0], "--previous")
        assert "KeyError: 'PAYMENTS_URL'" in why
        states = {row[2] for row in kubectl.rows("pods", "-l", "app in (web,worker)")}
        assert states & {"ErrImagePull", "ImagePullBackOff"}
        assert "Pending" in states
        until(lambda: {"BackOff", "FailedScheduling"} <= _warnings(kubectl))
        listed = kubectl.says("get", "events", "--field-selector=type=Warning", "--no-headers")
        assert f"pod/{rows[0][0]}" in listed
        assert "Back-off restarting failed container" in kubectl.says("describe", "pod", rows[0][0])


def _warnings(kubectl: Kubectl) -> set[str]:
    return set(kubectl.says("events", "--types=Warning", "--no-headers").split())


def _crashed(kubectl: Kubectl) -> list[list[str]]:
    rows = kubectl.rows("pods", "-l", "app=api")
    return [row for row in rows if row[2] == "CrashLoopBackOff" and row[3] != "0"]


def test_log_is_followed_until_the_container_ends(place: Cluster) -> None:
    kubectl = place.kubectl
    kubectl.says("create", "job", "short", "--image=lab/short:1")
    until(lambda: kubectl.run("logs", "job/short").code == 0)
    followed = kubectl.says("logs", "job/short", "--follow")
    assert 'msg="starting" image=lab/short:1' in followed
    assert kubectl.rows("job/short")[0][1] == "Complete"
