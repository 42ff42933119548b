"""What an engine left on its host is taken back, and nothing else."""

from __future__ import annotations

from compose.hoststate import undo_rules

EMPTY = "*filter\n:INPUT ACCEPT [0:0]\n:FORWARD ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\nCOMMIT\n"
DOCKER = """*filter
:INPUT ACCEPT [0:0]
:FORWARD DROP [0:0]
:OUTPUT ACCEPT [0:0]
:DOCKER - [0:0]
:DOCKER-USER - [0:0]
-A INPUT -i lo -j ACCEPT
-A FORWARD -j DOCKER-USER
-A FORWARD -o docker0 -j DOCKER
-A DOCKER-USER -j RETURN
COMMIT
*nat
:PREROUTING ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
:DOCKER - [0:0]
-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
-A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE
-A POSTROUTING -s 10.9.0.0/16 -j MASQUERADE
-A DOCKER -i docker0 -j RETURN
COMMIT
"""


def test_nothing_left_behind_is_nothing_to_do() -> None:
    assert undo_rules(EMPTY, EMPTY) == []


def test_dockers_rules_go_before_its_chains_and_others_stay() -> None:
    commands = [" ".join(command) for command in undo_rules(EMPTY, DOCKER)]
    assert commands == [
        "-t filter -D FORWARD -j DOCKER-USER",
        "-t filter -D FORWARD -o docker0 -j DOCKER",
        "-t filter -F DOCKER",
        "-t filter -F DOCKER-USER",
        "-t filter -X DOCKER",
        "-t filter -X DOCKER-USER",
        "-t filter -P FORWARD ACCEPT",
        "-t nat -D PREROUTING -m addrtype --dst-type LOCAL -j DOCKER",
        "-t nat -D POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE",
        "-t nat -F DOCKER",
        "-t nat -X DOCKER",
    ]


def test_what_was_there_before_the_engine_stays() -> None:
    assert undo_rules(DOCKER, DOCKER) == []
