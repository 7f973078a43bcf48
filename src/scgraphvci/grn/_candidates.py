"""Pairs of regulator and target among which networks are judged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from scgraphvci.grn._frame import tidy


@dataclass(frozen=True)
class Candidates:
    """Pairs of regulator and target, self-loops left out.

    Attributes
    ----------
    regulators, genes
        Names of the rows and columns of all matrices.
    mask
        Whether a pair is a candidate, shape ``(n_regulators, n_genes)``.
    """

    regulators: pd.Index
    genes: pd.Index
    mask: np.ndarray

    @classmethod
    def of(cls, chosen: pd.DataFrame | Sequence[str] | None, truth: pd.DataFrame, genes: pd.Index | None) -> Candidates:
        """Read what the user chose.

        Parameters
        ----------
        chosen
            A frame of pairs, names of regulators (any gene may be their target), or None: the sources of `truth`.
        truth
            The true network, tidy.
        genes
            Genes of the data; the genes that `truth` names if None.

        Raises
        ------
        TypeError
            If `chosen` is one name.
        ValueError
            If there is no candidate.
        """
        if isinstance(chosen, str):
            msg = (
                f"`candidates` must be a frame of pairs or a sequence of regulators, got {chosen!r}. Use [{chosen!r}]."
            )
            raise TypeError(msg)
        if genes is None:
            genes = pd.Index(np.unique(truth[["source", "target"]].to_numpy(dtype=object).astype(str)))
        if isinstance(chosen, pd.DataFrame):
            pairs = tidy(chosen, "candidates")
            candidates = cls.rectangle(genes.intersection(pd.Index(pairs["source"]), sort=False), genes)
            candidates.mask[:] &= candidates.listed(pairs)
        else:
            named = pd.Index(truth["source"] if chosen is None else [str(name) for name in chosen])
            candidates = cls.rectangle(genes.intersection(named, sort=False), genes)
        if not candidates.mask.any():
            msg = (
                "There is no candidate edge: no pair of a candidate regulator and another gene is among the genes "
                f"({', '.join(map(str, genes[:3]))}, ...). Use the same kind of identifier everywhere."
            )
            raise ValueError(msg)
        return candidates

    @classmethod
    def rectangle(cls, regulators: pd.Index, genes: pd.Index) -> Candidates:
        """All pairs of a regulator and another gene."""
        mask = np.asarray(regulators)[:, None] != np.asarray(genes)[None]
        return cls(regulators, genes, mask)

    def listed(self, net: pd.DataFrame) -> np.ndarray:
        """Whether a network lists a pair, shape ``(n_regulators, n_genes)``."""
        out = np.zeros(self.mask.shape, dtype=bool)
        rows, columns, known = self._positions(net)
        out[rows[known], columns[known]] = True
        return out & self.mask

    def scores(self, net: pd.DataFrame) -> np.ndarray:
        """Magnitude of the weight of every candidate, 0 where not listed; of duplicates the largest."""
        out = np.zeros(self.mask.shape)
        rows, columns, known = self._positions(net)
        np.maximum.at(out, (rows[known], columns[known]), np.abs(net["weight"].to_numpy()[known]))
        return np.where(self.mask, out, 0.0)

    def frame(self, scores: np.ndarray) -> pd.DataFrame:
        """Long frame of the candidates with a score other than 0, the largest first."""
        rows, columns = np.nonzero(self.mask & (scores != 0))
        values = scores[rows, columns]
        order = np.argsort(-np.abs(values), kind="stable")
        source, target = np.asarray(self.regulators)[rows], np.asarray(self.genes)[columns]
        return pd.DataFrame({"source": source[order], "target": target[order], "weight": values[order]})

    def _positions(self, net: pd.DataFrame) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        rows = self.regulators.get_indexer(pd.Index(net["source"]))
        columns = self.genes.get_indexer(pd.Index(net["target"]))
        return rows, columns, (rows >= 0) & (columns >= 0)


def tidy_networks(nets: Any) -> dict[str, pd.DataFrame]:
    """Return networks by name as tidy frames: `nets` is one frame, named "network", or a mapping from names to frames.

    Raises
    ------
    ValueError
        If there is no network.
    """
    named = {"network": nets} if not hasattr(nets, "items") or isinstance(nets, pd.DataFrame) else dict(nets)
    if not named:
        msg = "There is no network to judge: `nets` is empty."
        raise ValueError(msg)
    return {str(name): tidy(net, str(name)) for name, net in named.items()}


def magnitudes(net: pd.DataFrame) -> pd.Series:
    """Magnitudes of weights by source and target, of duplicates the largest; neither self-loops nor zeros."""
    edges = net[(net["source"] != net["target"]) & (net["weight"] != 0)]
    return edges["weight"].abs().groupby([edges["source"], edges["target"]], sort=False).max()
