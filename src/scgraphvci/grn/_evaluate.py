"""Judging networks against a known one, beside what is simpler."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import numpy as np
import pandas as pd
from anndata import AnnData

from scgraphvci.grn._adata import _check_adata, get_grn
from scgraphvci.grn._candidates import Candidates, magnitudes, tidy_networks
from scgraphvci.grn._frame import tidy
from scgraphvci.grn._random import degree_matched_random
from scgraphvci.grn._recovery import curve, keep_top, recovery
from scgraphvci.grn._scores import METHODS, NEEDS_PRIOR, Expression, _check_method, edge_scores

Nets = pd.DataFrame | Mapping[str, pd.DataFrame]
OF_PRIOR = ("prior", "random")
BASELINES = (*OF_PRIOR, *METHODS)
POOLED = "all"


def evaluate(
    nets: Nets,
    truth: pd.DataFrame,
    *,
    candidates: pd.DataFrame | Sequence[str] | None = None,
    prior: pd.DataFrame | str | None = None,
    adata: AnnData | None = None,
    baselines: Sequence[str] | None = None,
    layer: str | None = None,
    perturbation_key: str | None = None,
    categorical_covariate_keys: Sequence[str] | None = None,
    split_key: str | None = None,
    n_edges: int | Literal["matched"] | None = None,
    per_regulator: bool = False,
    seed: int = 0,
) -> pd.DataFrame:
    """Score how well networks recover a known one, beside the prior, simple methods and a random graph.

    Every candidate edge is ranked by the magnitude of its weight. Edges that a network does not list have weight 0 and
    tie with one another, edges that are no candidates are ignored, and self-loops never count.

    Parameters
    ----------
    nets
        Columns `source`, `target` and optionally `weight` (1 if absent; signs are ignored), or a mapping from names to
        such frames.
    truth
        The known network, likewise. Edges of weight 0 are known not to exist.
    candidates
        Where to look: a frame of pairs (`source`, `target`), or names of regulators, of which any gene may be the
        target. None: the sources of `truth`. Genes are those of `adata`, or those `truth` names if there are no data.
    prior
        The network that refinement started from, a frame or a key of `adata.varp`. With it each network is also scored
        within the prior (are false edges demoted?) and outside of it (are missing ones found?).
    adata
        Cells x genes, log-normalised. With it baselines are scored too.
    baselines
        Which: "prior", "random" (a random graph with the degrees and weights of the prior) and the methods of
        :func:`score_edges`. None: all that prior and columns allow but "grnboost2", which is slow.
    layer, perturbation_key, categorical_covariate_keys, split_key
        As for :func:`score_edges`.
    n_edges
        Keep only so many edges of each, the best; "matched": as many as the smallest of `nets` has among the
        candidates. Ties are broken at random. None: keep all.
    per_regulator
        Add rows for every regulator that has a true edge.
    seed
        Of the random graph, of broken ties and of "grnboost2".

    Returns
    -------
    One row for every network or baseline, scope and regulator, with the columns

    * `predictor`, `kind` ("network" or "baseline"), `scope` ("all", "within" or "outside" the prior), `regulator`
      ("all" where pooled)
    * `n_candidates`, `n_true`, `n_edges`, `density` = `n_true / n_candidates`
    * `auprc` (average precision) and `auprc_ratio` to the density, which is what random scores reach
    * `early_precision`, the share of true edges among the `n_true` best, and `early_precision_ratio` to the density
    * `auroc`

    NaN where there is no true or no false candidate. Definitions are those of BEELINE (Pratapa et al., Nature Methods
    17:147, 2020). Tied edges enter the precision-recall curve together, as in
    :func:`sklearn.metrics.average_precision_score`; of edges tied at the end of the early ones the expected share
    counts.

    Raises
    ------
    TypeError
        If a network is not a frame.
    KeyError
        If a column, layer or network is missing.
    ValueError
        If there is no candidate, no true edge among the candidates, or a baseline is unknown or lacks what it needs.

    Examples
    --------
    >>> import scgraphvci as sgv
    >>> adata = sgv.datasets.simulate(n_cells=300, n_genes=60, n_perturbations=4, seed=0)
    >>> truth, prior = sgv.grn.get_grn(adata, "grn_true"), sgv.grn.get_grn(adata, "grn")
    >>> scores = sgv.grn.evaluate({"truth": truth}, truth, prior=prior, adata=adata, baselines=["prior", "pearson"])
    >>> scores.loc[scores["scope"] == "all", ["predictor", "kind", "auprc"]].round(1).values.tolist()[0]
    ['truth', 'network', 1.0]
    """
    named, edges, known, where = _read(nets, truth, candidates, prior, adata)
    true = where.listed(known)
    scores = {name: (where.scores(net), "network") for name, net in named.items()}
    if n_edges == "matched":
        n_edges = min(int((score > 0).sum()) for score, _ in scores.values())
    elif isinstance(n_edges, str) or (n_edges is not None and n_edges < 1):
        msg = f'n_edges={n_edges!r} must be a positive whole number, "matched" or None.'
        raise ValueError(msg)
    if adata is not None:
        has_groups = perturbation_key is not None or bool(categorical_covariate_keys)
        expression = Expression(adata, layer, perturbation_key, categorical_covariate_keys, split_key)
        for name in _chosen(baselines, edges is not None, has_groups):
            if name in scores:
                msg = f"{name!r} names both a network and a baseline. Rename the network."
                raise ValueError(msg)
            scores[name] = _baseline(name, expression, where, edges, seed), "baseline"
    elif baselines is not None:
        msg = f"`baselines={list(baselines)}` need `adata`."
        raise ValueError(msg)
    scopes = {"all": where.mask}
    if edges is not None:
        listed = where.listed(edges)
        scopes |= {"within": where.mask & listed, "outside": where.mask & ~listed}
    rows = []
    for name, (score, kind) in scores.items():
        kept = score if n_edges is None else keep_top(score, n_edges, seed)
        for scope, mask in scopes.items():
            for regulator, part in _parts(mask, true, where.regulators, per_regulator):
                first = {"predictor": name, "kind": kind, "scope": scope, "regulator": regulator}
                rows.append({**first, **recovery(kept[part], true[part])})
    return pd.DataFrame(rows)


def precision_recall(
    nets: Nets,
    truth: pd.DataFrame,
    *,
    candidates: pd.DataFrame | Sequence[str] | None = None,
    genes: Sequence[str] | None = None,
    per_regulator: bool = False,
) -> pd.DataFrame:
    """Precision-recall curves of networks against a known one, for :func:`scgraphvci.pl.grn_precision_recall`.

    Parameters
    ----------
    nets, truth, candidates, per_regulator
        As for :func:`evaluate`. Curves of simple methods come from the frames of :func:`score_edges`.
    genes
        Genes of the data; those that `truth` names if None.

    Returns
    -------
    `predictor`, `regulator` ("all" where pooled), `recall` (ascending), `precision` and `density`, the precision of
    random scores. From the last listed edge a curve goes to recall 1 at the density of all candidates.

    Raises
    ------
    ValueError
        If there is no candidate, or no true edge among them.

    Examples
    --------
    >>> import pandas as pd
    >>> truth = pd.DataFrame({"source": ["A", "A"], "target": ["B", "C"]})
    >>> net = pd.DataFrame({"source": ["A", "A"], "target": ["B", "D"], "weight": [2.0, 1.0]})
    >>> curves = precision_recall(net, truth, genes=["A", "B", "C", "D"])
    >>> curves[["recall", "precision"]].round(2).values.tolist()
    [[0.0, 1.0], [0.5, 1.0], [0.5, 0.5], [1.0, 0.67]]
    """
    names = None if genes is None else pd.Index([str(gene) for gene in genes])
    named, _, known, where = _read(nets, truth, candidates, None, names)
    true = where.listed(known)
    frames = []
    for name, net in named.items():
        score = where.scores(net)
        for regulator, part in _parts(where.mask, true, where.regulators, per_regulator):
            recall, precision = curve(score[part], true[part])
            first = {"predictor": name, "regulator": regulator, "recall": recall, "precision": precision}
            frames.append(pd.DataFrame({**first, "density": true[part].mean()}))
    return pd.concat(frames, ignore_index=True)


def _read(
    nets: Nets,
    truth: pd.DataFrame,
    candidates: pd.DataFrame | Sequence[str] | None,
    prior: pd.DataFrame | str | None,
    data: AnnData | pd.Index | None,
) -> tuple[dict[str, pd.DataFrame], pd.DataFrame | None, pd.DataFrame, Candidates]:
    """Return tidy networks, prior and truth, and the candidates."""
    named, known = tidy_networks(nets), tidy(truth, "truth")
    genes = data
    if isinstance(data, AnnData):
        _check_adata(data)
        genes = pd.Index(data.var_names.astype(str))
    if isinstance(prior, str):
        if not isinstance(data, AnnData):
            msg = f"prior={prior!r} is a key of `adata.varp`, but there is no `adata`. Give a frame, or the data."
            raise ValueError(msg)
        prior = get_grn(data, prior)
    where = Candidates.of(candidates, known, genes)
    known = known[known["weight"] != 0]
    if not where.listed(known).any():
        msg = "No edge of `truth` is among the candidates. Widen `candidates`, or use the same kind of identifier."
        raise ValueError(msg)
    return named, None if prior is None else tidy(prior, "prior"), known, where


def _chosen(baselines: Sequence[str] | None, has_prior: bool, has_groups: bool) -> list[str]:
    """Names of the baselines to score."""
    if baselines is None:
        of_prior = (*OF_PRIOR, *NEEDS_PRIOR)
        return [
            name
            for name in BASELINES
            if name != "grnboost2" and (has_prior or name not in of_prior) and (has_groups or "residual" not in name)
        ]
    for name in baselines:
        if name not in BASELINES:
            msg = f"Unknown baseline {name!r}. Choose from {list(BASELINES)}."
            raise ValueError(msg)
        if name in OF_PRIOR and not has_prior:
            msg = f"Baseline {name!r} needs `prior`, a frame or a key of `adata.varp`."
            raise ValueError(msg)
        if name in METHODS:
            _check_method(name, has_prior, has_groups)
    return list(baselines)


def _baseline(
    name: str, expression: Expression, where: Candidates, prior: pd.DataFrame | None, seed: int
) -> np.ndarray:
    if name in OF_PRIOR and prior is not None:
        merged = magnitudes(prior).rename("weight").reset_index()
        return where.scores(merged if name == "prior" else degree_matched_random(merged, seed))
    return edge_scores(expression, name, where, prior, seed)


def _parts(
    mask: np.ndarray, true: np.ndarray, regulators: pd.Index, per_regulator: bool
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield names and masks of the candidates to pool: all of them, then those of each regulator with a true edge."""
    yield POOLED, mask
    if per_regulator:
        for row in np.flatnonzero((true & mask).any(axis=1)).tolist():
            part = np.zeros_like(mask)
            part[row] = mask[row]
            yield str(regulators[row]), part
