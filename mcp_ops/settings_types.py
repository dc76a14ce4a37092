"""What several settings are made of: names, environments, scopes, keys."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, SecretStr

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,62}$")]
Environment = Literal["dev", "staging", "prod"]
Scope = Literal["ops:read", "ops:write", "ops:destroy", "ops:approve", "ops:admin"]

AGENT_SCOPES: tuple[Scope, ...] = ("ops:read", "ops:write", "ops:destroy")
"""What a caller has that nothing else is said of."""

_SHORTEST_KEY = 16


def _long_enough(key: SecretStr) -> SecretStr:
    if len(key.get_secret_value()) < _SHORTEST_KEY:
        raise ValueError(f"a key of at least {_SHORTEST_KEY} characters, such as 32 random bytes")
    return key


LongSecret = Annotated[SecretStr, AfterValidator(_long_enough)]
