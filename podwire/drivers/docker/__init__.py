"""The docker driver: `driver` has the verbs, `containers` the SDK (nothing else imports it), `papers` the way to the controller."""

from podwire.drivers.docker.driver import DockerDriver

__all__ = ["DockerDriver"]
