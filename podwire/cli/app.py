"""What every command shares: which cluster, how to reach it, how to draw, and what an error becomes.

In: global flags. Out: `App`, which runs a command's coroutine with a connected client or a driver. One rule for errors: a PodwireError
is a sentence and a hint, and exit code 1; a usage error 2; a cluster that does not answer 3. Whether the cluster or only one thing in
it was unavailable is asked of the cluster itself, once, when something was.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

import click

from podwire.cli.render import Renderer
from podwire.errors import InvalidInput, NotFound, Unavailable, Unreachable

if TYPE_CHECKING:
    from podwire.client import ControlClient
    from podwire.drivers.base import Driver
    from podwire.seams import SystemClock

T = TypeVar("T")
DEFAULT_CLUSTER = "podwire"
DEFAULT_NAMESPACE = "default"
ASK_AGAIN_S = 3.0

Connector = Callable[[str], AbstractAsyncContextManager["ControlClient"]]


class App:
    """One invocation. Tests pass a `connector` of their own; users get the driver's endpoint."""

    def __init__(self, connector: Connector | None = None) -> None:
        self.cluster = DEFAULT_CLUSTER
        self.quiet = False
        self._connector = connector or _connect

    @cached_property
    def clock(self) -> SystemClock:
        """The machine's clock; made when first needed, since it brings asyncio."""
        from podwire.seams import SystemClock

        return SystemClock()

    @cached_property
    def renderer(self) -> Renderer:
        """Draws on the terminal or pipe that this command has."""
        return Renderer(self.clock, quiet=self.quiet)

    @property
    def now(self) -> float:
        """Seconds since 1970, for ages."""
        return self.clock.wall()

    def run(self, work: Callable[[ControlClient], Coroutine[Any, Any, T]]) -> T:
        """Runs a command's work with a client of the cluster's controller."""

        async def connected() -> T:
            async with self._connector(self.cluster) as client:
                try:
                    return await work(client)
                except Unavailable as error:
                    await self._check_reachable(client, error)
                    raise

        return self.run_async(connected())

    def run_async(self, work: Awaitable[T]) -> T:
        """Runs a coroutine to its end."""
        import asyncio

        async def awaited() -> T:
            return await work

        return asyncio.run(awaited())

    def client(self) -> AbstractAsyncContextManager[ControlClient]:
        """A connection for commands that are drivers' work first."""
        return self._connector(self.cluster)

    def driver(self) -> Driver:
        """The driver that made this cluster; raises NotFound where there is none."""
        from podwire.drivers.base import remembered_driver
        from podwire.seams import SystemDisk

        return driver_named(remembered_driver(self.cluster, SystemDisk()), self.cluster)

    async def _check_reachable(self, client: ControlClient, error: Unavailable) -> None:
        try:
            await client.status(deadline_s=ASK_AGAIN_S)
        except Unavailable:
            raise unreachable(self.cluster) from error


def unreachable(cluster: str) -> Unreachable:
    """The error for a cluster that does not answer."""
    return Unreachable(f"cluster {cluster!r} is not reachable", hint="is it up? try: podwire up")


def driver_named(name: str, cluster: str) -> Driver:
    """A driver; imported only when it is the one."""
    if name == "docker":
        from podwire.drivers.docker import DockerDriver

        return DockerDriver(cluster)
    from podwire.drivers.local.driver import LocalDriver

    return LocalDriver(cluster)


@asynccontextmanager
async def _connect(cluster: str) -> AsyncIterator[ControlClient]:
    from podwire.drivers.base import remembered_driver
    from podwire.seams import SystemDisk

    try:
        endpoint = await driver_named(remembered_driver(cluster, SystemDisk()), cluster).endpoint()
    except (NotFound, Unavailable) as error:
        failure = unreachable(cluster)
        failure.hint = error.hint if isinstance(error, NotFound) else failure.hint
        raise failure from error
    from podwire.client import connect

    async with connect(socket=endpoint.socket, address=endpoint.address, credentials=endpoint.credentials) as client:
        yield client


@contextmanager
def usage() -> Iterator[None]:
    """Turns an InvalidInput about the command line's own words into a usage error, exit code 2."""
    try:
        yield
    except InvalidInput as error:
        message = f"{error.message}; {error.hint}" if error.hint else error.message
        raise click.UsageError(message) from error


def read_stdin() -> str:
    """All of standard input."""
    return sys.stdin.read()


pass_app = click.make_pass_decorator(App)
