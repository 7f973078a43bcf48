"""Random networks with the degrees of a given one."""

from __future__ import annotations

import numpy as np
import pandas as pd

_ROUNDS = 30  # each round proposes a swap for every edge: far beyond the few per edge after which little is left


def degree_matched_random(net: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Rewire a network at random: every source keeps its number of targets, every target its number of sources.

    The null against which a network's contribution is judged. Pairs of edges a -> b, c -> d become a -> d, c -> b where
    neither exists yet and neither is a self-loop. Other columns, such as `weight`, stay with the source.

    Parameters
    ----------
    net
        Columns `source` and `target`, without duplicated edges.
    seed
        Of the random numbers.

    Returns
    -------
    A frame like `net`, with other targets. Self-loops stay as they are.

    Raises
    ------
    KeyError
        If a column is missing.
    ValueError
        If an edge occurs twice.

    Examples
    --------
    >>> import pandas as pd
    >>> net = pd.DataFrame({"source": ["A", "A", "B", "B"], "target": ["C", "D", "E", "F"]})
    >>> random = degree_matched_random(net, seed=0)
    >>> random.groupby("source").size().to_dict(), sorted(random["target"])
    ({'A': 2, 'B': 2}, ['C', 'D', 'E', 'F'])
    """
    missing = [name for name in ("source", "target") if name not in net]
    if missing:
        msg = f"`net` has no column {missing}. Columns: {list(net.columns)}."
        raise KeyError(msg)
    if net.duplicated(["source", "target"]).any():
        first = net.loc[net.duplicated(["source", "target"])].iloc[0]
        msg = f"Edge {first['source']} -> {first['target']} occurs more than once in `net`. Merge duplicates first."
        raise ValueError(msg)
    codes, names = pd.factorize(np.concatenate([net["source"].astype(str), net["target"].astype(str)]))
    source, target = codes[: len(net)].astype(np.int64), codes[len(net) :].astype(np.int64)
    movable = np.flatnonzero(source != target)
    rng = np.random.default_rng(seed)
    for _ in range(_ROUNDS):
        _swap_round(source, target, movable, len(names), rng)
    return net.assign(target=np.asarray(names)[target])


def _swap_round(source: np.ndarray, target: np.ndarray, movable: np.ndarray, n: int, rng: np.random.Generator) -> None:
    """Propose a swap for every disjoint pair of edges and carry out those that are allowed, in place."""
    order = rng.permutation(movable)
    half = len(order) // 2
    one, two = order[:half], order[half : 2 * half]
    proposed = np.concatenate([source[one] * n + target[two], source[two] * n + target[one]])
    loop = np.concatenate([source[one] == target[two], source[two] == target[one]])
    _, inverse, count = np.unique(proposed, return_inverse=True, return_counts=True)
    refused = loop | (count[inverse] > 1) | np.isin(proposed, source * n + target)
    accepted = ~(refused[:half] | refused[half:])
    one, two = one[accepted], two[accepted]
    target[one], target[two] = target[two].copy(), target[one].copy()
