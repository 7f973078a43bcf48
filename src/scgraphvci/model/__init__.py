"""The user's models."""

from scgraphvci.model._graphvci import GraphVCI

__all__ = ["GraphVCI"]
