"""Base image, Docker Engine and compose file: what the docker driver stands on."""
