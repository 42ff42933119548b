"""Admission: each kind's own defaults and rules, called by the registry before a document is stored.

In: `AdmissionRequest`s. Out: defaults written into the new document, or InvalidInput whose sentence starts with the path of the wrong
field. Pure. What holds for every kind (names, labels, resourceVersion) is the registry's.
"""

from __future__ import annotations

from collections.abc import Mapping

from controller.admission.cluster import admit_cluster
from controller.admission.namespace import admit_namespace
from controller.admission.node import admit_node
from controller.admission.pod import admit_pod
from controller.objects.admission import Admit

ADMISSION: Mapping[str, Admit] = {
    "clusters": admit_cluster,
    "namespaces": admit_namespace,
    "nodes": admit_node,
    "pods": admit_pod,
}
