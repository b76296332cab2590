"""One real broker with a listener for each way of security, and the settings with which mailspan gets in.

SCRAM users are made through the admin API on the loopback listener without security, so that no password is on a
command line. Certificates are made at run time. EXPIRED is a listener whose own certificate has run out.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from confluent_kafka.admin import AdminClient, ScramCredentialInfo, ScramMechanism, UserScramCredentialUpsertion

from tests.certificates import Authority
from tests.kafka_server import Broker, running

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

USER = "fleet"
PASSWORD = "p=a,ss word#%"  # noqa: S105 - made for the test; what a list of key=value would tear apart
WRONG = "wrong-hunter2"
_SCRAM = "SCRAM-SHA-512"
_LOGIN = "org.apache.kafka.common.security.scram.ScramLoginModule required;"
_PROTOCOLS = {
    "SCRAM": "SASL_PLAINTEXT",
    "SCRAMTLS": "SASL_SSL",
    "TLS": "SSL",
    "MTLS": "SSL",
    "EXPIRED": "SSL",
}


class Secured:
    """The broker, and the settings (without the prefix MAILSPAN_) for each way in."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.authority = Authority(folder / "ca", "mailspan test CA")
        self.stranger = Authority(folder / "stranger", "another CA")
        server = self._keystore("server", 2)
        expired = self._keystore("expired server", -1)
        trusted = {"type": "PEM", "location": str(self.authority.certificate)}
        properties = {"super.users": f"User:ANONYMOUS;User:{USER};User:CN=client"}
        for name, protocol in _PROTOCOLS.items():
            prefix = f"listener.name.{name.lower()}"
            if protocol.startswith("SASL"):
                properties[f"{prefix}.sasl.enabled.mechanisms"] = _SCRAM
                properties[f"{prefix}.{_SCRAM.lower()}.sasl.jaas.config"] = _LOGIN
            if protocol.endswith("SSL"):
                properties[f"{prefix}.ssl.keystore.type"] = "PEM"
                properties[f"{prefix}.ssl.keystore.location"] = str(expired if name == "EXPIRED" else server)
                properties |= {f"{prefix}.ssl.truststore.{key}": value for key, value in trusted.items()}
                properties[f"{prefix}.ssl.client.auth"] = "required" if name == "MTLS" else "none"
        self._properties = properties

    @contextmanager
    def running(self) -> Iterator[Secured]:
        """Run the broker, with its user."""
        with running(self.folder / "broker", protocols=_PROTOCOLS, properties=self._properties) as self.broker:
            info = ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, 4096)
            change = UserScramCredentialUpsertion(USER, info, PASSWORD.encode())
            admin = AdminClient({"bootstrap.servers": self.broker.address})
            for future in admin.alter_user_scram_credentials([change]).values():
                future.result(timeout=30)
            yield self

    broker: Broker

    def way(self, name: str, *, password: str = PASSWORD, **options: str) -> dict[str, str]:
        """Return the settings for a listener; options with _ for dots come over those that are right."""
        protocol = _PROTOCOLS[name]
        config = {"security.protocol": protocol}
        settings = {"KAFKA_BOOTSTRAP_SERVERS": self.broker.addresses[name]}
        if protocol.startswith("SASL"):
            config |= {"sasl.mechanism": _SCRAM, "sasl.username": USER}
            secret = self.folder / ("password" if password == PASSWORD else "wrong-password")
            secret.write_text(f"{password}\n", encoding="utf-8")
            settings["KAFKA_PASSWORD_FILE"] = str(secret)
        if protocol.endswith("SSL"):
            config["ssl.ca.location"] = str(self.authority.certificate)
        config |= {key.replace("_", "."): value for key, value in options.items()}
        return {**settings, "KAFKA_OPTIONS": ",".join(f"{key}={value}" for key, value in config.items())}

    def client(self, authority: Authority, name: str = "client", days: int = 2) -> dict[str, str]:
        """Return the options for a client's certificate."""
        certificate, key = authority.issue(name, days=days)
        return {"ssl_certificate_location": str(certificate), "ssl_key_location": str(key)}

    def _keystore(self, name: str, days: int) -> Path:
        certificate, key = self.authority.issue(name, "IP:127.0.0.1", days)
        store = self.folder / f"{name.replace(' ', '-')}-store.pem"
        store.write_bytes(key.read_bytes() + certificate.read_bytes())
        return store
