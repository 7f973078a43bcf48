"""Cells that are copies of others."""

from __future__ import annotations

import numpy as np

from scgraphvci._warn import warn

MIN_DETECTED = 20  # genes: cells with fewer may agree by chance
MAX_SHARE = 0.01  # of copies that is let pass


class Copies:
    """Finds cells that agree in every gene, as they come batch by batch.

    Copies come from merging overlapping files or from oversampling, and are no further evidence: errors of independent
    cells shrink with each of them.

    Parameters
    ----------
    n_cells
        Number of cells.

    Examples
    --------
    >>> import numpy as np
    >>> copies = Copies(3)
    >>> copies.update(np.tile(np.arange(40.0), (3, 1)), slice(0, 3))
    >>> copies.count(None), copies.count(np.array([0, 0, 0])), copies.count(np.array([0, 0, 1]))
    (2, 0, 1)
    """

    def __init__(self, n_cells: int) -> None:
        self.fingerprint = np.arange(n_cells)
        """Equal for cells that agree; a cell of few genes keeps its number."""

    def update(self, outcome: np.ndarray, position: slice | np.ndarray) -> None:
        """Add a batch: expression ``(batch, n_genes)`` and where its cells stand."""
        found = self.fingerprint[position].copy()
        for i in np.flatnonzero((outcome != 0).sum(axis=1) >= MIN_DETECTED):
            found[i] = hash(outcome[i].tobytes())
        self.fingerprint[position] = found

    def count(self, cluster: np.ndarray | None) -> int:
        """Count cells that repeat one that is taken for independent: any other one, or one of another cluster."""
        distinct = len(np.unique(self.fingerprint))
        if cluster is None:
            return len(self.fingerprint) - distinct
        return len(np.unique(np.stack([self.fingerprint, cluster]), axis=1).T) - distinct

    def warn(self, cluster: np.ndarray | None) -> None:
        """Warn if more than one cell in a hundred is a copy."""
        n_copies = self.count(cluster)
        if n_copies <= MAX_SHARE * len(self.fingerprint):
            return
        where = "another cell" if cluster is None else "a cell of another cluster"
        msg = (
            f"{n_copies} of {len(self.fingerprint)} cells have exactly the expression of {where}. Copies are no "
            "further evidence: intervals are too narrow with them. Keep one of each, or name by `cluster_key` the "
            "cells or donors they come from."
        )
        warn(msg)
