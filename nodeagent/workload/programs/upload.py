"""`/upload` of netexec: one file out of a multipart form.

In: a request whose body was read whole. Out: the path of the new file, executable, or UploadError with upstream's words.
"""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

from nodeagent.workload.web import Request

_BOUNDARY = re.compile(r'multipart/form-data\s*;.*?boundary="?([^";,\s]{1,70})"?', re.IGNORECASE)
_NAME = re.compile(rb'name="file"', re.IGNORECASE)


class UploadError(Exception):
    """Nothing was stored; `str()` is what the client is told."""


def save(request: Request, directory: Path) -> Path:
    """Stores the form's file `file` under a new name in `directory`."""
    content = form_file(request)
    if content is None:
        raise UploadError("Unable to upload file.")
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=directory, prefix="upload", delete=False) as file:
            path = Path(file.name)
            file.write(content)
    except OSError as error:
        raise UploadError("Unable to open file for write") from error
    path.chmod(0o700)
    return path


def form_file(request: Request) -> bytes | None:
    """The content of the form's part named `file`; None where there is none."""
    matched = _BOUNDARY.match(request.header("content-type"))
    if matched is None:
        return None
    mark = b"--" + matched[1].encode()
    for part in (b"\r\n" + request.body).split(b"\r\n" + mark)[1:-1]:
        head, blank, content = part.partition(b"\r\n\r\n")
        if blank and _NAME.search(head):
            return content
    return None
