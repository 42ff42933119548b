"""`python -m controller.admin`: what a driver asks of a controller from inside its container.

In: `token NODE…` or `client-cert NAME`, and the controller's state directory. Out: one JSON object on stdout: per node what it joins
with (the content of its join.json), or `{"ca": …, "cert": …, "key": …}` as PEM. Tokens are made by the running controller over its Unix
socket; credentials come from the CA's files, so that no certificate is needed to get the first one.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path

import msgspec

from controller.ca import ClusterCA
from controller.config import CLUSTER_FILE, JOIN_PORT, SOCKET, SYNC_PORT
from controller.document import read_cluster
from podwire.errors import NotFound, PodwireError
from podwire.model.names import dns_label
from podwire.seams import SystemClock, SystemDisk, SystemRng

HOST = "controller"  # how nodes reach it, unless a flag says otherwise


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m controller.admin", description="Tokens and credentials, as JSON.")
    parser.add_argument("--state-dir", required=True, type=Path)
    parser.add_argument("--socket", type=Path, help=f"the controller's socket (STATE/{SOCKET})")
    parser.add_argument("--cluster-file", type=Path, help=f"the Cluster document as JSON (STATE/{CLUSTER_FILE})")
    verbs = parser.add_subparsers(dest="verb", required=True)
    token = verbs.add_parser("token", help="a join token for each node")
    token.add_argument("nodes", nargs="+", metavar="NODE")
    token.add_argument("--host", default=HOST, help="the controller's address, as nodes reach it (%(default)s)")
    client = verbs.add_parser("client-cert", help="credentials for a user")
    client.add_argument("name", metavar="NAME")
    return parser.parse_args(argv)


async def tokens(socket: Path, nodes: list[str], host: str) -> dict[str, dict[str, str]]:
    """What each node joins with. Zones and labels are those of the Cluster document."""
    from podwire.client import connect  # noqa: PLC0415 - brings gRPC, which `up` would wait for to get its certificate

    made = {}
    async with connect(socket=socket) as client:
        for node in nodes:
            answer = await client.create_join_token(node)
            made[node] = {
                "controller": f"{host}:{SYNC_PORT}",
                "join": f"{host}:{JOIN_PORT}",
                "node": node,
                "token": answer.token,
                "ca_spki_sha256": answer.ca_spki_sha256,
            }
    return made


def client_certificate(document: Path, state: Path, name: str) -> dict[str, str]:
    """Credentials for a user; raises NotFound before the controller has made its CA."""
    clock, rng, disk = SystemClock(), SystemRng(), SystemDisk()
    directory = state / "ca"
    if not directory.is_dir():
        raise NotFound(f"there is no CA in {directory} yet: start the controller first")
    spec = read_cluster(disk.read(document), document, "")
    ca = ClusterCA.open(spec.name, directory, clock=clock, rng=rng, disk=disk)
    made = ca.issue_user(dns_label(name, "name"))
    return {
        "ca": made.ca_pem.decode(),
        "cert": made.certificate_pem.decode(),
        "key": made.key_pem.decode(),
    }


def main() -> int:
    """The program."""
    flags = arguments()
    try:
        if flags.verb == "token":
            answer: object = asyncio.run(tokens(flags.socket or flags.state_dir / SOCKET, flags.nodes, flags.host))
        else:
            answer = client_certificate(
                flags.cluster_file or flags.state_dir / CLUSTER_FILE, flags.state_dir, flags.name
            )
    except PodwireError as error:
        sys.stderr.write(f"controller.admin: {error.message}\n")
        return 1
    sys.stdout.write(msgspec.json.encode(answer).decode() + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
