"""`pause`: lives until TERM, and says so.

In: nothing. Out: exit code 2 on TERM, as agnhost's.
"""

from __future__ import annotations

from nodeagent.workload.flags import parse
from nodeagent.workload.life import Life

FLAGS = {"delay-shutdown": 0}


async def main(life: Life, args: tuple[str, ...]) -> int:
    """Waits for TERM."""
    delay = parse(args, FLAGS).number("delay-shutdown")
    life.out("Paused")
    life.serving.set()
    await life.terminated.wait()
    if delay > 0:
        life.out(f"Sleeping {delay} seconds before exit ...")
        await life.around.clock.sleep(delay)
    life.out("exiting 2")
    return 2
