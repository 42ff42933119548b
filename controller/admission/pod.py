"""Pods: Kubernetes' defaults, and what may change once a pod exists.

In: an `AdmissionRequest`. Out: defaults in `request.new`, or InvalidInput. The rules on values are in `pod_rules.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from controller.admission.immutable import first_difference
from controller.admission.pod_rules import check_pod, refuse_nul
from controller.images import repository
from controller.objects.admission import AdmissionRequest
from controller.views import PodView, view
from podwire.errors import InvalidInput

PROBES = ("readinessProbe", "livenessProbe", "startupProbe")


def admit_pod(request: AdmissionRequest) -> None:
    """Checks types, fills in defaults, checks values, and refuses changes of fixed fields.

    Raises:
        InvalidInput: the sentence starts with the path of the wrong field.
    """
    spec = request.new.get("spec")
    if request.old is not None and spec == request.old.get("spec"):
        return
    refuse_nul(spec, "spec")
    check_pod(view(PodView, request.new))
    if spec is not None:
        _default_spec(spec)
    if request.old is not None:
        _check_fixed(request.old["spec"], request.new["spec"])


def _default_spec(spec: dict[str, Any]) -> None:
    spec.setdefault("restartPolicy", "Always")
    spec.setdefault("dnsPolicy", "ClusterFirst")
    spec.setdefault("terminationGracePeriodSeconds", 30)
    spec.setdefault("schedulerName", "default-scheduler")
    spec.setdefault("enableServiceLinks", True)
    spec.setdefault("securityContext", {})
    for container in (*(spec.get("initContainers") or ()), *spec["containers"]):
        _default_container(container)


def _default_container(container: dict[str, Any]) -> None:
    container.setdefault("imagePullPolicy", _pull_policy(container["image"]))
    container.setdefault("resources", {})
    container.setdefault("terminationMessagePath", "/dev/termination-log")
    container.setdefault("terminationMessagePolicy", "File")
    for port in container.get("ports") or ():
        port.setdefault("protocol", "TCP")
    for variable in container.get("env") or ():
        reference = (variable.get("valueFrom") or {}).get("fieldRef")
        if reference is not None:
            reference.setdefault("apiVersion", "v1")
    for name in PROBES:
        if container.get(name) is not None:
            _default_probe(container[name])


def _pull_policy(image: str) -> str:
    """Always for an image that names no version, as Kubernetes has it; nothing is ever pulled here."""
    untagged = repository(image) == image
    return "Always" if untagged or image.endswith(":latest") else "IfNotPresent"


def _default_probe(probe: dict[str, Any]) -> None:
    probe.setdefault("timeoutSeconds", 1)
    probe.setdefault("periodSeconds", 10)
    probe.setdefault("successThreshold", 1)
    probe.setdefault("failureThreshold", 3)
    request = probe.get("httpGet")
    if request is not None:
        request.setdefault("path", "/")
        request.setdefault("scheme", "HTTP")


def _check_fixed(old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    before, after = _fixed_part(old), _fixed_part(new)
    if not old.get("nodeName"):
        before.pop("nodeName", None)
        after.pop("nodeName", None)
    path = first_difference(before, after, "spec")
    if path:
        raise InvalidInput(
            f"{path}: cannot be changed on a pod that exists; only images may",
            field=path,
            hint="delete the pod and create it anew",
        )


def _fixed_part(spec: Mapping[str, Any]) -> dict[str, Any]:
    """A spec without what may change."""
    fixed = {key: value for key, value in spec.items() if key not in ("activeDeadlineSeconds", "tolerations")}
    for field in ("containers", "initContainers"):
        if fixed.get(field):
            fixed[field] = [
                {key: value for key, value in item.items() if key not in ("image", "imagePullPolicy")}
                for item in fixed[field]
            ]
    return fixed
