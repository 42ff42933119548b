"""The error tree. Leaf names tell the caller what to do; `podwire.rpc` maps each to a gRPC status in one table.

PodwireError
├── InvalidInput        mend the input: `field` is the path of what is wrong
├── NotFound            the object named is not there
├── AlreadyExists       there is one of that name
├── Conflict            re-read and try again: a precondition did not hold
├── Exhausted           a pool, a limit or a disk is full
├── Expired             the revision asked for is compacted away: list again
├── Unavailable         the other side cannot be reached: retry later
│   └── Unreachable     the cluster itself does not run, or does not answer
├── Unauthenticated     who are you?
├── PermissionDenied    you may not
├── Unsupported         this machine or this version cannot do it; the message says what is missing
└── KernelError         the kernel refused an operation on an object (errno, operation, object)
"""

from __future__ import annotations

import os


class PodwireError(Exception):
    """Base of all: `str()` is one sentence that names the object; `hint` says what to do about it, or is empty."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class InvalidInput(PodwireError):
    """The input is wrong at `field`, a path such as `spec.containers[0].ports[1].containerPort`."""

    def __init__(self, message: str, *, field: str = "", hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.field = field


class NotFound(PodwireError):
    """The object named is not there."""


class AlreadyExists(PodwireError):
    """There is an object of that name."""


class Conflict(PodwireError):
    """A precondition did not hold: re-read and try again."""


class Exhausted(PodwireError):
    """A pool, a limit or a disk is full."""


class Expired(PodwireError):
    """The revision asked for is compacted away: list again."""


class Unavailable(PodwireError):
    """The other side cannot be reached now."""


class Unreachable(Unavailable):
    """The cluster itself does not run, or does not answer: the command line's exit code 3."""


class Unauthenticated(PodwireError):
    """The caller did not prove who it is."""


class PermissionDenied(PodwireError):
    """The caller is known and may not."""


class Unsupported(PodwireError):
    """This machine or this version cannot do it; the message names what is missing."""


class KernelError(PodwireError):
    """The kernel refused `operation` on `obj`; `errno` is positive."""

    def __init__(self, errno: int, operation: str, obj: str, detail: str = "") -> None:
        reason = detail or os.strerror(errno)
        super().__init__(f"{operation} {obj}: {reason}")
        self.errno = errno
        self.operation = operation
        self.obj = obj
