"""The registry holds the arguments of the set-up, plain and complete."""

from __future__ import annotations

import inspect
import json

import numpy as np
import pytest
from mudata import MuData

import scgraphvci as sgv
from scgraphvci._constants import KEYS


def arguments_of(method):
    parameters = inspect.signature(method).parameters.values()
    return {p.name for p in parameters if p.kind is not p.VAR_KEYWORD} - {"adata", "mdata"}


def test_setup_arguments_are_those_of_the_signature(fitted):
    assert set(fitted.registry["setup_args"]) == arguments_of(sgv.GraphVCI.setup_anndata)
    assert fitted.registry["setup_method_name"] == "setup_anndata"
    assert json.loads(json.dumps(fitted.registry["setup_args"])) == fitted.registry["setup_args"]


def test_gene_names_without_data(fitted):
    model = sgv.GraphVCI(registry=fitted.registry)
    assert list(model.get_var_names()) == list(fitted.adata.var_names)


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_setup_arguments_of_mudata(new_screen):
    mdata = MuData({"rna": new_screen()})
    sgv.GraphVCI.setup_mudata(mdata, categorical_covariate_keys=["cell_type"])
    model = sgv.GraphVCI(mdata)
    assert set(model.registry["setup_args"]) == arguments_of(sgv.GraphVCI.setup_mudata)
    assert model.registry["setup_method_name"] == "setup_mudata"
    assert json.loads(json.dumps(model.registry["setup_args"])) == model.registry["setup_args"]


def test_minibatches_hold_cells_only(fitted):
    """The network, the gene features and the split never travel with the cells."""
    assert set(fitted.adata_manager.data_registry) == {KEYS.OUTCOME, KEYS.TREATMENT, KEYS.STRATUM}
    batch = fitted.adata_manager.create_torch_dataset()[[0, 1, 2]]
    assert {key: tuple(value.shape) for key, value in batch.items()} == {
        KEYS.OUTCOME: (3, 40),
        KEYS.TREATMENT: (3, 1),
        KEYS.STRATUM: (3, 1),
    }


def test_states_are_plain_data(fitted):
    def check(value):
        if isinstance(value, dict):
            for key, item in value.items():
                assert isinstance(key, str)
                check(item)
        elif isinstance(value, list | tuple):
            for item in value:
                check(item)
        else:
            assert value is None or isinstance(value, str | int | float | bool | np.ndarray), type(value)

    for key, field in fitted.registry["field_registries"].items():
        assert isinstance(key, str)
        check(field["state_registry"])
        check(field["summary_stats"])


def test_summary_statistics(fitted):
    expected = {
        "n_vars": 40,
        "n_cells": 240,
        "n_perturbations": 4,
        "n_strata": 4,
        "n_categorical_covariates": 2,
        "n_continuous_covariates": 0,
        "n_grn_edges": len(fitted.get_graph()),
    }
    assert {key: fitted.summary_stats[key] for key in expected} == expected


def test_view_setup_args_prints(fitted, saved, capsys):
    fitted.view_setup_args(saved)
    assert "perturbation_key" in capsys.readouterr().out
