"""What the lab's authorization server remembers: grants, codes and tokens, in one SQLite file."""

from __future__ import annotations

import hashlib
import secrets
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

_SCHEMA = """
create table if not exists family (
  id text primary key, client_id text not null, subject text not null, scope text not null,
  revoked integer not null default 0);
create table if not exists refresh (
  digest text primary key, family text not null references family,
  rotated integer not null default 0, issued_at real not null);
create table if not exists access (
  digest text primary key, family text not null references family, scope text not null,
  issued_at real not null, expires_at real not null,
  revoked integer not null default 0, expired integer not null default 0);
create table if not exists code (
  digest text primary key, client_id text not null, subject text not null, scope text not null,
  redirect_uri text, challenge text, method text, expires_at real not null, family text);
"""


def digest(token: str) -> str:
    """The form in which a token is kept: its value is nowhere on disk."""
    return hashlib.sha256(token.encode()).hexdigest()


def fingerprint(token: str) -> str:
    """What may be shown of a token."""
    return digest(token)[:12]


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenCheck:
    """What a resource server is told of an access token."""

    active: bool
    reason: Literal["", "unknown", "expired", "revoked"] = ""
    subject: str = ""
    scope: str = ""
    expires_at: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenRecord:
    """An access or refresh token that was issued, in the form Authlib asks for."""

    kind: Literal["access_token", "refresh_token"]
    family: str
    client_id: str
    subject: str
    scope: str
    issued_at: float
    expires_at: float | None
    expired: bool
    revoked: bool
    rotated: bool

    def check_client(self, client: Client) -> bool:
        """Whether it was issued to this client."""
        return self.client_id == client.client_id

    def get_scope(self) -> str:
        """The scope it carries."""
        return self.scope

    def is_expired(self) -> bool:
        """Whether its time is over."""
        return self.expired

    def is_revoked(self) -> bool:
        """Whether it, or the grant behind it, was withdrawn."""
        return self.revoked or self.rotated


@dataclass(frozen=True, slots=True, kw_only=True)
class CodeRecord:
    """An authorization code, in the form Authlib asks for."""

    code: str
    client_id: str
    subject: str
    scope: str
    redirect_uri: str | None
    code_challenge: str | None
    code_challenge_method: str | None
    expires_at: float
    family: str | None = None

    def get_redirect_uri(self) -> str | None:
        """The redirect URI that the authorization request named, if it did."""
        return self.redirect_uri

    def get_scope(self) -> str:
        """The scope that was consented to."""
        return self.scope


@dataclass(frozen=True, slots=True, kw_only=True)
class Client:
    """A registered client, in the form Authlib asks for."""

    client_id: str
    client_secret: str
    redirect_uris: tuple[str, ...]
    scope: str

    def get_client_id(self) -> str:
        """Its identifier."""
        return self.client_id

    def get_default_redirect_uri(self) -> str | None:
        """The redirect URI of a request without one: only when there is no choice."""
        return self.redirect_uris[0] if len(self.redirect_uris) == 1 else None

    def check_redirect_uri(self, redirect_uri: str) -> bool:
        """OAuth 2.1 compares the strings exactly."""
        return redirect_uri in self.redirect_uris

    def get_allowed_scope(self, scope: str | None) -> str:
        """The part of a requested scope that it may have; everything when it asks for nothing."""
        if not scope:
            return self.scope
        allowed = self.scope.split()
        return " ".join(part for part in scope.split() if part in allowed)

    def check_client_secret(self, client_secret: str) -> bool:
        """Compare in constant time."""
        return secrets.compare_digest(self.client_secret.encode(), client_secret.encode())

    def check_endpoint_auth_method(self, method: str, _endpoint: str) -> bool:
        """Both ways to send the secret, at every endpoint."""
        return method in ("client_secret_basic", "client_secret_post")

    def check_response_type(self, response_type: str) -> bool:
        """Only the code flow is left in OAuth 2.1."""
        return response_type == "code"

    def check_grant_type(self, grant_type: str) -> bool:
        """The two grants of this lab."""
        return grant_type in ("authorization_code", "refresh_token")


class TokenStore:
    """The file. Each method is one transaction, so a restart finds what was answered."""

    def __init__(self, path: Path) -> None:
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        with self._open() as db:
            db.executescript(_SCHEMA)

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        with closing(sqlite3.connect(self._path)) as db, db:
            db.row_factory = sqlite3.Row
            db.execute("pragma synchronous = off")  # a lab survives its restart, not a power cut
            yield db

    def add_family(self, *, client_id: str, subject: str, scope: str) -> str:
        """Start the chain of tokens that descend from one consent."""
        family = f"fam_{secrets.token_hex(6)}"
        with self._open() as db:
            db.execute(
                "insert into family (id, client_id, subject, scope) values (?, ?, ?, ?)",
                (family, client_id, subject, scope),
            )
        return family

    def add_tokens(
        self,
        *,
        family: str,
        scope: str,
        now: float,
        access_token: str,
        expires_at: float,
        refresh_token: str | None,
        retire: str | None = None,
    ) -> None:
        """Keep what is about to be answered and retire the refresh token that paid for it."""
        with self._open() as db:
            db.execute(
                "insert into access (digest, family, scope, issued_at, expires_at)"
                " values (?, ?, ?, ?, ?)",
                (digest(access_token), family, scope, now, expires_at),
            )
            if refresh_token is not None:
                db.execute(
                    "insert into refresh (digest, family, issued_at) values (?, ?, ?)",
                    (digest(refresh_token), family, now),
                )
            if retire is not None:
                db.execute("update refresh set rotated = 1 where digest = ?", (digest(retire),))

    def find_refresh(self, token: str) -> TokenRecord | None:
        """Look a refresh token up by its value."""
        with self._open() as db:
            row = db.execute(
                "select r.*, f.client_id, f.subject, f.scope, f.revoked from refresh r"
                " join family f on f.id = r.family where r.digest = ?",
                (digest(token),),
            ).fetchone()
        if row is None:
            return None
        return TokenRecord(
            kind="refresh_token",
            family=row["family"],
            client_id=row["client_id"],
            subject=row["subject"],
            scope=row["scope"],
            issued_at=row["issued_at"],
            expires_at=None,
            expired=False,
            revoked=bool(row["revoked"]),
            rotated=bool(row["rotated"]),
        )

    def find_access(self, token: str, *, now: float) -> TokenRecord | None:
        """Look an access token up by its value."""
        with self._open() as db:
            row = db.execute(
                "select a.*, f.client_id, f.subject, f.revoked as family_revoked from access a"
                " join family f on f.id = a.family where a.digest = ?",
                (digest(token),),
            ).fetchone()
        if row is None:
            return None
        return TokenRecord(
            kind="access_token",
            family=row["family"],
            client_id=row["client_id"],
            subject=row["subject"],
            scope=row["scope"],
            issued_at=row["issued_at"],
            expires_at=row["expires_at"],
            expired=bool(row["expired"]) or now >= row["expires_at"],
            revoked=bool(row["revoked"] or row["family_revoked"]),
            rotated=False,
        )

    def check_access(self, token: str, *, now: float) -> TokenCheck:
        """What a resource server is told."""
        record = self.find_access(token, now=now)
        if record is None:
            return TokenCheck(active=False, reason="unknown")
        if record.revoked:
            return TokenCheck(active=False, reason="revoked")
        if record.expired:
            return TokenCheck(active=False, reason="expired")
        return TokenCheck(
            active=True,
            subject=record.subject,
            scope=record.scope,
            expires_at=record.expires_at or 0.0,
        )

    def revoke_access(self, token: str) -> None:
        """Withdraw one access token."""
        with self._open() as db:
            db.execute("update access set revoked = 1 where digest = ?", (digest(token),))

    def revoke_family(self, family: str) -> None:
        """Withdraw every token that descends from one consent."""
        with self._open() as db:
            db.execute("update family set revoked = 1 where id = ?", (family,))

    def revoke_all_families(self) -> list[str]:
        """Withdraw every consent; answers those that were still good."""
        with self._open() as db:
            rows = db.execute("select id from family where revoked = 0 order by rowid").fetchall()
            db.execute("update family set revoked = 1")
        return [row["id"] for row in rows]

    def expire_all_access(self) -> int:
        """Let every access token issued so far count as expired; answers how many."""
        with self._open() as db:
            return db.execute("update access set expired = 1 where expired = 0").rowcount

    def add_code(self, code: CodeRecord) -> None:
        """Keep a fresh authorization code."""
        with self._open() as db:
            db.execute(
                "insert into code (digest, client_id, subject, scope, redirect_uri, challenge,"
                " method, expires_at) values (?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    digest(code.code),
                    code.client_id,
                    code.subject,
                    code.scope,
                    code.redirect_uri,
                    code.code_challenge,
                    code.code_challenge_method,
                    code.expires_at,
                ),
            )

    def find_code(self, code: str) -> CodeRecord | None:
        """Look a code up; one with a family was redeemed before."""
        with self._open() as db:
            row = db.execute("select * from code where digest = ?", (digest(code),)).fetchone()
        if row is None:
            return None
        return CodeRecord(
            code=code,
            client_id=row["client_id"],
            subject=row["subject"],
            scope=row["scope"],
            redirect_uri=row["redirect_uri"],
            code_challenge=row["challenge"],
            code_challenge_method=row["method"],
            expires_at=row["expires_at"],
            family=row["family"],
        )

    def redeem_code(self, code: str, family: str) -> None:
        """Mark a code as spent on this family."""
        with self._open() as db:
            db.execute("update code set family = ? where digest = ?", (family, digest(code)))
