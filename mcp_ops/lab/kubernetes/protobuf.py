"""Bodies in the binary form in which kubectl sends the objects that it makes itself.

Only what kubectl can mean with the kinds here is known: access reviews, jobs, autoscalers and
config maps. A field that is not listed is refused by its number rather than lost. Facts: the
`generated.proto` files of k8s.io/api and the envelope of "Kubernetes API Concepts".
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any, Final

from mcp_ops.lab.kubernetes.kinds import Obj
from mcp_ops.lab.kubernetes.status import bad_request, unsupported_media_type
from mcp_ops.lab.kubernetes.store import rfc3339

PROTOBUF: Final = "application/vnd.kubernetes.protobuf"
_MAGIC: Final = b"k8s\0"
_KINDS: Final = {
    "ConfigMap",
    "HorizontalPodAutoscaler",
    "Job",
    "SelfSubjectAccessReview",
    "SelfSubjectRulesReview",
}
# Number, name and type of each field: `s`tring, `i`nteger, `b`ool, b`y`tes or a message; `[]` a
# list, `{}` a map from strings. After `*` a zero is a value, else it stands for nothing. The
# fields of a message after `.` belong to the message around it.
_WRITTEN: Final = """
Unknown: 1 typeMeta TypeMeta, 2 raw y, 3 contentEncoding s, 4 contentType s
TypeMeta: 1 apiVersion s, 2 kind s
SelfSubjectAccessReview: 1 metadata ObjectMeta, 2 spec AccessSpec, 3 status Ignored
AccessSpec: 1 resourceAttributes Attributes, 2 nonResourceAttributes NonResource
Attributes: 1 namespace s, 2 verb s, 3 group s, 4 version s, 5 resource s, 6 subresource s, 7 name s
NonResource: 1 path s, 2 verb s
SelfSubjectRulesReview: 1 metadata ObjectMeta, 2 spec RulesSpec, 3 status Ignored
RulesSpec: 1 namespace s
ObjectMeta: 1 name s, 2 generateName s, 3 namespace s, 4 selfLink s, 5 uid s, 6 resourceVersion s, \
7 generation i, 8 creationTimestamp Time, 11 labels {}s, 12 annotations {}s, \
13 ownerReferences []OwnerReference, 14 finalizers []s
OwnerReference: 1 kind s, 3 name s, 4 uid s, 5 apiVersion s, 6 controller *b, \
7 blockOwnerDeletion *b
ConfigMap: 1 metadata ObjectMeta, 2 data {}s, 3 binaryData {}y, 4 immutable *b
Job: 1 metadata ObjectMeta, 2 spec JobSpec, 3 status Ignored
JobSpec: 1 parallelism *i, 2 completions *i, 3 activeDeadlineSeconds *i, 4 selector LabelSelector, \
5 manualSelector *b, 6 template PodTemplate, 7 backoffLimit *i, 8 ttlSecondsAfterFinished *i, \
9 completionMode s, 10 suspend *b, 14 podReplacementPolicy s
LabelSelector: 1 matchLabels {}s
PodTemplate: 1 metadata ObjectMeta, 2 spec PodSpec
PodSpec: 2 containers []Container, 3 restartPolicy s, 4 terminationGracePeriodSeconds *i, \
5 activeDeadlineSeconds *i, 6 dnsPolicy s, 7 nodeSelector {}s, 8 serviceAccountName s, \
9 serviceAccount s, 10 nodeName s, 11 hostNetwork b, 12 hostPID b, 13 hostIPC b, \
14 securityContext Empty, 16 hostname s, 17 subdomain s, 19 schedulerName s, \
20 initContainers []Container, 24 priorityClassName s
Container: 1 name s, 2 image s, 3 command []s, 4 args []s, 5 workingDir s, 6 ports []Port, \
7 env []EnvVar, 8 resources Resources, 13 terminationMessagePath s, 14 imagePullPolicy s, \
16 stdin b, 17 stdinOnce b, 18 tty b, 20 terminationMessagePolicy s, 24 restartPolicy s
Port: 1 name s, 2 hostPort i, 3 containerPort i, 4 protocol s, 5 hostIP s
EnvVar: 1 name s, 2 value s, 3 valueFrom EnvSource
EnvSource: 3 configMapKeyRef KeyRef, 4 secretKeyRef KeyRef
KeyRef: 1 . Named, 2 key s, 3 optional *b
Named: 1 name s
Resources: 1 limits {}Quantity, 2 requests {}Quantity
HorizontalPodAutoscaler: 1 metadata ObjectMeta, 2 spec ScalerSpec, 3 status Ignored
ScalerSpec: 1 scaleTargetRef Reference, 2 minReplicas *i, 3 maxReplicas i, 4 metrics []Metric
Reference: 1 kind s, 2 name s, 3 apiVersion s
Metric: 1 type s, 4 resource ResourceMetric
ResourceMetric: 1 name s, 2 target Target
Target: 1 type s, 2 value Quantity, 3 averageValue Quantity, 4 averageUtilization *i
Quantity: 1 string s
Time: 1 seconds i, 2 nanos i
Empty:
"""
_Field = tuple[str, str]


def _tables() -> dict[str, dict[int, _Field]]:
    tables: dict[str, dict[int, _Field]] = {}
    for line in _WRITTEN.strip().splitlines():
        message, _, fields = line.partition(":")
        parts = [field.split() for field in fields.split(",") if field.strip()]
        tables[message] = {int(number): (name, kind) for number, name, kind in parts}
    return tables


_TABLES: Final = _tables()


def parse_protobuf(body: bytes) -> Obj:
    """The object of a body, as its JSON form would be."""
    if not body.startswith(_MAGIC):
        raise bad_request("provided data does not appear to be a protobuf message")
    try:
        envelope = _message("Unknown", body[len(_MAGIC) :])
        kind = envelope["typeMeta"]["kind"]
        if kind not in _KINDS:
            raise unsupported_media_type(("application/json",))
        raw = base64.b64decode(envelope.get("raw", ""))
        return {**envelope["typeMeta"], **_message(kind, raw)}
    except (IndexError, KeyError, ValueError) as exc:
        raise bad_request(f"the protobuf message is malformed: {type(exc).__name__}") from exc


def _message(message: str, data: bytes) -> Obj:
    found: Obj = {}
    for number, value in _fields(data):
        if message == "Ignored":
            continue
        if number not in _TABLES[message]:
            raise bad_request(f"the lab does not read field {number} of a {message} in protobuf")
        _put(found, *_TABLES[message][number], value)
    return found


def _put(found: Obj, name: str, kind: str, value: int | bytes) -> None:
    if name == ".":
        found |= _message(kind, _bytes(value))
    elif kind.startswith("[]"):
        found.setdefault(name, []).append(_value(kind[2:], value))
    elif kind.startswith("{}"):
        entry = dict(_fields(_bytes(value)))
        key = _bytes(entry[1]).decode()
        found.setdefault(name, {})[key] = _value(kind[2:], entry.get(2, b""))
    else:
        read = _value(kind.removeprefix("*"), value)
        # A zero that is no pointer's is what was left out; an empty message is still there.
        if read or kind.startswith("*") or read == {}:
            found[name] = read


def _value(kind: str, value: int | bytes) -> Any:
    if kind == "i":
        return _signed(value)
    if kind == "b":
        return bool(_signed(value))
    if kind == "s":
        return _bytes(value).decode()
    if kind == "y":
        return base64.b64encode(_bytes(value)).decode()
    if kind == "Quantity":
        return _message(kind, _bytes(value)).get("string", "0")
    if kind == "Time":
        seconds = _message(kind, _bytes(value)).get("seconds")
        return rfc3339(seconds) if seconds else None
    return _message(kind, _bytes(value))


def _signed(value: int | bytes) -> int:
    if isinstance(value, bytes):
        raise ValueError("a number was expected")  # noqa: TRY004 - the data is wrong
    return value - 2**64 if value >= 2**63 else value


def _bytes(value: int | bytes) -> bytes:
    if isinstance(value, int):
        raise ValueError("bytes were expected")  # noqa: TRY004 - the data is wrong
    return value


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """The fields of a message: numbers of varying length, and everything that has a length."""
    at = 0
    while at < len(data):
        key, at = _number(data, at)
        if key & 7 == 0:
            value, at = _number(data, at)
            yield key >> 3, value
        elif key & 7 == 2:
            length, at = _number(data, at)
            if at + length > len(data):
                raise ValueError("the message ends too early")
            yield key >> 3, data[at : at + length]
            at += length
        else:
            raise ValueError("no such type of field is used")


def _number(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at
        if shift > 63:
            raise ValueError("a number is too long")
