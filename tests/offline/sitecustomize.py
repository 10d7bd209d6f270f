"""Python reads this as it starts: no process of the tests reaches beyond this machine."""

import ipaddress
import socket
import sys

HERE = {"", "localhost", socket.gethostname(), socket.gethostname().split(".")[0]}
EVENTS = {"socket.connect": 1, "socket.sendto": 1, "socket.getaddrinfo": 0}  # where the host is


class OutsideError(RuntimeError):
    """A test, or what it started, asked for an address beyond this machine."""


def _is_here(host: object) -> bool:
    text = host.decode() if isinstance(host, bytes) else host
    if text is None or text in HERE:
        return True
    try:
        address = ipaddress.ip_address(str(text).split("%")[0])
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified


def _forbid(event: str, arguments: tuple[object, ...]) -> None:
    if event in EVENTS:
        place = arguments[EVENTS[event]]
        if event != "socket.getaddrinfo" and not isinstance(place, tuple):
            return  # a socket of this machine's file system
        host = place[0] if isinstance(place, tuple) else place
        if not _is_here(host):
            raise OutsideError(f"{event}: expected an address of this machine, got host={host!r}")


sys.addaudithook(_forbid)
