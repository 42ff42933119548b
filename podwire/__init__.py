"""Podwire: a Kubernetes cluster's network without Kubernetes. This package holds what controller, agent and command line share."""

__version__ = "0.1.0"
