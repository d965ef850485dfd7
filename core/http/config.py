"""[http]: where a daemon answers HTTP, and who may come in. See docs/http.md.

Decides what is accepted; `core.http.credentials` reads the files that are named here.
"""

from pydantic import model_validator

from core.config import ConfigPath, HostPort, Listener, Section, Tls, is_loopback


class HttpSection(Section):
    """The table, the same in edge.toml and cloud.toml.

    `credentials` is a file of access keys, for Signature Version 4; `tokens` one of bearer tokens. With `tls` devices
    come in by certificate, for what AWS IoT lets them do over HTTP.
    """

    address: HostPort
    anonymous: bool = False
    tls: Tls | None = None
    credentials: ConfigPath | None = None
    tokens: ConfigPath | None = None

    @model_validator(mode="after")
    def _somebody_can_connect(self) -> "HttpSection":
        if self.tls is None and not (self.anonymous or self.credentials or self.tokens):
            raise ValueError(
                "nobody could connect: set credentials or tokens to a file of them, tls, so that certificates say who "
                "a client is, or anonymous = true"
            )
        if self.tokens and self.tls is None and not is_loopback(self.address.host):
            raise ValueError("tokens would cross the network in clear: set tls = {}, or listen on 127.0.0.1")
        return self

    @property
    def exposed(self) -> bool:
        """Whether clients on other machines may ask for everything without saying who they are; worth a warning."""
        return self.anonymous and not is_loopback(self.address.host)

    @property
    def listener(self) -> Listener | None:
        """Its TLS in the form that makes contexts and renews certificates; None without TLS."""
        if self.tls is None:
            return None
        other = self.credentials is not None or self.tokens is not None
        return Listener(address=self.address, tls=self.tls, anonymous=self.anonymous, passwords=other)
