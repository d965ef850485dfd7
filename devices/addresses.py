"""By which names and addresses this box can be reached, as far as it knows itself: no resolver is asked.

A resolver without a network would keep a start waiting. What the box cannot know, such as its address behind a router,
an operator adds to a listener's `tls.names`.
"""

import fcntl
import ipaddress
import re
import socket
import struct
from contextlib import suppress
from pathlib import Path

LOCAL = ("localhost", "127.0.0.1", "::1")

_SIOCGIFADDR = 0x8915  # netdevice(7)
_IFREQ = "16s24x"  # struct ifreq: the interface's name and room for the answer, whose address is at 20:24
_IF_INET6 = Path("/proc/net/if_inet6")  # address, index, prefix, scope, flags, name
_GLOBAL_SCOPE = "00"

# What may stand in a certificate; Linux takes almost anything for a host name.
_NAME = re.compile(r"[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*|[0-9a-f:]+")


def own_names() -> list[str]:
    """Host name, host name with `.local` (multicast DNS), `localhost`, and the addresses that the box has now."""
    host = socket.gethostname()
    short = host.split(".")[0]
    named = [host, f"{short}.local", *LOCAL, *_ipv4(), *_ipv6()]
    return list(dict.fromkeys(name for name in named if _NAME.fullmatch(name)))


def _ipv4() -> list[str]:
    found = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as probe:
        for _, interface in socket.if_nameindex():
            with suppress(OSError):  # an interface without an address
                answer = fcntl.ioctl(probe, _SIOCGIFADDR, struct.pack(_IFREQ, interface.encode()))
                found.append(socket.inet_ntoa(answer[20:24]))
    return found


def _ipv6() -> list[str]:
    try:
        lines = [line.split() for line in _IF_INET6.read_text().splitlines()]
    except OSError:  # a kernel without IPv6
        return []
    return [str(ipaddress.IPv6Address(int(fields[0], 16))) for fields in lines if fields[3] == _GLOBAL_SCOPE]
