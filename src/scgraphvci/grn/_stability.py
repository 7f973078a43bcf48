"""Agreement of networks with one another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from scgraphvci.grn._candidates import magnitudes, tidy_networks


def stability(nets: Sequence[pd.DataFrame] | Mapping[Any, pd.DataFrame], *, k: int | None = None) -> pd.DataFrame:
    """Agreement of networks, such as those of several seeds, pair by pair.

    Parameters
    ----------
    nets
        At least two networks, as for :func:`evaluate`; in a sequence they are named by position.
    k
        Number of best edges to compare; for each pair as many as the smaller network has if None.

    Returns
    -------
    One row for each pair: `first`, `second`, `k`, `jaccard` (edges among the `k` best of both, divided by those among
    the `k` best of either; ties are broken by name) and `spearman` (rank correlation of the magnitudes of weights over
    edges that either lists, 0 where one does not; NaN where one of them is constant). Self-loops do not count.

    Raises
    ------
    ValueError
        If there are fewer than two networks, or `k` is not positive.

    Examples
    --------
    >>> import pandas as pd
    >>> one = pd.DataFrame({"source": ["A", "A"], "target": ["B", "C"], "weight": [2.0, 1.0]})
    >>> two = pd.DataFrame({"source": ["A", "B"], "target": ["B", "C"], "weight": [2.0, 1.0]})
    >>> stability([one, two])[["k", "jaccard"]].round(2).values.tolist()
    [[2.0, 0.33]]
    """
    named = tidy_networks(nets if hasattr(nets, "items") else dict(enumerate(nets)))
    if len(named) < 2:
        msg = f"Stability compares networks, but {len(named)} was given. Refine with several seeds."
        raise ValueError(msg)
    if k is not None and k < 1:
        msg = f"k={k!r} must be a positive whole number, or None."
        raise ValueError(msg)
    weights = {
        name: magnitudes(net).sort_index().sort_values(ascending=False, kind="stable") for name, net in named.items()
    }
    rows = []
    for (first, one), (second, two) in combinations(weights.items(), 2):
        size = k if k is not None else min(len(one), len(two))
        best = one.index[:size], two.index[:size]
        both, either = len(best[0].intersection(best[1])), len(best[0].union(best[1]))
        joint = pd.concat([one, two], axis=1).fillna(0.0).rank()
        constant = bool((joint.nunique() < 2).any())
        rows.append(
            {
                "first": first,
                "second": second,
                "k": size,
                "jaccard": both / either if either else np.nan,
                "spearman": np.nan if constant else float(np.corrcoef(joint.to_numpy().T)[0, 1]),
            }
        )
    return pd.DataFrame(rows)
