"""What every metric asks of its arrays."""

from __future__ import annotations

import numpy as np


def same_shape(n_axes: int, **arrays: np.ndarray) -> list[np.ndarray]:
    """Return arrays as float64, in the order given.

    Raises
    ------
    ValueError
        If they do not share one shape with `n_axes` axes.
    """
    cast = {name: np.asarray(array, dtype=np.float64) for name, array in arrays.items()}
    shapes = {name: array.shape for name, array in cast.items()}
    if len(set(shapes.values())) > 1 or any(len(shape) != n_axes for shape in shapes.values()):
        expected = "(n_genes,)" if n_axes == 1 else "(n, n_genes)"
        msg = f"Expected arrays of one shape {expected}, got {shapes}. Pass the same genes, in the same order, to all."
        raise ValueError(msg)
    return list(cast.values())


def same_genes(**arrays: np.ndarray) -> list[np.ndarray]:
    """Return matrices of shape ``(n, n_genes)`` as float64, in the order given.

    Raises
    ------
    ValueError
        If one is no matrix, or their numbers of genes differ.
    """
    cast = {name: np.asarray(array, dtype=np.float64) for name, array in arrays.items()}
    shapes = {name: array.shape for name, array in cast.items()}
    if any(len(shape) != 2 for shape in shapes.values()) or len({shape[1] for shape in shapes.values()}) > 1:
        msg = f"Expected matrices (n, n_genes) of the same genes, got shapes {shapes}."
        raise ValueError(msg)
    return list(cast.values())


def correlation(true: np.ndarray, predicted: np.ndarray) -> float:
    """Pearson correlation of two vectors: 0 where `predicted` is constant, NaN where `true` is."""
    true, predicted = true - true.mean(), predicted - predicted.mean()
    norm, length = float(np.linalg.norm(true)), float(np.linalg.norm(predicted))
    if norm < 1e-12:
        return float("nan")
    return 0.0 if length < 1e-12 else float(true @ predicted / (norm * length))
