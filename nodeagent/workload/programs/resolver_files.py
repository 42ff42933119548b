"""`etc-hosts`, `dns-suffix` and `dns-server-list`: print what the container's resolver reads, and end.

In: the container's hosts and resolv.conf. Out: one line, or the file.
"""

from __future__ import annotations

from nodeagent.workload.flags import parse
from nodeagent.workload.life import Life
from nodeagent.workload.names import parse_resolv_conf


async def etc_hosts(life: Life, args: tuple[str, ...]) -> int:
    """Prints /etc/hosts."""
    parse(args, {})
    life.out(life.around.names.read("hosts"))
    return 0


async def dns_suffix(life: Life, args: tuple[str, ...]) -> int:
    """Prints the search list, comma separated."""
    parse(args, {})
    life.out(",".join(parse_resolv_conf(life.around.names.read("resolv.conf")).searches))
    return 0


async def dns_server_list(life: Life, args: tuple[str, ...]) -> int:
    """Prints the name servers, comma separated."""
    parse(args, {})
    life.out(",".join(parse_resolv_conf(life.around.names.read("resolv.conf")).nameservers))
    return 0
