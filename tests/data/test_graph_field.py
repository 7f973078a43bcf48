from __future__ import annotations

import mudata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from scvi.data import AnnDataManager
from scvi.dataloaders import AnnDataLoader

from scgraphvci._constants import KEYS
from scgraphvci.data import GraphField, OutcomeField

FORMATS = {
    "dense": np.asarray,
    "csr": sparse.csr_matrix,
    "csc": sparse.csc_matrix,
    "csr_array": sparse.csr_array,
}


def network_of(state, n_genes=12):
    (source, target), weight = np.asarray(state["edge_index"]), np.asarray(state["edge_weight"])
    dense = np.zeros((n_genes, n_genes), np.float32)
    np.add.at(dense, (source, target), weight)
    return dense


@pytest.mark.parametrize("form", FORMATS)
def test_rows_are_sources_and_columns_targets(screen, form):
    network = screen.varp["grn"].toarray()
    network[2, 5], network[5, 2] = -0.7, 0.0
    screen.varp["grn"] = FORMATS[form](network)
    state = GraphField("grn").register_field(screen)
    np.testing.assert_array_equal(network_of(state), network)
    assert state["edge_index"].dtype == np.int64
    assert state["edge_weight"].dtype == np.float32
    assert state["edge_weight"].size == np.count_nonzero(network)
    assert state["features"] is None
    assert GraphField("grn").get_summary_stats(state) == {"n_grn_edges": np.count_nonzero(network)}
    edges = set(zip(*state["edge_index"].tolist(), strict=True))
    assert (2, 5) in edges
    assert (5, 2) not in edges


def test_stored_zeros_are_no_edges_and_repeated_entries_one(screen):
    indptr = np.array([0, 3, *[3] * 11])
    matrix = sparse.csr_matrix((np.array([1.0, 2.0, 0.0]), np.array([4, 4, 6]), indptr), shape=(12, 12))
    screen.varp["grn"] = matrix
    state = GraphField("grn").register_field(screen)
    np.testing.assert_array_equal(state["edge_index"], [[0], [4]])
    np.testing.assert_array_equal(state["edge_weight"], [3.0])
    assert screen.varp["grn"].data.size == 3  # the user's matrix is left as it was


def test_features_are_standardised_by_column(screen):
    values = np.random.default_rng(0).normal(3, 2, (12, 2))
    for stored in (values, pd.DataFrame(values, index=screen.var_names), sparse.csr_matrix(values)):
        screen.varm["features"] = stored
        state = GraphField(None, "features").register_field(screen)
        np.testing.assert_allclose(state["features"], (values - values.mean(0)) / values.std(0), rtol=1e-4, atol=1e-6)
        assert state["edge_index"].shape == (2, 0)
    screen.varm["features"] = np.ones((12, 1))
    np.testing.assert_array_equal(GraphField(None, "features").register_field(screen)["features"], 0)


def test_the_graph_is_in_no_minibatch_and_new_data_need_none(screen):
    fields = [OutcomeField(None), GraphField("grn")]
    manager = AnnDataManager(fields=fields, setup_method_args={})
    manager.register_fields(screen)
    assert set(next(iter(AnnDataLoader(manager, batch_size=7)))) == {KEYS.OUTCOME}
    new = screen[:7].copy()
    del new.varp["grn"]
    transferred = manager.transfer_fields(new)
    for key in ("edge_index", "edge_weight"):
        np.testing.assert_array_equal(
            transferred.get_state_registry(KEYS.GRAPH)[key], manager.get_state_registry(KEYS.GRAPH)[key]
        )


def test_mudata(screen):
    state = GraphField("grn", mod_key="rna").register_field(mudata.MuData({"rna": screen}))
    np.testing.assert_array_equal(network_of(state), screen.varp["grn"].toarray())


def test_nothing_given_is_empty():
    assert GraphField(None).is_empty
    assert not GraphField("grn").is_empty
    assert not GraphField(None, "features").is_empty


def test_bad_networks_raise(screen):
    with pytest.raises(KeyError, match=r"'motifs' not found in varp. Keys: \['grn'\]. Add one with"):
        GraphField("motifs").register_field(screen)
    for network, what in ((np.eye(12), "only self-loops"), (np.zeros((12, 12)), "no edges")):
        screen.varp["grn"] = sparse.csr_matrix(network)
        with pytest.raises(ValueError, match=rf"varp\['grn'\] holds {what}.*`grn_key=None`"):
            GraphField("grn").register_field(screen)
    for bad in (np.nan, np.inf):
        network = np.ones((12, 12))
        network[3, 4] = bad
        screen.varp["grn"] = sparse.csr_matrix(network)
        with pytest.raises(ValueError, match="holds 1 NaN or infinite weights"):
            GraphField("grn").register_field(screen)


def test_bad_features_raise(screen):
    with pytest.raises(KeyError, match="`gene_features_key`: 'embedding' not found in varm"):
        GraphField(None, "embedding").register_field(screen)
    screen.varm["features"] = np.full((12, 2), np.nan)
    with pytest.raises(ValueError, match=r"varm\['features'\] must be a finite matrix"):
        GraphField(None, "features").register_field(screen)
