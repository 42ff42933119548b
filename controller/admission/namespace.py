"""Namespaces: the label that selects one by name, as Kubernetes sets it."""

from __future__ import annotations

from controller.objects.admission import AdmissionRequest

NAME_LABEL = "kubernetes.io/metadata.name"


def admit_namespace(request: AdmissionRequest) -> None:
    """Sets the name label; it cannot be changed."""
    labels = request.new["metadata"].setdefault("labels", {})
    labels[NAME_LABEL] = request.name
