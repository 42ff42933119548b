"""`podwire run`: one pod from a command line.

In: a name, an image or a command. Out: a pod; with `--wait` it is ready when this returns. With a command and no image the pod runs that
command as a real process on the node image's file system.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from podwire.cli import options
from podwire.cli.app import App, pass_app, usage
from podwire.cli.output import Output, print_structured
from podwire.cli.selection import Target, parse_labels
from podwire.model.kinds import kind_named

if TYPE_CHECKING:
    from podwire.client import ControlClient

SHELL_IMAGE = "podwire/shell"


@click.command("run", context_settings={"ignore_unknown_options": False})
@click.argument("name")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="[-- CMD…]")
@click.option(
    "--image",
    metavar="IMAGE",
    help="agnhost, podwire/shell, or any name: others get a stand-in. [default: podwire/shell]",
)
@click.option(
    "--command", "as_command", is_flag=True, help="CMD replaces the image's command instead of its arguments."
)
@click.option(
    "--node", default="", shell_complete=options.complete_nodes, help="Which node; chosen by the controller otherwise."
)
@click.option("-l", "--labels", default="", metavar="k=v,…", help="Labels of the pod. [default: run=NAME]")
@click.option(
    "--port",
    "ports",
    multiple=True,
    type=click.IntRange(1, 65535),
    help="A port the container serves; may be repeated.",
)
@click.option("--env", "env", multiple=True, metavar="NAME=VALUE", help="An environment variable; may be repeated.")
@click.option("--restart", type=click.Choice(["Always", "OnFailure", "Never"]), default="Always", show_default=True)
@click.option("--dry-run", is_flag=True, help="Only print the pod, with -o yaml or -o json.")
@click.option("--wait", "wait", is_flag=True, help="Return when the pod is ready.")
@options.timeout_option("60s", "How long --wait waits.")
@options.namespace_option
@options.output_option()
@pass_app
def command(
    app: App,
    *,
    name: str,
    arguments: tuple[str, ...],
    image: str | None,
    as_command: bool,
    node: str,
    labels: str,
    ports: tuple[int, ...],
    env: tuple[str, ...],
    restart: str,
    dry_run: bool,
    wait: bool,
    timeout: str,
    namespace: str,
    output: Output,
) -> None:
    """Run one pod: run web --image agnhost --port 8080, or run box -- sleep 1000."""
    timeout_s = options.seconds(timeout)
    if image is not None and not image.strip():
        raise click.UsageError("--image: the name of an image is empty")
    with usage():
        pod = pod_document(
            name,
            image=image or SHELL_IMAGE,
            arguments=arguments,
            as_command=as_command or not image,
            node=node,
            labels=parse_labels(labels, "--labels") or {"run": name},
            ports=ports,
            env=dict(_variable(one) for one in env),
            restart=restart,
        )
    kind = kind_named("pod")
    if dry_run:
        print_structured(app.renderer, Output("yaml") if output.tabular else output, pod, [kind])
        return

    async def work(client: ControlClient) -> None:
        made = await client.create(pod, namespace=namespace)
        if output.tabular:
            app.renderer.line(f"pod/{name} created")
        if wait:
            from podwire.cli.waiting import parse_wish, wait_for

            ready = parse_wish("condition=Ready")
            await wait_for(client, [Target(kind, name)], ready, namespace=namespace, timeout_s=timeout_s)
            made = await client.get("pods", name, namespace=namespace)
        if not output.tabular:
            print_structured(app.renderer, output, made, [kind])

    app.run(work)


def pod_document(
    name: str,
    *,
    image: str,
    arguments: Sequence[str] = (),
    as_command: bool = False,
    node: str = "",
    labels: dict[str, str] | None = None,
    ports: Sequence[int] = (),
    env: dict[str, str] | None = None,
    restart: str = "Always",
) -> dict[str, Any]:
    """A Pod with one container that has the pod's name. An agnhost image without arguments serves: it gets `netexec`."""
    container: dict[str, Any] = {"name": name, "image": image}
    if _is_agnhost(image) and not arguments and not as_command:
        arguments = ("netexec", f"--http-port={ports[0]}") if ports else ("netexec",)
    if arguments:
        container["command" if as_command else "args"] = list(arguments)
    if ports:
        container["ports"] = [{"containerPort": port} for port in ports]
    if env:
        container["env"] = [{"name": key, "value": value} for key, value in env.items()]
    spec: dict[str, Any] = {"containers": [container], "restartPolicy": restart}
    if node:
        spec["nodeName"] = node
    metadata: dict[str, Any] = {"name": name}
    if labels:
        metadata["labels"] = labels
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def _is_agnhost(image: str) -> bool:
    return image.rpartition("/")[2].partition(":")[0].partition("@")[0] == "agnhost"


def _variable(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise click.UsageError(f"--env: {text!r} is not NAME=VALUE")
    return name, value
