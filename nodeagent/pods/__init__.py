"""Containers of pods: their life cycle, and the two ways to run them."""
