"""The client properties of the action `kafka`: Kafka's own names, of which AWS takes these and no others."""

from rules.actions.fields import did_you_mean, listed
from rules.sql.template import Template

CHOICES = {  # property → the values it may have
    "key.serializer": ("StringSerializer",),
    "value.serializer": ("ByteBufferSerializer",),
    "security.protocol": ("SSL", "SASL_SSL"),
    "acks": ("-1", "0", "1", "all"),
    "compression.type": ("none", "gzip", "snappy", "lz4", "zstd"),
    "sasl.mechanism": ("PLAIN", "SCRAM-SHA-512", "GSSAPI"),
}
MECHANISMS = {  # value of sasl.mechanism → the properties it needs
    "PLAIN": ("sasl.plain.username", "sasl.plain.password"),
    "SCRAM-SHA-512": ("sasl.scram.username", "sasl.scram.password"),
    "GSSAPI": tuple(
        f"sasl.kerberos.{name}" for name in ("keytab", "service.name", "krb5.kdc", "krb5.realm", "principal")
    ),
}
SSL = ("ssl.keystore", "ssl.keystore.password")  # what security.protocol SSL, the default, needs
KEYS = frozenset(
    ("bootstrap.servers", "ssl.truststore", "ssl.truststore.password", "ssl.key.password", *SSL, *CHOICES)
).union(*MECHANISMS.values())


def checked(properties: dict[str, Template]) -> dict[str, Template]:
    """The properties, when they are complete and each is known. Raises ValueError with what is wrong."""
    for key, value in properties.items():
        if key not in KEYS:
            raise ValueError(f"there is no client property {key[:80]!r}{did_you_mean(key, KEYS)}")
        choices = CHOICES.get(key, ())
        if choices and value.constant is not None and value.constant not in choices:
            raise ValueError(f"{key} must be {listed(choices)}{did_you_mean(value.constant, choices)}")
    missing = [key for key in ("bootstrap.servers", *_secured_by(properties)) if key not in properties]
    if missing:
        raise ValueError(f"{missing[0]} is missing")
    return properties


def _secured_by(properties: dict[str, Template]) -> tuple[str, ...]:
    protocol, mechanism = properties.get("security.protocol"), properties.get("sasl.mechanism")
    if protocol is None or protocol.source == "SSL":
        return SSL
    if protocol.source != "SASL_SSL":  # a template: known when a message comes
        return ()
    return ("sasl.mechanism", *(MECHANISMS.get(mechanism.source, ()) if mechanism else ()))
