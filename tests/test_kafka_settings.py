"""Settings: how each is read, and that no secret is ever shown."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from mailspan.errors import UsageError
from mailspan.kafka_settings import client_config
from mailspan.settings import read_settings

if TYPE_CHECKING:
    from pathlib import Path


def test_options_of_kafka_as_text_and_as_a_table(tmp_path: Path) -> None:
    text = "security.protocol=SASL_SSL, sasl.mechanism=PLAIN,debug=broker,topic,ssl.ca.location=/etc/a=b.pem"
    expected = {
        "security.protocol": "SASL_SSL",
        "sasl.mechanism": "PLAIN",
        "debug": "broker,topic",
        "ssl.ca.location": "/etc/a=b.pem",
    }
    assert read_settings({"MAILSPAN_KAFKA_OPTIONS": text}).kafka_options == expected
    config = tmp_path / "config.toml"
    config.write_text(
        'mailspan_partitions = 12\n[mailspan_kafka_options]\n"linger.ms" = 5\n"socket.keepalive.enable" = true\n',
        encoding="utf-8",
    )
    settings = read_settings({}, config)
    assert settings.kafka_options == {"linger.ms": "5", "socket.keepalive.enable": "true"}
    assert settings.partitions == 12


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("KAFKA_OPTIONS", "sasl.password=hunter2"),
        ("KAFKA_OPTIONS", "ssl.key.password=hunter2"),
        ("KAFKA_OPTIONS", "sasl.oauthbearer.client.secret=hunter2"),
        ("KAFKA_OPTIONS", "hunter2"),
        ("PARTITIONS", "many"),
        ("PARTITIONS", "-1"),
        ("TOPIC_PREFIX", "a/b"),
        ("TOPIC_PREFIX", "a" * 101),
    ],
)
def test_a_wrong_value_is_refused_and_a_secret_not_shown(name: str, value: str) -> None:
    with pytest.raises(UsageError, match=f"MAILSPAN_{name}") as caught:
        read_settings({f"MAILSPAN_{name}": value})
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("sasl.mechanism=SCRAM-SHA-512,sasl.username=me", "sasl.password"),
        ("sasl.mechanism=OAUTHBEARER,sasl.oauthbearer.method=oidc", "sasl.oauthbearer.client.secret"),
        ("security.protocol=SSL,ssl.key.location=/k,ssl.certificate.location=/c", "ssl.key.password"),
        ("security.protocol=SSL,ssl.keystore.location=/k", "ssl.keystore.password"),
    ],
)
def test_the_password_comes_from_its_file_only(tmp_path: Path, options: str, expected: str) -> None:
    secret = tmp_path / "secret"
    secret.write_text("hunter2\n", encoding="utf-8")
    settings = read_settings(
        {
            "MAILSPAN_KAFKA_BOOTSTRAP_SERVERS": "a:1",
            "MAILSPAN_KAFKA_OPTIONS": options,
            "MAILSPAN_KAFKA_PASSWORD_FILE": str(secret),
        }
    )
    assert "hunter2" not in repr(settings)
    assert client_config(settings)[expected] == "hunter2"


@pytest.mark.parametrize("ending", ["", "\n", "\r\n"])
def test_a_password_is_its_first_line_whatever_it_holds(tmp_path: Path, ending: str) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(f"a,b=c d{ending}".encode())
    settings = read_settings({"MAILSPAN_KAFKA_BOOTSTRAP_SERVERS": "a:1", "MAILSPAN_KAFKA_PASSWORD_FILE": str(secret)})
    assert client_config(settings)["sasl.password"] == "a,b=c d"


@pytest.mark.parametrize("content", [None, b"", b"\n", b"\xff\xfe"])
def test_a_password_file_that_cannot_be_used(tmp_path: Path, content: bytes | None) -> None:
    secret = tmp_path / "secret"
    if content is not None:
        secret.write_bytes(content)
    settings = read_settings({"MAILSPAN_KAFKA_BOOTSTRAP_SERVERS": "a:1", "MAILSPAN_KAFKA_PASSWORD_FILE": str(secret)})
    with pytest.raises(UsageError, match="MAILSPAN_KAFKA_PASSWORD_FILE"):
        client_config(settings)


@pytest.mark.parametrize("name", ["acks", "request.required.acks", "enable.idempotence", "message.timeout.ms"])
def test_what_keeps_lines_from_being_lost_cannot_be_set(name: str) -> None:
    settings = read_settings({"MAILSPAN_KAFKA_BOOTSTRAP_SERVERS": "a:1", "MAILSPAN_KAFKA_OPTIONS": f"{name}=1"})
    with pytest.raises(UsageError, match=name):
        client_config(settings)
