"""`podwire down`: removes the cluster and everything that was made for it.

In: which cluster, or all. Out: nothing of it left; no error where there is none.
"""

from __future__ import annotations

import click

from podwire.cli.app import App, driver_named, pass_app


@click.command("down")
@click.option("--all", "everything", is_flag=True, help="Every cluster of this user.")
@pass_app
def command(app: App, *, everything: bool) -> None:
    """Remove the cluster and everything made for it."""
    from podwire.drivers.base import known_clusters, remembered_driver
    from podwire.seams import SystemDisk

    known = known_clusters()
    chosen = known if everything else [app.cluster]
    for cluster in chosen:
        if cluster not in known:
            app.renderer.note(f"There is no cluster {cluster!r}.")
            continue
        driver = driver_named(remembered_driver(cluster, SystemDisk()), cluster)
        with app.renderer.stage(f"Removing cluster {cluster}"):
            app.run_async(driver.down(app.renderer.stage))
