"""Simulated screens with known truth."""

from scgraphvci.datasets._simulate import simulate
from scgraphvci.datasets._truth import Truth, truth

__all__ = ["Truth", "simulate", "truth"]
