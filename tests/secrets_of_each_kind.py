"""One secret of each format, drawn anew from a fixed seed: none of them stands in a file."""

# ruff: noqa: E501  # a table of lines as they are

from __future__ import annotations

import base64
import json
import random
import string
from dataclasses import dataclass

ALNUM = string.ascii_letters + string.digits
UPPER = string.ascii_uppercase + string.digits
HEX = "0123456789abcdef"
WORDY = ALNUM + "_-"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """A secret, and the text that it stands in where its form alone does not tell."""

    name: str
    secret: str
    text: str


class Draw:
    """Random strings that are the same in each run."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def __call__(self, length: int, alphabet: str = ALNUM) -> str:
        return "".join(self._random.choice(alphabet) for _ in range(length))

    def base64(self, size: int) -> str:
        return base64.b64encode(self._random.randbytes(size)).decode("ascii")


def samples(seed: int = 18) -> list[Sample]:
    """A sample of every format that the engine knows."""
    draw = Draw(seed)
    alone = {
        "AWS access key id": f"AKIA{draw(16, UPPER)}",
        "AWS temporary key id": f"ASIA{draw(16, UPPER)}",
        "Google API key": f"AIza{draw(35, WORDY)}",
        "Google access token": f"ya29.{draw(60, WORDY)}",
        "Google client secret": f"GOCSPX-{draw(28, WORDY)}",
        "Google refresh token": f"1//0{draw(60, WORDY)}",
        "Azure client secret": f"{draw(3)}8Q~{draw(34, ALNUM + '_~.-')}",
        "Azure storage key": f"{draw(76)}+ASt{draw(5)}Q==",
        "Azure service key": f"{draw(52)}JQQJ99A{draw(24)}",
        "GitHub classic token": f"ghp_{draw(36)}",
        "GitHub app token": f"ghs_{draw(36)}",
        "GitHub fine-grained token": f"github_pat_{draw(22)}_{draw(59)}",
        "GitLab token": f"glpat-{draw(20, WORDY)}",
        "GitLab routable token": f"glpat-{draw(27, WORDY)}.{draw(2, HEX)}.{draw(9, HEX)}",
        "GitLab runner token": f"glrt-{draw(20, WORDY)}",
        "Slack bot token": f"xoxb-{draw(12, string.digits)}-{draw(12, string.digits)}-{draw(24)}",
        "Slack app token": f"xapp-1-{draw(11, UPPER)}-{draw(13, string.digits)}-{draw(64, HEX)}",
        "Twilio key": f"SK{draw(32, HEX)}",
        "Stripe secret key": f"sk_live_{draw(99)}",
        "Stripe restricted key": f"rk_test_{draw(24)}",
        "Stripe webhook secret": f"whsec_{draw(32)}",
        "key of mcp-ops": f"mcpops_{draw(43, WORDY)}",
        "OpenAI key": f"sk-proj-{draw(74, WORDY)}",
        "Anthropic key": f"sk-ant-api03-{draw(93, WORDY)}AA",
        "npm token": f"npm_{draw(36)}",
        "PyPI token": f"pypi-AgEI{draw(120, WORDY)}",
        "Salesforce session id": f"00D{draw(15)}!AQ{draw(90, ALNUM + '._')}",
        "Salesforce refresh token": f"5Aep861{draw(80, ALNUM + '._')}",
        "JWT": f"eyJ{draw(33)}.eyJ{draw(80, WORDY)}.{draw(43, WORDY)}",
        "encrypted JWT": f"eyJ{draw(33)}..{draw(16)}.{draw(80)}.{draw(22)}".replace(
            "..", f".{draw(40)}."
        ),
        "Vault token": f"hvs.{draw(90, WORDY)}",
        "SendGrid key": f"SG.{draw(22, WORDY)}.{draw(43, WORDY)}",
        "age key": f"AGE-SECRET-KEY-1{draw(58, UPPER)}",
        "password hash": f"$2b$12${draw(53)}",
    }
    within = {
        "AWS secret key": ("aws_secret_access_key = {}", draw(40, ALNUM + "/+")),
        "Azure connection string": ("AccountName=shop;AccountKey={};EndpointSuffix=x", draw.base64(64)),
        "Azure service bus": ("Endpoint=sb://x/;SharedAccessKey={}", draw.base64(32)),
        "Azure SAS": ("https://s.example/c?sv=2024-08-04&sp=r&sig={}&se=x", draw(43) + "%3D"),
        "AWS presigned URL": ("https://b.example/k?X-Amz-Date=x&X-Amz-Signature={}", draw(64, HEX)),
        "Slack webhook": ("https://hooks.slack.com/services/{}", f"T{draw(10, UPPER)}/B{draw(10, UPPER)}/{draw(24)}"),
        "Twilio auth token": ("TWILIO_AUTH_TOKEN={}", draw(32, HEX)),
        "postgres URL": ("postgres://app:{}@db.example:5432/shop", draw(14)),
        "password with an @": ("postgres://app:{}@db.example/shop", f"p@{draw(8)}@{draw(4)}"),
        "password with a slash": ("amqp://app:{}@mq.example/", f"{draw(6)}/{draw(7)}"),
        "redis URL without a user": ("redis://:{}@cache.example:6379/0", draw(20)),
        "mongodb URL": ("mongodb+srv://ops:{}@cluster.example/?w=majority", draw(16)),
        "token as the user of a URL": ("https://{}@git.example/shop.git", draw(38) + "7"),
        "Bearer": ("Authorization: Bearer {}", draw(40, WORDY)),
        "Bearer in prose": ("sent Bearer {} and got 401", draw(40, WORDY)),
        "Basic": ("authorization: Basic {}", draw.base64(24)),
        "unknown scheme": ("Authorization: {}", draw(24)),
        "cookie": ("Cookie: sid={}; theme=dark", draw(26)),
        "Set-Cookie": ("Set-Cookie: sid={}; Path=/; HttpOnly", draw(26)),
        "header as a library logs it": ("[(b'Set-Cookie', b'sid={}; Path=/')]", draw(26)),
        "key of an API as a library logs it": ("{{'x-api-key': '{}'}}", draw(26)),
        "password assigned": ("password={}", draw(9)),
        "password in YAML": ("  password: {}\n  user: app", draw(9)),
        "password in quotes": ('password: "{}"', f"two {draw(5)} words"),
        "password in JSON": ('{{"db": {{"password":"{}","port":5432}}}}', draw(12)),
        "password in JSON in JSON": ('{{"m":"{{\\"password\\": \\"{}\\", \\"n\\": 1}}"}}', draw(12)),
        "password in an env file": ("export DB_PASSWORD='{}'", draw(12)),
        "block in YAML": ("private_key: |\n  {}\nport: 1", draw(30)),
        "variable of a container": ('{{"name": "DB_PASSWORD", "value": "{}"}}', draw(12)),
        "variable of a container in YAML": ("- name: API_TOKEN\n  value: {}\n", draw(12)),
        "element": ("<sessionId>{}</sessionId>", draw(30)),
        "argument": ("mysql --host db --password {} shop", draw(11)),
        "argument of curl": ("curl -u app:{} https://x.example", draw(11)),
        "setting of Redis": ("CONFIG SET requirepass {}", draw(13)),
        "statement of SQL": ("ALTER USER app IDENTIFIED BY '{}'", draw(13)),
        "role of PostgreSQL": ("ALTER ROLE app PASSWORD '{}'", draw(13)),
        "sentence": ("the password is {} for now", draw(9) + "7"),
        "token in a query": ("GET /x?access_token={}&y=1", draw(30)),
        "code of OAuth": ("GET /callback?code={}&x=1", draw(30)),
        "verifier of OAuth": ('"code_verifier":"{}"', draw(43, WORDY)),
        "docker login": ('{{"auths":{{"r.example":{{"auth":"{}"}}}}}}', draw.base64(24)),
        "random next to a word": ("using key {} for shard 3", draw(32)),
    }  # fmt: skip
    found = [
        Sample(name=name, secret=each, text=f"got {each} back") for name, each in alone.items()
    ]
    found += [
        Sample(name=name, secret=secret, text=text.format(secret))
        for name, (text, secret) in within.items()
    ]
    return [*found, *_keys(draw), *_kubernetes(draw)]


def _keys(draw: Draw) -> list[Sample]:
    made = []
    for kind, width in (
        ("RSA PRIVATE KEY", 64),
        ("PRIVATE KEY", 64),
        ("ENCRYPTED PRIVATE KEY", 64),
        ("EC PRIVATE KEY", 64),
        ("OPENSSH PRIVATE KEY", 70),
        ("PGP PRIVATE KEY BLOCK", 64),
    ):
        lines = [draw(width, ALNUM + "+/") for _ in range(4)]
        pem = "\n".join([f"-----BEGIN {kind}-----", *lines, f"-----END {kind}-----"])
        made.append(Sample(name=kind, secret=lines[1], text=f"loaded {pem}\nready"))
    account = {"type": "service_account", "private_key": pem + "\n", "client_email": "a@x.example"}
    made.append(Sample(name="service account", secret=lines[2], text=json.dumps(account)))
    return made


def _kubernetes(draw: Draw) -> list[Sample]:
    value = base64.b64encode(draw(12).encode()).decode()
    yaml = f"apiVersion: v1\nkind: Secret\ndata:\n  url: {value}\nmetadata:\n  name: db\n"
    body = json.dumps({"kind": "Secret", "data": {"url": value}, "metadata": {"name": "db"}})
    return [
        Sample(name="Secret as YAML", secret=value, text=yaml),
        Sample(name="Secret as JSON", secret=value, text=body),
        Sample(
            name="Secret in an annotation", secret=value, text=json.dumps({"last-applied": body})
        ),
    ]
