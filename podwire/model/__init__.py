"""Value types that are parsed once at the edge and trusted afterwards."""
