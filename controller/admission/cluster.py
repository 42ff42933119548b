"""The Cluster document, once stored: what nodes already use cannot be changed under them."""

from __future__ import annotations

from controller.admission.immutable import first_difference
from controller.objects.admission import AdmissionRequest
from podwire.errors import InvalidInput
from podwire.model.cluster import parse_cluster

MUTABLE = ("nodes", "underlayCIDR")


def admit_cluster(request: AdmissionRequest) -> None:
    """Checks the document and writes out its defaults.

    Raises:
        InvalidInput: a field is wrong, or one that nodes depend on would change.
        Unsupported: the network plugin is not built yet.
    """
    spec = parse_cluster(request.new).document()["spec"]
    request.new["spec"] = spec
    if request.old is None:
        return
    fixed = {key: value for key, value in spec.items() if key not in MUTABLE}
    before = {key: value for key, value in request.old["spec"].items() if key not in MUTABLE}
    fixed["network"] = {**fixed["network"], "guard": None}
    before["network"] = {**before["network"], "guard": None}
    path = first_difference(before, fixed, "spec")
    if path:
        raise InvalidInput(
            f"{path}: cannot be changed on a cluster that is up",
            field=path,
            hint="take it down and bring it up with the new document",
        )
