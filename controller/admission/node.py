"""Nodes: users may label and cordon them; address ranges are the controller's to give, once."""

from __future__ import annotations

from controller.admission.immutable import first_difference
from controller.objects.admission import AdmissionRequest
from controller.views import NodeView, view
from podwire.errors import InvalidInput
from podwire.model.names import dns_label

HOSTNAME_LABEL = "kubernetes.io/hostname"
ZONE_LABEL = "topology.kubernetes.io/zone"
CIDR_FIELDS = ("podCIDR", "podCIDRs")


def admit_node(request: AdmissionRequest) -> None:
    """Checks types, and that a pod CIDR that was given stays.

    Raises:
        InvalidInput: a field is wrong or must not change.
    """
    view(NodeView, request.new)
    dns_label(request.name, "metadata.name")
    request.new["metadata"].setdefault("labels", {}).setdefault(HOSTNAME_LABEL, request.name)
    spec = request.new.setdefault("spec", {})
    if request.old is None:
        for field in CIDR_FIELDS:
            if spec.get(field):
                raise InvalidInput(f"spec.{field}: is given by the controller, leave it out", field=f"spec.{field}")
        return
    before = request.old.get("spec", {})
    if not before.get("podCIDRs"):
        return
    path = first_difference(
        {field: before.get(field) for field in CIDR_FIELDS}, {field: spec.get(field) for field in CIDR_FIELDS}, "spec"
    )
    if path:
        raise InvalidInput(f"{path}: cannot be changed while the node exists", field=path)
