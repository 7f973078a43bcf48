"""Torch modules: encoder, decoder, objective and graph layers."""

from scgraphvci.module._discriminator import Discriminator
from scgraphvci.module._module import GraphVCIModule

__all__ = ["Discriminator", "GraphVCIModule"]
