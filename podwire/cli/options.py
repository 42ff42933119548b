"""Flags and arguments that several verbs share, and live names for shell completion.

In: what was typed so far. Out: click parameters. Completion asks the cluster with a short deadline and stays silent when it does not
answer: a prompt must never wait for a cluster that is down.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, TypeVar

import click
from click.shell_completion import CompletionItem

from podwire.cli.app import DEFAULT_CLUSTER, DEFAULT_NAMESPACE, App, usage
from podwire.cli.output import FORMS, Output, parse_output
from podwire.errors import PodwireError
from podwire.model.kinds import KINDS, kind_named

F = TypeVar("F", bound=Callable[..., Any])


class OutputType(click.ParamType[Output]):
    """`-o`."""

    name = "format"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Output:
        if isinstance(value, Output):
            return value
        with usage():
            return parse_output(str(value))

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        return [CompletionItem(form.partition("=")[0]) for form in FORMS if form.startswith(incomplete)]


def namespace_option(function: F) -> F:
    """`-n`."""
    return click.option(
        "-n",
        "--namespace",
        default=DEFAULT_NAMESPACE,
        show_default=True,
        shell_complete=complete_namespaces,
        help="Namespace of the objects.",
    )(function)


def all_namespaces_option(function: F) -> F:
    """`-A`."""
    return click.option("-A", "--all-namespaces", is_flag=True, help="Objects of every namespace.")(function)


def selector_option(function: F) -> F:
    """`-l`."""
    return click.option(
        "-l", "--selector", default="", metavar="LABELS", help="Only objects with these labels: app=web,tier!=db"
    )(function)


def output_option(default: str = "table") -> Callable[[F], F]:
    """`-o`."""

    def decorate(function: F) -> F:
        return click.option(
            "-o", "--output", type=OutputType(), default=default, metavar="FORMAT", help=f"One of: {', '.join(FORMS)}"
        )(function)

    return decorate


def filename_option(function: F) -> F:
    """`-f`."""
    return click.option(
        "-f",
        "--filename",
        "files",
        multiple=True,
        metavar="FILE|DIR|-",
        type=click.Path(),
        help="Manifests; may be repeated.",
    )(function)


def timeout_option(default: str, text: str) -> Callable[[F], F]:
    """`--timeout`."""

    def decorate(function: F) -> F:
        return click.option("--timeout", default=default, show_default=True, metavar="DURATION", help=text)(function)

    return decorate


def seconds(text: str) -> float:
    """A duration flag's value; a wrong one is a usage error."""
    from podwire.cli.humanize import parse_duration

    with usage():
        return parse_duration(text)


def complete_targets(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """`po<TAB>` gives types, `pods <TAB>` names, `pod/<TAB>` both."""
    words = ctx.params.get(param.name or "") or ()
    prefix, slash, _ = incomplete.partition("/")
    if slash:
        return [
            CompletionItem(f"{prefix}/{name}")
            for name in _names(ctx, prefix)
            if f"{prefix}/{name}".startswith(incomplete)
        ]
    if words and "/" not in words[0]:
        return _items(_names(ctx, words[0]), incomplete)
    return _items([kind.resource for kind in KINDS], incomplete)


def complete_pods(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Names of pods."""
    return _items(_names(ctx, "pods"), incomplete)


def complete_nodes(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Names of nodes."""
    return _items(_names(ctx, "nodes"), incomplete)


def complete_namespaces(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Names of namespaces."""
    return _items(_names(ctx, "namespaces"), incomplete)


def _items(names: list[str], incomplete: str) -> list[CompletionItem]:
    return [CompletionItem(name) for name in names if name.startswith(incomplete)]


def _names(ctx: click.Context, word: str) -> list[str]:
    app = ctx.find_object(App) or App()
    root = ctx.find_root().params
    app.cluster = root.get("cluster") or os.environ.get("PODWIRE_CLUSTER") or DEFAULT_CLUSTER
    namespace = ctx.params.get("namespace") or DEFAULT_NAMESPACE
    try:
        kind = kind_named(word)
        listed = app.run(lambda client: client.list(kind.resource, namespace=namespace if kind.namespaced else ""))
    except PodwireError:
        return []
    return sorted(document["metadata"]["name"] for document in listed.documents)
