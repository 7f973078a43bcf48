"""Why genes of a network and of data have other names."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd

ENSEMBL = r"(ENS[A-Z]*\d{6,})(\.\d+)?"


def naming_hint(named: pd.Index, genes: pd.Index) -> str:
    """Say how names differ, if one side has Ensembl identifiers or more names agree loosely than exactly.

    The measure is how many agree, not how many there are: a network of all genes has most of them beyond any data.

    Parameters
    ----------
    named
        Genes of a network.
    genes
        Genes of the data.

    Returns
    -------
    Sentences that follow a message, with a space before them; or nothing.
    """
    hint = _of_kinds(named, genes, "the network", "the data") or _of_kinds(genes, named, "the data", "the network")
    if hint:
        return hint
    alike = {_loosely(gene): gene for gene in genes}
    exact = named.isin(genes)
    pairs = [(name, alike[_loosely(name)]) for name in named[~exact] if _loosely(name) in alike]
    if not pairs or len(pairs) < exact.sum():
        return ""
    examples = ", ".join(f"{ours} for {theirs}" for ours, theirs in pairs[:3])
    return (
        f" {len(pairs)} more names agree when case and versions of identifiers are ignored, such as {examples}. One "
        "may be mouse (Stat1) and the other human (STAT1): map orthologs. If not, change the case of one, or cut off "
        "versions."
    )


def _of_kinds(first: pd.Index, second: pd.Index, first_name: str, second_name: str) -> str:
    """Say that most names of one are Ensembl identifiers and most of the other are not, if so."""
    one, two = (np.asarray(names.str.fullmatch(ENSEMBL), dtype=bool) for names in (first, second))
    if one.mean() <= 0.5 or two.mean() > 0.5:
        return ""
    return (
        f" Most names of {first_name} are Ensembl identifiers ({first[one][0]}), most of {second_name} are symbols "
        f"({second[~two][0]}). Use one kind in both; `adata.var` of 10x Genomics data has the other kind, as "
        "'gene_ids' or 'gene_symbols'."
    )


def _loosely(name: str) -> str:
    """Return a name without case, and an Ensembl identifier without its version."""
    upper = name.upper()
    match = re.fullmatch(ENSEMBL, upper)
    return match[1] if match else upper
