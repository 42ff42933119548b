"""Where the kernel gives no namespaces: one sentence, and what to do about it."""

from __future__ import annotations

import errno
import os

import pytest

from podwire.drivers.local import syscalls
from podwire.errors import Unsupported

APPARMOR = "kernel/apparmor_restrict_unprivileged_userns"
DEBIAN = "kernel/unprivileged_userns_clone"


def refuse(monkeypatch: pytest.MonkeyPatch, user: int, later: int, settings: dict[str, str]) -> Unsupported:
    """The first call asks without a user namespace; `user` and `later` are the errors of entering one, and of what comes after."""
    errors = iter((errno.EPERM, user, later))

    def unshare(_kind: int) -> None:
        code = next(errors)
        if code:
            raise OSError(code, os.strerror(code))

    monkeypatch.setattr(syscalls, "unshare", unshare)
    monkeypatch.setattr(syscalls, "_setting", lambda name: settings.get(name, ""))
    with pytest.raises(Unsupported) as caught:
        syscalls.enter_private_namespaces()
    return caught.value


@pytest.mark.parametrize(
    ("user", "settings", "reason", "hint"),
    [
        (errno.ENOSPC, {}, "their number is limited", "raise the limit: sudo sysctl user.max_user_namespaces=15000"),
        (errno.EPERM, {DEBIAN: "0"}, "Operation not permitted", "kernel.unprivileged_userns_clone=1"),
        (errno.EPERM, {}, "Operation not permitted", "run as root, or use the docker driver"),
        (errno.EINVAL, {}, "Invalid argument", "run as root, or use the docker driver"),
    ],
)
def test_why_and_what_to_do(
    monkeypatch: pytest.MonkeyPatch, user: int, settings: dict[str, str], reason: str, hint: str
) -> None:
    error = refuse(monkeypatch, user, 0, settings)
    assert error.message == (
        f"the local driver needs root or user namespaces, and this kernel refuses them here ({reason})"
    )
    assert hint in error.hint


def test_a_user_namespace_without_rights(monkeypatch: pytest.MonkeyPatch) -> None:
    """AppArmor on Ubuntu lets one in, and lets nothing be done there: not even its maps may be written."""
    error = refuse(monkeypatch, errno.EACCES, 0, {APPARMOR: "1"})
    assert "kernel.apparmor_restrict_unprivileged_userns=0" in error.hint
