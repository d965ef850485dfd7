"""How a device that was just given its credentials publishes: lines to paste, that work as they stand.

Text only. Decides which address of the box a device is told, and says what is missing for the lines to work.
"""

import shlex
import socket
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from core.config import HostPort, Listener
from tidegate.credentials import Credentials

TLS_PORT = 8883  # IANA's secure-mqtt
ANYWHERE = {"0.0.0.0", "::"}
PAYLOAD = '{"temperature": 21.5}'
LISTENER = f'[[listeners]]\naddress = "0.0.0.0:{TLS_PORT}"\ntls = {{}}\n'

FILES = {"ca": "proves who the broker is", "certificate": "says who the device is", "key": "proves it; the only copy"}


@dataclass(frozen=True, slots=True)
class Broker:
    """Where a device finds the broker, and what an operator must do before it does."""

    address: HostPort
    notes: tuple[str, ...]


def page(facts: Mapping[str, Any]) -> str:
    """What `tidegate devices add` and `rotate` say, from what their --json has."""
    name, certificate, files = facts["name"], facts["certificate"], facts["files"]
    if certificate:
        end = f"until {certificate['expires']}" if certificate["expires"] else "for ever"
        head = f"{name} has certificate {certificate['id']}, valid {end}."
    else:
        where = "" if "password" in files else ", which the lines below take from $PASSWORD"
        head = f"{name} logs in with its name and password{where}."
    listed = [f"  {path}  ({FILES[part]})" for part, path in files.items() if part in FILES]
    parts = [
        "\n".join([head, *listed]),
        f"In a shell:\n\n{facts['mosquitto_pub']}",
        f"In Python, with paho-mqtt 2:\n\n{facts['paho']}",
        *facts["notes"],
    ]
    return "\n\n".join(parts)


def broker(listeners: Sequence[Listener], *, passwords: bool, host: str | None) -> Broker:
    """The first listener with MQTT over TLS, and passwords if they are wanted, by a name that devices can use."""
    speaking = [listener for listener in listeners if listener.protocol == "mqtt" and listener.tls is not None]
    fitting = [listener for listener in speaking if listener.passwords or not passwords]
    for listener in [*fitting, *speaking]:
        if isinstance(listener.address, HostPort):
            address = HostPort(host or _name_of(listener, listener.address.host), listener.address.port)
            return Broker(address, tuple(_notes(listener, passwords=passwords)))
    wanted = LISTENER + ("passwords = true\n" if passwords else "")
    note = f"No listener speaks TLS yet. Add one to the configuration and start the daemon again:\n\n{wanted}"
    return Broker(HostPort(host or socket.gethostname(), TLS_PORT), (note,))


def _name_of(listener: Listener, bound: str) -> str:
    named = listener.tls.names[:1] if listener.tls is not None else ()
    return bound if bound not in ANYWHERE else named[0] if named else socket.gethostname()


def _notes(listener: Listener, *, passwords: bool) -> Iterator[str]:
    if passwords and not listener.passwords:
        yield f"The listener at {listener.address} takes no passwords yet; add passwords = true to it."
    if listener.tls is not None and listener.tls.certificate is not None:
        yield (
            f"The listener at {listener.address} shows {listener.tls.certificate}. Unless the local authority has "
            "signed that, put the certificate of the authority that has in place of ca.pem."
        )


def mosquitto_pub(address: HostPort, credentials: Credentials) -> str:
    """A shell command that publishes one message with QoS 1."""
    c = credentials
    words = ["mosquitto_pub", "-h", address.host, "-p", str(address.port), "--cafile", str(c.ca)]
    if c.certificate is not None:
        words += ["--cert", str(c.certificate), "--key", str(c.key)]
    else:
        words += ["-u", c.name]
    words += ["-i", c.name, "-t", f"{c.name}/telemetry", "-q", "1", "-m", PAYLOAD]
    line = shlex.join(words)
    if c.certificate is not None:
        return line
    password = f"$(cat {shlex.quote(str(c.password))})" if c.password else "$PASSWORD"
    return f'{line} -P "{password}"'


def paho(address: HostPort, credentials: Credentials) -> str:
    """A Python program that does the same with paho-mqtt 2."""
    c = credentials
    imports, login = "", ""
    files = f"{str(c.ca)!r}"
    if c.certificate is not None:
        files += f", {str(c.certificate)!r}, {str(c.key)!r}"
    elif c.password is not None:
        imports, login = "from pathlib import Path\n\n", f"Path({str(c.password)!r}).read_text().rstrip('\\n')"
    else:
        imports, login = "import os\n\n", "os.environ['PASSWORD']"
    lines = [
        f"{imports}import paho.mqtt.client as mqtt",
        "",
        f"client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id={c.name!r})",
        f"client.tls_set({files})",
        *([f"client.username_pw_set({c.name!r}, {login})"] if login else []),
        f"client.connect({address.host!r}, {address.port})",
        "client.loop_start()",
        f"message = client.publish({f'{c.name}/telemetry'!r}, {PAYLOAD!r}, qos=1)",
        "message.wait_for_publish(10)",
        "client.disconnect()",
        "client.loop_stop()",
        "print('acknowledged' if message.is_published() else 'not acknowledged')",
    ]
    return "\n".join(lines)
