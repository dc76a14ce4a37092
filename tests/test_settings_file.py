"""Loading of the settings: precedence, variables, the targets they make, and what is refused."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from mcp_ops.errors import ConfigurationError
from mcp_ops.ports import Mode
from mcp_ops.settings import Settings, TargetSettings
from mcp_ops.settings_file import load_settings

KEY = "a-key-that-is-long-enough"


class Place:
    """A folder with a configuration file, and the way to load it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = folder / "config.toml"

    def load(
        self, text: str | None = "", environ: Mapping[str, str] | None = None, **overrides: Any
    ) -> Settings:
        config = None
        if text is not None:
            self.file.write_text(text, encoding="utf-8")
            config = self.file
        return load_settings(
            config,
            {"MCP_OPS_STATE_DIR": str(self.folder / "state"), **(environ or {})},
            {name.replace("__", "."): value for name, value in overrides.items()},
            default_file=self.folder / "none.toml",
        )

    def wrong(
        self, text: str | None = "", environ: Mapping[str, str] | None = None, **overrides: Any
    ) -> str:
        with pytest.raises(ConfigurationError) as caught:
            self.load(text, environ, **overrides)
        return caught.value.message


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def target(settings: Settings, name: str) -> TargetSettings:
    return next(each for each in settings.targets if each.name == name)


def test_nothing_configured_gives_the_safe_defaults(place: Place) -> None:
    settings = place.load(None)
    assert settings.server.transport == "stdio"
    assert settings.server.host == "127.0.0.1"
    assert settings.guard.mode is Mode.NORMAL
    assert settings.guard.circuit.threshold == 3
    assert settings.guard.circuit.open_s == 60
    assert settings.deadletters.retention_days == 7
    assert settings.targets == ()
    assert settings.source == ""


def test_loading_creates_nothing_on_disk(place: Place) -> None:
    settings = place.load(None, {"SF_ACCESS_TOKEN": "x"})
    assert not settings.state_dir.exists()


def test_command_line_wins_over_environment_over_file(place: Place) -> None:
    text = "[server]\nport = 1\n"
    assert place.load(text).server.port == 1
    assert place.load(text, {"PORT": "2"}).server.port == 2
    assert place.load(text, {"PORT": "2"}, server__port=3).server.port == 3


def test_an_option_that_was_not_given_changes_nothing(place: Place) -> None:
    assert place.load("[server]\nport = 1\n", server__port=None).server.port == 1


def test_an_empty_variable_counts_as_not_set(place: Place) -> None:
    assert place.load("[server]\nport = 1\n", {"PORT": ""}).server.port == 1


@pytest.mark.parametrize(
    ("name", "value", "get", "expected"),
    [
        ("MCP_TRANSPORT", "SSE", lambda s: s.server.transport, "sse"),
        ("MCP_OPS_HOST", "::1", lambda s: s.server.host, "::1"),
        ("PORT", "8123", lambda s: s.server.port, 8123),
        ("WEBSITES_PORT", "8124", lambda s: s.server.port, 8124),
        ("MCP_OPS_ALLOWED_HOSTS", "a.test, b.test", lambda s: s.server.allowed_hosts[1], "b.test"),
        ("MCP_RATE_LIMIT_MODE", "restrictive", lambda s: s.guard.mode, Mode.RESTRICTIVE),
        ("CIRCUIT_BREAKER_THRESHOLD", "5", lambda s: s.guard.circuit.threshold, 5),
        ("CIRCUIT_BREAKER_TIMEOUT", "90", lambda s: s.guard.circuit.open_s, 90),
        ("DLQ_RETENTION_DAYS", "14", lambda s: s.deadletters.retention_days, 14),
        ("MCP_OPS_WORKERS", "1", lambda s: s.server.workers, 1),
        ("MCP_OPS_SESSIONS", "false", lambda s: s.server.sessions, False),
        (
            "MCP_OPS_STORE_HOT",
            "rediss://:a-password@cache:6380/0",
            lambda s: s.store.hot.get_secret_value(),
            "rediss://:a-password@cache:6380/0",
        ),
    ],
)
def test_each_variable_sets_its_setting(
    place: Place, name: str, value: str, get: Any, expected: object
) -> None:
    assert get(place.load(None, {name: value})) == expected


def test_a_shared_ledger_needs_the_key_of_all_replicas(place: Place) -> None:
    shared = {"MCP_OPS_STORE_LEDGER": "postgresql://ops:a-password@db/ops"}
    with pytest.raises(ConfigurationError, match=r"store: .*store\.key") as caught:
        place.load(None, shared)
    assert "a-password" not in str(caught.value)
    settings = place.load(None, {**shared, "MCP_OPS_STORE_KEY": "0123456789abcdef"})
    assert settings.store.ledger.get_secret_value() == shared["MCP_OPS_STORE_LEDGER"]
    assert "a-password" not in repr(settings)


def test_the_keys_of_questions_are_references_in_their_order(place: Place) -> None:
    values = {"NEW": "the-new-key-0123456789", "OLD": "the-old-key-0123456789"}
    named = {**values, "MCP_OPS_QUESTION_KEYS": "env:NEW, env:OLD"}
    for settings in (
        place.load(None, named),
        place.load('[store]\nquestion_keys = ["env:NEW", "env:OLD"]\n', values),
    ):
        found = [key.get_secret_value() for key in settings.store.question_keys]
        assert found == [values["NEW"], values["OLD"]]
        assert values["NEW"] not in repr(settings)
    with pytest.raises(ConfigurationError, match="expected a reference") as caught:
        place.load('[store]\nquestion_keys = ["the-new-key-0123456789"]\n', {})
    assert "the-new-key" not in str(caught.value)


@pytest.mark.parametrize("half", ["hot", "ledger"])
def test_the_url_of_a_store_does_not_stand_in_the_file(place: Place, half: str) -> None:
    with pytest.raises(ConfigurationError, match="expected a reference") as caught:
        place.load(f'[store]\n{half} = "redis://:a-password@cache"\n', {})
    assert "a-password" not in str(caught.value)
    with pytest.raises(ConfigurationError, match="a URL that starts with"):
        place.load(f'[store]\n{half} = "env:PLACE"\n', {"PLACE": "http://x"})
    assert place.load('[store]\nhot = "sqlite"\n', {}).store.hot.get_secret_value() == "sqlite"


def test_port_wins_over_websites_port_and_says_so(place: Place) -> None:
    settings = place.load(None, {"PORT": "1", "WEBSITES_PORT": "2"})
    assert settings.server.port == 1
    assert any("PORT and WEBSITES_PORT differ" in notice for notice in settings.notices)


def test_the_file_is_found_by_option_then_variable_then_default(place: Place) -> None:
    for port in (1, 2, 3):
        (place.folder / f"{port}.toml").write_text(f"[server]\nport = {port}\n", encoding="utf-8")
    one, two, three = (place.folder / f"{n}.toml" for n in (1, 2, 3))
    environ = {"MCP_OPS_CONFIG": str(two), "MCP_OPS_STATE_DIR": str(place.folder)}
    assert load_settings(one, environ, {}, default_file=three).server.port == 1
    assert load_settings(None, environ, {}, default_file=three).server.port == 2
    del environ["MCP_OPS_CONFIG"]
    assert load_settings(None, environ, {}, default_file=three).server.port == 3


def test_a_named_file_that_is_missing_is_an_error_and_says_who_named_it(place: Place) -> None:
    message = place.wrong(None, {"MCP_OPS_CONFIG": str(place.folder / "gone.toml")})
    assert "gone.toml" in message
    assert "MCP_OPS_CONFIG" in message


def test_state_directory_of_the_file_is_relative_to_the_file(place: Place) -> None:
    place.file.write_text('state_dir = "here"\n', encoding="utf-8")
    settings = load_settings(place.file, {}, {})
    assert settings.state_dir == place.folder / "here"
    assert settings.base == place.folder


def test_a_byte_order_mark_of_an_editor_does_no_harm(place: Place) -> None:
    place.file.write_bytes(b"\xef\xbb\xbf[server]\nport = 9\n")
    assert load_settings(place.file, {}, {}).server.port == 9


def test_a_file_that_is_not_toml_or_not_text_is_named(place: Place) -> None:
    assert "this is not TOML" in place.wrong("[server\n")
    place.file.write_bytes("[server]\n".encode("utf-16"))
    with pytest.raises(ConfigurationError, match="not UTF-8"):
        load_settings(place.file, {}, {})


def test_salesforce_variables_make_a_target_that_holds_only_references(place: Place) -> None:
    environ = {
        "SF_INSTANCE_URL": "https://x.test",
        "SF_ACCESS_TOKEN": "very-secret-token",
        "SF_REFRESH_TOKEN": "very-secret-refresh",
    }
    settings = place.load(None, environ)
    crm = target(settings, "salesforce")
    assert crm.kind == "salesforce"
    assert crm.origin == "environment"
    assert crm.options == {
        "instance_url": "env:SF_INSTANCE_URL",
        "access_token": "env:SF_ACCESS_TOKEN",
        "refresh_token": "env:SF_REFRESH_TOKEN",
    }
    assert "very-secret" not in repr(settings)


def test_salesforce_from_the_environment_keeps_its_tokens_in_the_built_in_store(
    place: Place,
) -> None:
    settings = place.load(None, {"SF_ACCESS_TOKEN": "x"})
    assert target(settings, "salesforce").links == {"secrets": "local-secrets"}
    store = target(settings, "local-secrets")
    assert store.kind == "file_secrets"
    assert Path(store.options["path"]) == settings.state_dir / "secrets"


def test_a_secret_store_of_the_file_is_used_instead_of_the_built_in_one(place: Place) -> None:
    text = '[targets.local-secrets]\nkind = "file_secrets"\npath = "mine"\n'
    settings = place.load(text, {"SF_ACCESS_TOKEN": "x"})
    assert target(settings, "local-secrets").options == {"path": "mine"}
    text = '[targets.salesforce.links]\nsecrets = "vault"\n[targets.vault]\nkind = "file_secrets"\n'
    settings = place.load(text, {"SF_ACCESS_TOKEN": "x"})
    assert [each.name for each in settings.targets] == ["salesforce", "vault"]


def test_environment_wins_key_by_key_over_a_target_of_the_file(place: Place) -> None:
    text = (
        '[targets.redis]\nkind = "redis"\nenvironment = "dev"\nurl = "file:url.txt"\n'
        'prefix = "orders"\n'
    )
    redis = target(place.load(text, {"REDIS_URL": "redis://x"}), "redis")
    assert redis.options == {"url": "env:REDIS_URL", "prefix": "orders"}
    assert redis.environment == "dev"
    assert redis.origin == ""


def test_an_empty_redis_url_removes_the_target_of_the_file(place: Place) -> None:
    text = '[targets.redis]\nkind = "redis"\nurl = "file:url.txt"\n'
    assert place.load(text, {"REDIS_URL": ""}).targets == ()


def test_a_variable_that_the_file_gives_to_its_own_target_makes_no_second_one(
    place: Place,
) -> None:
    text = '[targets.cache]\nkind = "redis"\nurl = "env:REDIS_URL"\n'
    settings = place.load(text, {"REDIS_URL": "redis://x"})
    assert [each.name for each in settings.targets] == ["cache"]


def test_kubeconfig_makes_a_target_even_when_it_is_a_list_of_files(place: Place) -> None:
    settings = place.load(None, {"KUBECONFIG": os.pathsep.join(("/a", "/b"))})
    assert target(settings, "kubernetes").options == {"kubeconfig": "env:KUBECONFIG"}


def test_database_url_is_ignored_with_a_notice_that_keeps_it_secret(place: Place) -> None:
    settings = place.load(None, {"DATABASE_URL": "postgres://u:hunter2@db/x"})
    assert settings.targets == ()
    assert any("DATABASE_URL" in notice for notice in settings.notices)
    assert "hunter2" not in "".join(settings.notices)


def test_the_key_of_the_environment_takes_the_place_of_one_with_its_name(place: Place) -> None:
    text = '[[server.keys]]\nname = "env"\nkey = "env:OTHER"\n'
    text += '[[server.keys]]\nname = "b"\nkey = "env:B"\n'
    settings = place.load(text, {"MCP_OPS_KEY": KEY, "B": KEY + "b"})
    assert [key.name for key in settings.server.keys] == ["b", "env"]
    assert settings.server.keys[1].key.get_secret_value() == KEY


def test_another_host_than_loopback_needs_a_key(place: Place) -> None:
    message = place.wrong(None, {"MCP_TRANSPORT": "http", "MCP_OPS_HOST": "0.0.0.0"})
    assert "MCP_OPS_HOST" in message
    assert "MCP_OPS_KEY" in message
    place.load(None, {"MCP_TRANSPORT": "http", "MCP_OPS_HOST": "0.0.0.0", "MCP_OPS_KEY": KEY})
    place.load(None, {"MCP_OPS_HOST": "0.0.0.0"})
    for host in ("127.0.0.1", "127.8.8.8", "::1", "localhost"):
        place.load(None, {"MCP_TRANSPORT": "sse", "MCP_OPS_HOST": host})


@pytest.mark.parametrize("host", ["", "::", "10.0.0.1", "example.test"])
def test_every_other_host_counts_as_reachable(place: Place, host: str) -> None:
    assert "no key" in place.wrong(f'[server]\ntransport = "http"\nhost = "{host}"\n')


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[server]\nprot = 1\n", 'server.prot: there is no such key. Did you mean "port"?'),
        ("[sever]\n", 'sever: there is no such key. Did you mean "server"?'),
        ("notices = []\n", "notices: there is no such key"),
        ("guard = 5\n", "guard: found 5, expected a table"),
        ("[server]\nport = 70000\n", "server.port: found 70000, expected at most 65535"),
        ("[server]\nport = 'x'\n", "server.port: found text of 1 characters, expected a whole"),
        ('[guard]\nmode = "restricted"\n', 'Did you mean "restrictive"?'),
        ("[guard.limits]\nread_timeout_s = inf\n", "expected a finite number"),
        ("[guard.limits]\nread_attempts = 9\n", "found 9, expected at most 5"),
        ("[guard.usage]\nnormal = 95\n", "expected normal below restrict"),
        ("[guard.usage]\nrestrict = 95\n", "restrict not above critical"),
        (
            '[[guard.freeze]]\nstart = "tomorrow"\nend = "2026-01-01T00:00:00Z"\nreason = "x"\n',
            "guard.freeze #1.start",
        ),
        (
            (
                '[[guard.freeze]]\nstart = "2026-01-02T00:00:00"\nend = "2026-01-01T00:00:00Z"\n'
                'reason = "x"\n'
            ),
            "with an offset",
        ),
        (
            (
                '[[guard.freeze]]\nstart = "2026-01-02T00:00:00Z"\nend = "2026-01-01T00:00:00Z"\n'
                'reason = "x"\n'
            ),
            "an end that is later",
        ),
        ("[[policy]]\ntool = 'x'\n", "policy #1.require: it is missing"),
        ('[store]\nhot = "redis"\n', "expected a reference, env:NAME or file:PATH"),
        ("[targets.Crm]\nkind = 'x'\n", "targets.Crm: a target's name"),
        ("[targets.all]\nkind = 'x'\n", "taken by the server itself"),
        ("[targets.mcp-ops]\nkind = 'x'\n", "taken by the server itself"),
        ("[targets.crm]\nname = 'x'\nkind = 'x'\n", "the table's name is the name"),
        ("[targets.crm]\n", "targets.crm.kind: it is missing"),
        ("[targets]\ncrm = 5\n", "targets.crm: found 5, expected a table"),
        ("[targets.crm]\nkind = 'x'\nenvironment = 'prd'\n", 'Did you mean "prod"?'),
        ("[targets.crm]\nkind = 'x'\n[targets.crm.links]\nfoo = 'crm'\n", "'secrets' or"),
        (
            (
                "[targets.crm]\nkind = 'x'\n[targets.crm.links]\nsecrets = 'valt'\n"
                "[targets.vault]\nkind = 'x'\n"
            ),
            (
                "targets.crm.links.secrets: it has to name a configured target, and there is none "
                'with this name. Did you mean "vault"?'
            ),
        ),
    ],
)
def test_a_mistake_in_the_file_is_told_with_its_place(place: Place, text: str, says: str) -> None:
    message = place.wrong(text)
    assert str(place.file) in message
    assert says in message


def test_a_mistake_in_a_variable_or_option_names_that_instead_of_the_file(place: Place) -> None:
    message = place.wrong("", {"CIRCUIT_BREAKER_THRESHOLD": "none"}, server__port=70_000)
    assert "environment variable CIRCUIT_BREAKER_THRESHOLD: found text of 4 char" in message
    assert "option --port: found 70000" in message
    assert str(place.file) not in message


def test_all_mistakes_are_told_together(place: Place) -> None:
    text = "[server]\nport = -1\n[guard]\nmode = 1\n[targets.crm]\nkind='x'\nlinks={secrets='no'}\n"
    message = place.wrong(text, {"DLQ_RETENTION_DAYS": "0"})
    assert "wrong in 4 places" in message


def test_a_literal_secret_is_refused_and_never_repeated(place: Place) -> None:
    message = place.wrong('[[server.keys]]\nname = "a"\nkey = "hunter2hunter2hunter2"\n')
    assert "server.keys #1.key: found text of 21 characters, expected a reference" in message
    assert "hunter2" not in message


def test_rejected_texts_are_never_repeated(place: Place) -> None:
    text = '[server]\ntransport = "hunter2"\nhots = "hunter2"\n[guard]\nlimits = "hunter2"\n'
    assert "hunter2" not in place.wrong(text, {"PORT": "hunter2", "MCP_OPS_KEY": "hunter2"})


def test_a_short_key_is_refused_under_the_name_of_its_variable(place: Place) -> None:
    message = place.wrong(None, {"MCP_OPS_KEY": "short"})
    assert "environment variable MCP_OPS_KEY" in message
    assert "at least 16 characters" in message


def test_a_key_may_stand_in_a_file_next_to_the_configuration(place: Place) -> None:
    (place.folder / "key.txt").write_text(f"{KEY}\n", encoding="utf-8")
    settings = place.load('[[server.keys]]\nname = "a"\nkey = "file:key.txt"\n')
    assert settings.server.keys[0].key.get_secret_value() == KEY


def test_two_keys_of_one_name_are_refused(place: Place) -> None:
    text = '[[server.keys]]\nname = "a"\nkey = "env:K"\n' * 2
    assert 'two keys are called "a"' in place.wrong(text, {"K": KEY})


def test_an_unknown_scope_is_refused(place: Place) -> None:
    text = '[[server.keys]]\nname = "a"\nkey = "env:K"\nscopes = ["ops:reed"]\n'
    assert 'Did you mean "ops:read"?' in place.wrong(text, {"K": KEY})


def test_a_rule_that_matches_no_target_is_a_notice(place: Place) -> None:
    text = (
        "[targets.crm]\nkind = 'x'\n[[guard.protected]]\ntarget = 'cmr'\n"
        "[[guard.protected]]\ntarget = 'c*'\n"
    )
    notices = place.load(text).notices
    assert notices == ("guard.protected #1 matches none of the configured targets.",)
