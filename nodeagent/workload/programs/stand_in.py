"""The stand-in for an image that we do not have: it answers on the ports that the manifest declares.

In: declared ports. Out: HTTP 200 on TCP ports with a line that says who answers and that it is a stand-in; the datagram itself on UDP
ports. A container without ports just lives. TERM ends it with 0, as most servers do.
"""

from __future__ import annotations

from nodeagent.workload.life import Life
from nodeagent.workload.sockets import NetError
from nodeagent.workload.web import Request, Response, text


async def main(life: Life, _: tuple[str, ...]) -> int:
    """Serves until TERM, whatever the image's own command line says."""
    title = life.around.title

    async def page(request: Request) -> Response:
        life.log(f"{request.method} {request.target}")
        return text(f"podwire stand-in: {title}, port {request.local_port}\n")

    for port, protocol in life.around.ports:
        if protocol == "TCP":
            await life.serve_http(port, page)
        elif protocol == "UDP":
            await life.serve_datagrams(port, lambda data, _: data, size=65535)
        else:
            try:
                await life.serve_streams(port, lambda _, writer: _hang_up(writer), sctp=True)
            except NetError as error:
                life.log(f"SCTP is left out, this kernel lacks it: {error}")
        life.log(f"stand-in for {title} serves {protocol} port {port}")
    life.serving.set()
    await life.terminated.wait()
    return 0


async def _hang_up(writer: object) -> None:
    """An SCTP association is accepted and closed."""
