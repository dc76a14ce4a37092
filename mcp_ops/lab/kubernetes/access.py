"""Who may do what: bearer tokens, the denied namespace, and the reviews a caller asks for."""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from typing import Any, Final

from mcp_ops.lab.kubernetes.kinds import KINDS, NAMESPACE, READ_VERBS, WRITE_VERBS, Kind, Obj
from mcp_ops.lab.kubernetes.status import forbidden, unauthorized
from mcp_ops.lab.standin import Faults

USER: Final = "system:serviceaccount:mcp-ops:operator"
RESTRICTED: Final = "restricted"
SCOPE_CLUSTER: Final = "at the cluster scope"


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """The rules of the lab's cluster."""

    token: str | None
    faults: Faults

    def authenticate(self, authorization: str | None) -> None:
        """Refuse a bearer token that is not the one; ask for none where none is set."""
        if authorization is None and self.token is None:
            return
        scheme, _, given = (authorization or "").partition(" ")
        expected = (self.token or "").encode()
        known = self.token is not None and scheme.lower() == "bearer"
        if not known or not hmac.compare_digest(given.strip().encode(), expected):
            raise unauthorized()

    def authorize(self, kind: Kind, verb: str, *, namespace: str, name: str, sub: str) -> None:
        """Refuse what the caller's role does not allow."""
        if self.allows(verb, namespace=namespace, namespaced=kind.namespaced):
            return
        resource = f"{kind.plural}/{sub}" if sub else kind.plural
        where = f'in the namespace "{namespace}"' if namespace else SCOPE_CLUSTER
        why = f'User "{USER}" cannot {verb} resource "{resource}" in API group "{kind.group}"'
        raise forbidden(kind, name, f"{why} {where}")

    def allows(self, verb: str, *, namespace: str, namespaced: bool) -> bool:
        """Whether the caller's role allows it: no writes under `forbid`, nothing in `restricted`.

        Roles are granted by namespace, so nobody reads all namespaces at once: that would show
        the restricted one.
        """
        if namespace == RESTRICTED or (namespaced and not namespace):
            return False
        return verb in READ_VERBS or "forbid" not in self.faults

    def review(self, spec: Any) -> Obj:
        """The status of a SelfSubjectAccessReview."""
        asked = (spec if isinstance(spec, dict) else {}).get("resourceAttributes") or {}
        verb, namespace = asked.get("verb", ""), asked.get("namespace", "")
        known = {kind.plural for kind in KINDS} | {"*"}
        # A review that names no namespace asks about the cluster; the lab answers for its
        # ordinary namespaces, as an administrator's binding would.
        allowed = asked.get("resource", "") in known and self.allows(
            verb, namespace=namespace, namespaced=False
        )
        return {"allowed": True, "reason": "RBAC: allowed"} if allowed else {"allowed": False}

    def rules(self, namespace: str) -> Obj:
        """The status of a SelfSubjectRulesReview."""
        verbs = [v for v in (*READ_VERBS, *WRITE_VERBS) if self._granted(v, namespace)]
        rules = [
            {
                "verbs": verbs,
                "apiGroups": [kind.group],
                "resources": [kind.plural, *(f"{kind.plural}/{s}" for s in kind.subresources)],
            }
            for kind in KINDS
            if verbs and kind is not NAMESPACE
        ]
        reviews = {
            "verbs": ["create"],
            "apiGroups": ["authorization.k8s.io"],
            "resources": ["selfsubjectaccessreviews", "selfsubjectrulesreviews"],
        }
        urls = {"verbs": ["get"], "nonResourceURLs": ["/api", "/apis", "/version", "/readyz"]}
        return {
            "resourceRules": [reviews, *rules],
            "nonResourceRules": [urls],
            "incomplete": False,
        }

    def _granted(self, verb: str, namespace: str) -> bool:
        return self.allows(verb, namespace=namespace, namespaced=True)
