"""The command line: one verb per file; `main.py` puts them together."""
