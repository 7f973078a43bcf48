"""Simulated screens with known truth, and public screens prepared as in the paper."""

from scgraphvci.datasets._kang import kang
from scgraphvci.datasets._l008 import l008
from scgraphvci.datasets._marson import marson
from scgraphvci.datasets._sciplex import sciplex
from scgraphvci.datasets._simulate import simulate
from scgraphvci.datasets._truth import Truth, truth

__all__ = ["Truth", "kang", "l008", "marson", "sciplex", "simulate", "truth"]
