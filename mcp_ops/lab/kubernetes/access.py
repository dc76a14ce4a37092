"""Who may do what: bearer tokens and their roles, the denied namespace, and the reviews."""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from typing import Any, Final

from mcp_ops.lab.kubernetes.kinds import NAMESPACE, READ_VERBS, SERVED, Kind, Obj
from mcp_ops.lab.kubernetes.roles import OPERATOR, Role, Rule
from mcp_ops.lab.kubernetes.status import forbidden, unauthorized
from mcp_ops.lab.standin import Faults

RESTRICTED: Final = "restricted"
SCOPE_CLUSTER: Final = "at the cluster scope"


class Access:
    """The rules of the lab's cluster."""

    def __init__(
        self, *, token: str | None, faults: Faults, roles: Mapping[str, Role] | None = None
    ) -> None:
        self._faults = faults
        self._roles = dict(roles or {})
        self._anonymous = OPERATOR if token is None and not self._roles else None
        if token is not None:
            self._roles.setdefault(token, OPERATOR)

    def authenticate(self, authorization: str | None) -> Role:
        """The role of a bearer token; without any token set, those who bring none are let in."""
        if authorization is None and self._anonymous is not None:
            return self._anonymous
        scheme, _, given = (authorization or "").partition(" ")
        if scheme.lower() == "bearer":
            for token, role in self._roles.items():
                if hmac.compare_digest(given.strip().encode(), token.encode()):
                    return role
        raise unauthorized()

    def authorize(
        self, role: Role, kind: Kind, verb: str, *, namespace: str, name: str, sub: str
    ) -> None:
        """Refuse what the caller's role does not allow."""
        resource = f"{kind.plural}/{sub}" if sub else kind.plural
        everywhere = kind.namespaced and not namespace
        if not everywhere and self._allows(role, verb, kind.group, resource, namespace, name):
            return
        where = f'in the namespace "{namespace}"' if namespace else SCOPE_CLUSTER
        why = f'User "{role.user}" cannot {verb} resource "{resource}" in API group "{kind.group}"'
        raise forbidden(kind, name, f"{why} {where}")

    def _allows(
        self, role: Role, verb: str, group: str, resource: str, namespace: str, name: str
    ) -> bool:
        """Whether the role allows it: no writes under `forbid`, nothing in `restricted`.

        Roles are granted by namespace, so nobody reads all namespaces at once: that would show
        the restricted one.
        """
        if namespace == RESTRICTED or ("forbid" in self._faults and verb not in READ_VERBS):
            return False
        return role.allows(verb, group, resource, name)

    def review(self, role: Role, spec: Any) -> Obj:
        """The status of a SelfSubjectAccessReview."""
        asked = (spec if isinstance(spec, dict) else {}).get("resourceAttributes") or {}
        asked = {key: str(value) for key, value in asked.items()} if _is_object(asked) else {}
        known = {kind.plural for kind in SERVED} | {"*"}
        resource = asked.get("resource", "")
        sub = asked.get("subresource", "")
        # A review that names no namespace asks about the cluster; the lab answers for its
        # ordinary namespaces, as an administrator's binding would.
        allowed = resource in known and self._allows(
            role,
            asked.get("verb", ""),
            asked.get("group", ""),
            f"{resource}/{sub}" if sub else resource,
            asked.get("namespace", ""),
            asked.get("name", ""),
        )
        return {"allowed": True, "reason": "RBAC: allowed"} if allowed else {"allowed": False}

    def rules(self, role: Role, namespace: str) -> Obj:
        """The status of a SelfSubjectRulesReview."""
        written = _spelled_out() if role is OPERATOR else role.rules
        granted = [] if namespace == RESTRICTED else [self._left(rule) for rule in written]
        reviews = {
            "verbs": ["create"],
            "apiGroups": ["authorization.k8s.io"],
            "resources": ["selfsubjectaccessreviews", "selfsubjectrulesreviews"],
        }
        urls = {"verbs": ["get"], "nonResourceURLs": ["/api", "/apis", "/version", "/readyz"]}
        return {
            "resourceRules": [reviews, *(rule for rule in granted if rule["verbs"])],
            "nonResourceRules": [urls],
            "incomplete": False,
        }

    def _left(self, rule: Rule) -> Obj:
        """A rule as the review writes it, without the writes while they are forbidden."""
        verbs = list(rule.verbs)
        if "forbid" in self._faults:
            verbs = [v for v in READ_VERBS if v in rule.verbs or "*" in rule.verbs]
        told: Obj = {
            "verbs": verbs,
            "apiGroups": list(rule.groups),
            "resources": list(rule.resources),
        }
        return {**told, "resourceNames": list(rule.names)} if rule.names else told


def _is_object(value: Any) -> bool:
    return isinstance(value, dict)


def _spelled_out() -> list[Rule]:
    """What the operator may do, kind by kind, as the rules of a real role would name it."""
    rules = []
    for kind in SERVED:
        subs = tuple(f"{kind.plural}/{sub}" for sub in kind.subresources)
        if kind is not NAMESPACE:
            rules.append(
                Rule(groups=(kind.group,), resources=(kind.plural, *subs), verbs=kind.verbs)
            )
    return rules
