"""Names that become part of files and AnnData objects. Treat every string here as a file format."""

from __future__ import annotations

from typing import NamedTuple


class _Keys(NamedTuple):
    """Keys under which scvi-tools' registry and minibatches hold our fields."""

    OUTCOME: str = "X"
    TREATMENT: str = "scgraphvci_treatment"
    STRATUM: str = "scgraphvci_stratum"
    CONTINUOUS: str = "scgraphvci_continuous"
    SIZE_FACTOR: str = "scgraphvci_size_factor"
    SPLIT: str = "scgraphvci_split"
    GRAPH: str = "scgraphvci_graph"
    INTERVENTION: str = "scgraphvci_intervention"
    DESCRIPTORS: str = "scgraphvci_descriptors"


class _Slots(NamedTuple):
    """Where the package writes in an AnnData."""

    GRN: str = "grn"
    GRN_REFINED: str = "grn_refined"
    GRN_TRUE: str = "grn_true"
    LATENT: str = "X_scgraphvci"
    GENE_FEATURES: str = "gene_features"
    COUNTERFACTUAL: str = "counterfactual_"
    COUNTERFACTUAL_TREATMENT: str = "counterfactual_treatment"
    RANK_EFFECTS: str = "rank_effects"


class _Splits(NamedTuple):
    """The only values a split column may hold."""

    TRAIN: str = "train"
    TEST: str = "test"
    OOD: str = "ood"


KEYS = _Keys()
SLOTS = _Slots()
SPLITS = _Splits()
