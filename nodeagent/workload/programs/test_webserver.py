"""`test-webserver`: serves files below `/` by their path.

In: GET of a path. Out: the file, or a listing of the directory. Reads on a thread: a slow disk must not stop the other containers.
"""

from __future__ import annotations

import asyncio
import mimetypes
from pathlib import Path, PurePosixPath

from nodeagent.workload.flags import parse
from nodeagent.workload.life import Life
from nodeagent.workload.programs.porter import PID_1_TERM
from nodeagent.workload.web import BODY_LIMIT_BYTES, Request, Response, problem

FLAGS = {"port": 80}
_HEADERS = (
    ("Cache-Control", "private"),
    ("Access-Control-Allow-Origin", "*"),
    ("Access-Control-Allow-Credentials", "true"),
    ("Access-Control-Allow-Methods", "GET, POST, OPTIONS"),
    (
        "Access-Control-Allow-Headers",
        "DNT,X-Mx-ReqToken,Keep-Alive,User-Agent,X-Requested-With,Cache-Control,Content-Type",
    ),
)


async def main(life: Life, args: tuple[str, ...]) -> int:
    """Serves until TERM."""
    await life.serve_http(parse(args, FLAGS).number("port"), _page)
    life.serving.set()
    await life.terminated.wait()
    return PID_1_TERM


async def _page(request: Request) -> Response:
    return await asyncio.to_thread(page, Path("/"), request.path)


def page(root: Path, path: str) -> Response:
    """The file or directory at `path` below `root`; nothing above it can be named."""
    parts = [part for part in PurePosixPath(path).parts if part not in ("/", "..")]
    place = root.joinpath(*parts)
    try:
        if place.is_dir():
            names = sorted(entry.name + ("/" if entry.is_dir() else "") for entry in place.iterdir())
            lines = "".join(f'<a href="{name}">{name}</a>\n' for name in names)
            return Response(
                f"<pre>\n{lines}</pre>\n".encode(), headers=(*_HEADERS, ("Content-Type", "text/html; charset=utf-8"))
            )
        if not place.is_file() or place.stat().st_size > BODY_LIMIT_BYTES:
            return problem("404 page not found", 404)
        kind = mimetypes.guess_type(place.name)[0] or "text/plain; charset=utf-8"
        return Response(place.read_bytes(), headers=(*_HEADERS, ("Content-Type", kind)))
    except PermissionError:
        return problem("403 Forbidden", 403)
    except OSError:
        return problem("404 page not found", 404)
