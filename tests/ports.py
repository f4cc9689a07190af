"""Ports for servers that tests start later."""

import random
import socket
from pathlib import Path

RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
FIRST, LAST = 15_000, 65_535  # ports that are looked among


def free_port() -> int:
    """A port that is free, and that no connection of another test is given in the meantime.

    The kernel gives connections, and servers that ask for any port, one from a range of its own:
    a port within it may be taken between this call and the start of a server.
    """
    outside = []
    if RANGE.exists():
        first, last = map(int, RANGE.read_text().split())
        outside = [port for port in range(FIRST, LAST + 1) if not first <= port <= last]
    tried = random.SystemRandom().sample(outside, min(len(outside), 100))
    for port in [*tried, 0]:  # of any port where no other is free
        with socket.socket() as server:
            try:
                server.bind(("", port))
            except OSError:
                continue
            return server.getsockname()[1]
    raise OSError("no port of this machine is free")
