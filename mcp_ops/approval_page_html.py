"""The approval page as HTML: plain, without scripts; whatever others wrote is escaped and marked.

Every text from an agent or a system goes through `_text` or `_block`: control, bidirectional and
invisible characters are taken out or shown as escapes, then HTML is escaped.
"""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from typing import Any

from mcp_ops.clock import rfc3339
from mcp_ops.questions import Approval
from mcp_ops.redact import quoted, tame, visible
from mcp_ops.transport_edge import APPROVALS_PATH as PATH

_LINE = 300
_BLOCK = 400_000
_REASON = 600
_STATES = {
    "pending": "waits for people",
    "approved": "approved, not used yet",
    "redeemed": "approved and used",
    "denied": "denied",
    "expired": "expired",
    "revoked": "taken back",
}

STYLE = """
:root{color-scheme:light dark;--line:#8884;--accent:#0b57d0;--bad:#b3261e;--mark:#f3d36b44}
@media(prefers-color-scheme:dark){:root{--accent:#8ab4f8;--bad:#f2b8b5}}
*{box-sizing:border-box}
body{font:1rem/1.5 system-ui,sans-serif;margin:0 auto;max-width:56rem;padding:1rem}
header{display:flex;flex-wrap:wrap;gap:.5rem 1rem;align-items:center;
border-bottom:1px solid var(--line);padding-bottom:.5rem}
header form{margin-left:auto}
h1{font-size:1.25rem;margin:0}h2{font-size:1.05rem;margin:1.5rem 0 .5rem}
a{color:var(--accent)}
dl{display:grid;grid-template-columns:minmax(7rem,max-content) 1fr;gap:.25rem 1rem;margin:0}
dt{opacity:.75}dd{margin:0;overflow-wrap:anywhere}
pre{white-space:pre-wrap;overflow-wrap:anywhere;margin:0;font:.875rem/1.45 ui-monospace,monospace;
max-height:32rem;overflow:auto}
ul.cards{list-style:none;padding:0;margin:0}
ul.cards li{border:1px solid var(--line);border-radius:.5rem;padding:.75rem;margin:.5rem 0}
ul.cards p{margin:.25rem 0;overflow-wrap:anywhere}
.untrusted{border-left:.3rem solid #d9a400;background:var(--mark);padding:.5rem .75rem;
margin:.5rem 0;border-radius:.25rem}
.untrusted>p:first-child{margin:0 0 .4rem;font-size:.85rem;font-weight:600}
.state{border:1px solid var(--line);border-radius:1rem;padding:.1rem .6rem;font-size:.85rem}
.pending{border-color:#d9a400;background:var(--mark)}
.notice{border:1px solid var(--bad);border-radius:.5rem;padding:.75rem;margin:1rem 0}
fieldset{border:1px solid var(--line);border-radius:.5rem;margin:1rem 0;padding:.75rem}
label{display:block;margin:.25rem 0}
input{font:inherit;width:100%;padding:.5rem;border:1px solid var(--line);border-radius:.35rem}
button{font:inherit;padding:.5rem 1rem;margin-top:.5rem;border:1px solid var(--accent);
border-radius:.35rem;background:transparent;color:var(--accent);cursor:pointer;min-height:2.75rem}
button.go{background:var(--accent);color:Canvas}
button.bad{border-color:var(--bad);color:var(--bad)}
:focus-visible{outline:3px solid var(--accent);outline-offset:2px}
"""


def page(title: str, body: str, *, nonce: str, session: str = "", refresh_s: int = 0) -> str:
    """A whole document. `session` is what stands at its top right; `refresh_s` 0 means never."""
    refresh = f'<meta http-equiv="refresh" content="{refresh_s}">' if refresh_s else ""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"{refresh}<title>{_text(title)} · mcp-ops</title>"
        f'<style nonce="{nonce}">{STYLE}</style></head><body>'
        f"<header><h1>{_text(title)}</h1>{session}</header><main>{body}</main></body></html>"
    )


def signed_in(principal: str, csrf: str, base: str) -> str:
    """Who is signed in, and the way out."""
    return (
        f'<form method="post" action="{base}/sign-out">{_hidden(csrf)}'
        f"<span>{_text(principal)}</span> <button>Sign out</button></form>"
    )


def sign_in(label: str, *, after: str = "", problem: str = "") -> str:
    """The sign-in form; `after` is the id of the question that is shown then."""
    return (
        f"{notice(problem)}"
        f'<form method="post" action="{PATH}/sign-in"><fieldset><legend>Sign in</legend>'
        f'<input type="hidden" name="after" value="{_text(after)}">'
        f'<label for="secret">{_text(label)}</label>'
        '<input id="secret" name="secret" type="password" required autofocus maxlength="512" '
        'autocomplete="off"><button class="go">Sign in</button></fieldset></form>'
        "<p>Here a person decides what an agent may run. Nothing runs by opening a link.</p>"
    )


def notice(problem: str, hint: str = "") -> str:
    """What went wrong, and what to do; nothing for no problem."""
    if not problem:
        return ""
    return f'<div class="notice" role="alert"><p>{_text(problem)} {_text(hint)}</p></div>'


def listing(found: Sequence[Approval], now: float, base: str) -> str:
    """All questions, pending ones first."""
    if not found:
        return "<p>No question waits for an answer, and none was answered lately.</p>"
    return f'<ul class="cards">{"".join(_card(each, now, base) for each in found)}</ul>'


def _card(a: Approval, now: float, base: str) -> str:
    return (
        f'<li><p><a href="{base}/{_text(a.id)}">{_text(a.tool)} on {_text(_where(a))}</a> '
        f"{_state(a)}</p>"
        f"<p>asked by {_text(a.principal)}, {_text(_until(a, now))}</p>"
        f"{_untrusted('Reason given by the agent', _text(quoted(a.reason, _LINE), _LINE * 2))}</li>"
    )


def detail(a: Approval, now: float, csrf: str, base: str) -> str:
    """Everything that an answer is bound to, and the forms to answer."""
    seen = dict(a.seen_shown)
    facts = [
        ("Tool", a.tool),
        ("Effect", str(seen.pop("effect", ""))),
        ("Target", _where(a)),
        ("Environment", str(seen.pop("environment", ""))),
        ("Asked by", a.principal),
        ("Asked at", rfc3339(a.created_at)),
        ("Rule", f"{seen.pop('rule', '')} (profile {seen.pop('profile', 'unknown')})"),
        ("May approve", ", ".join(map(str, _list(seen.pop("approvers", ["*"]))))),
        ("Policy", a.policy),
        ("Digest", a.digest),
        ("Id", a.id),
        ("Time", _until(a, now)),
    ]
    items = _list(seen.pop("items", None))
    return "".join(
        (
            f"<p>{_state(a)} {len(a.votes)} of {a.needed} said yes</p>",
            _votes(a),
            _definitions([(name, text) for name, text in facts if text]),
            "<h2>Arguments</h2>",
            _untrusted("Filled in by the agent; secrets by fingerprint", _block(a.arguments)),
            "<h2>Reason</h2>",
            _untrusted("Written by the agent", _pre(quoted(a.reason, _REASON))),
            "<h2>What the target looked like</h2>",
            _untrusted("Said by the target, or by our plan of it", _seen(seen)),
            f"<h2>Items ({len(items)})</h2>"
            + _untrusted("Exactly these, as far as they are there", _block(items))
            if items
            else "",
            _forms(a, csrf, f"{base}/{_text(a.id)}"),
        )
    )


def _votes(a: Approval) -> str:
    said = [
        f"<li>{_text(vote.by)} said yes at {_text(rfc3339(vote.at))} "
        f"{_text(quoted(vote.note, _REASON), _REASON * 2) if vote.note else ''}</li>"
        for vote in a.votes
    ]
    if a.decided_by and a.decided_at is not None and a.state != "pending":
        note = _text(quoted(a.note, _REASON), _REASON * 2) if a.note else ""
        at = _text(rfc3339(a.decided_at))
        said.append(f"<li>{_text(a.state)}: {_text(a.decided_by)} at {at} {note}</li>")
    return f"<ul>{''.join(said)}</ul>" if said else ""


def _seen(seen: Mapping[str, Any]) -> str:
    if not seen:
        return "<p>It was not looked at.</p>"
    plan = _list(seen.get("plan"))
    rest = {name: value for name, value in seen.items() if name != "plan"}
    lines = "\n".join(quoted(line, _REASON) for line in plan)
    return (_pre(lines) if plan else "") + (_block(rest) if rest else "")


def _forms(a: Approval, csrf: str, place: str) -> str:
    if a.state == "pending":
        return _form(
            f"{place}/approve", csrf, "Approve", "go", "Reason, for the record", ""
        ) + _form(f"{place}/deny", csrf, "Deny", "bad", "Why not? The agent is told.", "required")
    if a.state == "approved":
        ask = "Why? The agent is told."
        return _form(f"{place}/revoke", csrf, "Take back", "bad", ask, "required")
    return ""


def _form(action: str, csrf: str, button: str, look: str, ask: str, required: str) -> str:
    verb = action.rpartition("/")[2]
    return (
        f'<form method="post" action="{action}"><fieldset>'
        f'<legend>{button}</legend>{_hidden(csrf)}<label for="{verb}-note">{ask}</label>'
        f'<input id="{verb}-note" name="note" maxlength="500" autocomplete="off" {required}>'
        f'<button class="{look}">{button} this call</button></fieldset></form>'
    )


def _hidden(csrf: str) -> str:
    return f'<input type="hidden" name="csrf" value="{_text(csrf)}">'


def _definitions(rows: Sequence[tuple[str, str]]) -> str:
    return f"<dl>{''.join(f'<dt>{name}</dt><dd>{_text(text)}</dd>' for name, text in rows)}</dl>"


def _untrusted(label: str, inner: str) -> str:
    return f'<div class="untrusted"><p>{label} (not verified)</p>{inner}</div>'


def _state(a: Approval) -> str:
    return f'<span class="state {_text(a.state)}">{_text(_STATES.get(a.state, a.state))}</span>'


def _until(a: Approval, now: float) -> str:
    moments = {
        "pending": ("can be answered until", a.expires_at),
        "approved": ("may run until", a.execute_by or a.expires_at),
    }
    if a.state not in moments:
        return "is over"
    word, moment = moments[a.state]
    return f"{word} {rfc3339(moment)} ({max(0, round((moment - now) / 60))} min)"


def _where(a: Approval) -> str:
    return a.target or "this server"


def _list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else []


def _block(value: Any) -> str:
    plain = dict(value) if isinstance(value, Mapping) else value
    return _pre(visible(json.dumps(plain, indent=2, ensure_ascii=False, default=str)))


def _pre(text: str) -> str:
    return f"<pre>{_text(text, _BLOCK)}</pre>"


def _text(text: str, limit: int = _LINE) -> str:
    return html.escape(tame(text, limit), quote=True)
