"""What a pod reads about itself: hosts, resolv.conf, environment."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodeagent.pods.files import (
    PodFacts,
    Resolver,
    expand,
    expand_environment,
    field_value,
    full_name,
    parse_resolv_conf,
    render_hosts,
    render_resolv_conf,
)
from podwire.errors import InvalidInput

FACTS = PodFacts(
    name="web-0",
    namespace="shop",
    uid="8f3",
    node="a",
    pod_ips=("10.244.1.5", "fd00::5"),
    host_ips=("172.18.0.3",),
    labels={"app": "web", "tier": "front"},
    annotations={"example.com/note": "hi"},
)


def test_hosts_name_the_pod_and_its_aliases() -> None:
    text = render_hosts(
        ("10.244.1.5", "fd00::5"),
        "web-0",
        fqdn=full_name("web-0", "web", "shop", "cluster.local"),
        aliases=[("10.1.2.3", ["db", "db.local"])],
    )
    lines = text.splitlines()
    assert "127.0.0.1\tlocalhost" in lines
    assert "10.244.1.5\tweb-0.web.shop.svc.cluster.local\tweb-0" in lines
    assert "fd00::5\tweb-0.web.shop.svc.cluster.local\tweb-0" in lines
    assert lines[-1] == "10.1.2.3\tdb\tdb.local"


def test_hosts_without_subdomain_hold_the_hostname_only() -> None:
    assert full_name("web-0", "", "shop", "cluster.local") == ""
    assert render_hosts(("10.244.1.5",), "web-0").endswith("10.244.1.5\tweb-0\n")


NODE = parse_resolv_conf(
    "# by hand\nnameserver 127.0.0.53\nnameserver 192.0.2.1 ; first\nsearch lan home\noptions ndots:1\n"
)


@pytest.mark.parametrize(
    ("name", "wanted", "text"),
    [
        (
            "the node's own, without its loopback",
            Resolver(()),
            "nameserver 192.0.2.1\nsearch lan home\noptions ndots:1\n",
        ),
        (
            "the cluster's",
            Resolver(("10.96.0.10",), ("shop.svc.cluster.local", "svc.cluster.local"), ("ndots:5",)),
            "nameserver 10.96.0.10\nsearch shop.svc.cluster.local svc.cluster.local\noptions ndots:5\n",
        ),
        (
            "searches before the node's",
            Resolver((), ("x",)),
            "nameserver 192.0.2.1\nsearch x lan home\noptions ndots:1\n",
        ),
    ],
)
def test_resolv_conf(name: str, wanted: Resolver, text: str) -> None:
    assert render_resolv_conf(wanted, NODE) == text, name


@given(
    st.lists(st.ip_addresses().filter(lambda address: not address.is_loopback).map(str), min_size=1, max_size=3),
    st.lists(st.from_regex(r"[a-z]{1,8}(\.[a-z]{1,8})?", fullmatch=True), max_size=5),
)
def test_resolv_conf_reads_back_as_written(nameservers: list[str], searches: list[str]) -> None:
    wanted = Resolver(tuple(nameservers), tuple(searches), ("ndots:5",))
    assert parse_resolv_conf(render_resolv_conf(wanted, Resolver(()))) == wanted


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("$(A)", "1"),
        ("x$(A)y$(B)", "x1y2"),
        ("$$(A)", "$(A)"),
        ("$$$(A)", "$1"),
        ("$(UNKNOWN)", "$(UNKNOWN)"),
        ("$A ${A} $", "$A ${A} $"),
        ("$(A", "$(A"),
        ("$()", "$()"),
        ("100%$$", "100%$"),
    ],
)
def test_expansion_is_kubernetes(text: str, result: str) -> None:
    assert expand(text, {"A": "1", "B": "2"}) == result


@given(st.text(st.characters(exclude_characters="$")))
def test_text_without_references_stays(text: str) -> None:
    assert expand(text, {"A": "1"}) == text


def test_variables_refer_to_those_before_them() -> None:
    variables = [
        ("ME", "", "metadata.name"),
        ("GREETING", "hello $(ME), not $(LATER)", ""),
        ("LATER", "x", ""),
        ("TWICE", "$(GREETING)!", ""),
    ]
    assert expand_environment(variables, FACTS) == {
        "ME": "web-0",
        "GREETING": "hello web-0, not $(LATER)",
        "LATER": "x",
        "TWICE": "hello web-0, not $(LATER)!",
    }


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("metadata.name", "web-0"),
        ("metadata.namespace", "shop"),
        ("metadata.uid", "8f3"),
        ("metadata.labels['app']", "web"),
        ("metadata.labels['absent']", ""),
        ("metadata.annotations['example.com/note']", "hi"),
        ("metadata.labels", 'app="web"\ntier="front"'),
        ("spec.nodeName", "a"),
        ("spec.serviceAccountName", "default"),
        ("status.podIP", "10.244.1.5"),
        ("status.podIPs", "10.244.1.5,fd00::5"),
        ("status.hostIP", "172.18.0.3"),
    ],
)
def test_fields_of_the_downward_api(path: str, value: str) -> None:
    assert field_value(path, FACTS) == value


def test_an_unknown_field_is_refused() -> None:
    with pytest.raises(InvalidInput, match=r"spec\.magic"):
        field_value("spec.magic", FACTS)
