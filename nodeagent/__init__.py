"""The node agent obeys: a plan in, kernel changes and reports out. It knows its own node only."""
