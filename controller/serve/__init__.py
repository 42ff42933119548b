"""Façades: translate, validate, delegate."""
