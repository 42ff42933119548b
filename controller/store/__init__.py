"""Versioned documents, transactions and watches."""
