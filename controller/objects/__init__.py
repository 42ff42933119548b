"""Kubernetes' object semantics over any store: documents in, documents with uid, resourceVersion and generation out."""
