"""Drivers: how a node comes to exist. `docker` makes containers, `local` makes namespaces on this machine."""
