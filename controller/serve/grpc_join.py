"""JoinService: the one call a stranger may make.

In: a bootstrap token, a node's name and a certificate request. Out: a certificate for that name; what the token said of the node is
remembered until its Node is made. Who may is decided by the token book.
"""

from __future__ import annotations

from controller.ca import ClusterCA
from controller.nodes import joined
from controller.store.base import Store
from controller.tokens import TokenBook
from podwire import rpc, tls
from podwire.api.v1 import node_sync_pb2 as sync
from podwire.api.v1 import node_sync_pb2_grpc as sync_grpc
from podwire.model.names import dns_label


class JoinService(sync_grpc.JoinServiceServicer):
    """See the module's docstring."""

    def __init__(self, store: Store, tokens: TokenBook, ca: ClusterCA) -> None:
        self._store = store
        self._tokens = tokens
        self._ca = ca

    async def Join(self, request: sync.JoinRequest, context: object) -> sync.JoinResponse:
        """Trades a token for a certificate."""
        node = dns_label(request.node, "node")
        key = tls.csr_spki_sha256(request.csr_pem)
        grant = await self._tokens.redeem(request.token, node, key, rpc.peer_host())
        await self._store.transact((), (joined(node, zone=grant.zone, labels=grant.labels),))
        certificate = self._ca.sign_node(request.csr_pem, node)
        return sync.JoinResponse(certificate_pem=certificate, ca_pem=self._ca.ca_pem)
