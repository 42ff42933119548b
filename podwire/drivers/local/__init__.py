"""The local driver: nodes as namespaces of this machine, with the underlay in a network namespace of its own."""

from podwire.drivers.local.driver import LocalDriver

__all__ = ["LocalDriver"]
