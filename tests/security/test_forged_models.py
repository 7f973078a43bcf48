"""Model files whose text and tensors do not make one model are refused, before anything is built of them.

The checksum of each file holds: it was forged by someone who knows the format.
"""

from __future__ import annotations

import resource

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import scgraphvci as sgv

FILE = "model.safetensors"
REFUSED = f"{FILE} is not a readable model file: "


def make_data() -> ad.AnnData:
    rng = np.random.default_rng(0)
    obs = pd.DataFrame(
        {
            "perturbation": np.resize(["control", "g0", "g1", "g0+g1"], 40),
            "cell_type": np.resize(["B", "T", "NK"], 40),
            "dose": np.resize(["0", "1", "2", "1+2"], 40),
            "age": rng.uniform(20, 60, 40),
            "split": np.resize(["train", "train", "train", "test"], 40)[rng.permutation(40)],
        },
        index=[f"c{i}" for i in range(40)],
    )
    adata = ad.AnnData(rng.normal(size=(40, 4)).astype(np.float32), obs=obs)
    adata.var_names = [f"g{i}" for i in range(4)]
    adata.varp["grn"] = np.eye(4, k=1, dtype=np.float32)
    adata.varm["pca"] = rng.normal(size=(4, 2)).astype(np.float32)
    return adata


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """One saved model with every field, and a saved refiner."""
    root = tmp_path_factory.mktemp("models")
    adata = make_data()
    features = pd.DataFrame({"size": [1.0, 2.0, 3.0], "charge": [0.0, 1.0, 0.5]}, index=["g0", "g1", "g2"])
    sgv.GraphVCI.setup_anndata(
        adata, categorical_covariate_keys=["cell_type"], continuous_covariate_keys=["age"], dose_key="dose",
        combination_sep="+", split_key="split", grn_key="grn", gene_features_key="pca", treatment_features=features,
        perturbation_direction={"g0": "knockout", "g1": "activation"},
    )  # fmt: skip
    model = sgv.GraphVCI(adata, n_hidden=4, n_latent=2)
    model.is_trained_ = True
    model.save(root / "GraphVCI")
    prior = make_data()
    sgv.GRNRefiner.setup_anndata(prior, perturbation_key="perturbation")
    sgv.GRNRefiner(prior).save(root / "GRNRefiner")
    return {name: (root / name / FILE).read_bytes() for name in ("GraphVCI", "GRNRefiner")}


@pytest.fixture
def refused(forge, models, tmp_path):
    """Forge a model and try to load it, with data and without; return what was said."""

    def load(edit_contents, kind="GraphVCI"):
        (tmp_path / FILE).write_bytes(models[kind])
        forge(tmp_path / FILE, edit_contents)
        said = []
        for adata in (make_data(), False):
            with pytest.raises(ValueError, match=REFUSED) as error:
                getattr(sgv, kind).load(tmp_path, adata)
            said.append(str(error.value))
        assert said[0] == said[1]
        return said[0]

    return load


def test_what_is_forged_here_loads_where_it_is_left_alone(forge, models, tmp_path):
    for kind, content in models.items():
        (tmp_path / FILE).write_bytes(content)
        forge(tmp_path / FILE)
        for adata in (make_data(), False):
            getattr(sgv, kind).load(tmp_path, adata)


# --- states of fields ---

X, SPLIT, TREATMENT, STRATUM = "X", "scgraphvci_split", "scgraphvci_treatment", "scgraphvci_stratum"
CONTINUOUS, GRAPH, DESCRIPTORS = "scgraphvci_continuous", "scgraphvci_graph", "scgraphvci_descriptors"
NAN = {"__type__": "float", "value": "nan"}
GONE = type  # what no file can hold

STATES = {
    "genes that are no names": (X, "column_names", [1, 2, 3, 4]),
    "one text for all genes": (X, "column_names", "ABCD"),
    "a gene that comes twice": (X, "column_names", ["g0", "g1", "g2", "g2"]),
    "another number of genes": (X, "n_vars", 10**9),
    "text for the smallest value": (X, "min", "0"),
    "a number for whether values are whole": (X, "integer", 2),
    "another split column": (SPLIT, "split_key", "perturbation"),
    "no perturbations": (TREATMENT, "perturbations", GONE),
    "a perturbation that comes twice": (TREATMENT, "perturbations", ["g0", "g0"]),
    "no untrained perturbations": (TREATMENT, "untrained", GONE),
    "text for a treatment vector": (TREATMENT, "design", "zz"),
    "vectors of other perturbations": (TREATMENT, "design", [[0.0] * 7] * 4),
    "NaN in a vector": (TREATMENT, "design", [[0.0, NAN]] * 4),
    "texts in a vector": (TREATMENT, "design", [["0", "1"]] * 4),
    "a number for the control": (TREATMENT, "control", 7),
    "another control": (TREATMENT, "control", "g0"),
    "another separator": (TREATMENT, "combination_sep", None),
    "fewer doses than treatments": (TREATMENT, "doses", ["1"]),
    "no largest doses": (TREATMENT, "max_dose", None),
    "a largest dose of 0": (TREATMENT, "max_dose", [1.0, 0.0]),
    "a usual dose that is none": (TREATMENT, "default_dose", {"g0": "much"}),
    "a usual dose of what is unknown": (TREATMENT, "default_dose", {"g9": "1"}),
    "no strata": (STRATUM, "strata", GONE),
    "strata of other covariates": (STRATUM, "strata", [[0, 1]]),
    "strata of levels that do not exist": (STRATUM, "strata", [[0], [1], [3]]),
    "negative strata": (STRATUM, "strata", [[0], [1], [-1]]),
    "strata that are no whole numbers": (STRATUM, "strata", [[0.0], [0.5], [2.0]]),
    "strata beyond all integers": (STRATUM, "strata", [[10**30]]),
    "levels of other covariates": (STRATUM, "levels", {"donor": ["B", "T", "NK"]}),
    "keys of other covariates": (STRATUM, "keys", [None]),
    "a level that comes twice": (STRATUM, "levels", {"cell_type": ["B", "B", "T"]}),
    "one text for all levels": (STRATUM, "levels", {"cell_type": "BTN"}),
    "other continuous covariates": (CONTINUOUS, "keys", ["depth"]),
    "an infinite mean": (CONTINUOUS, "mean", [{"__type__": "float", "value": "inf"}]),
    "a standard deviation of 0": (CONTINUOUS, "sd", [0.0]),
    "two means of one covariate": (CONTINUOUS, "mean", [1.0, 2.0]),
    "no edges": (GRAPH, "edge_index", GONE),
    "edges of genes that do not exist": (GRAPH, "edge_index", [[0, 1, 2], [1, 2, 10**12]]),
    "edges of negative genes": (GRAPH, "edge_index", [[0, 1, -1], [1, 2, 3]]),
    "fewer edges than weights": (GRAPH, "edge_index", [[0], [1]]),
    "edges with three ends": (GRAPH, "edge_index", [[0, 1, 2]] * 3),
    "edges between halves": (GRAPH, "edge_index", [[0.5, 1, 2], [1, 2, 3]]),
    "a network without edges": (GRAPH, "edge_weight", []),
    "NaN for a weight": (GRAPH, "edge_weight", [1.0, 1.0, NAN]),
    "texts for weights": (GRAPH, "edge_weight", ["1", "1", "1"]),
    "features of other genes": (GRAPH, "features", [[0.0, 1.0]] * 3),
    "one number for all features": (GRAPH, "features", 1.0),
    "no features": (GRAPH, "features", None),
    "descriptors of other treatments": (DESCRIPTORS, "names", ["g0", "g1"]),
    "a treatment described twice": (DESCRIPTORS, "names", ["g0", "g1", "g1"]),
    "names that are none": (DESCRIPTORS, "names", [0, 1, 2]),
    "a descriptor too many": (DESCRIPTORS, "columns", ["size", "charge", "age"]),
    "no descriptors": (DESCRIPTORS, "values", None),
    "infinite descriptors": (DESCRIPTORS, "values", [[{"__type__": "float", "value": "-inf"}, 0.0]] * 3),
    "descriptors in one row": (DESCRIPTORS, "values", [1.0, 2.0, 3.0]),
    "a direction that is none": (DESCRIPTORS, "direction", {"g0": "sideways", "g1": "activation"}),
    "a list of directions": (DESCRIPTORS, "direction", ["knockout"]),
    "no direction": (DESCRIPTORS, "direction", None),
    "something where nothing was registered": ("scgraphvci_size_factor", "key", "depth"),
}


@pytest.mark.parametrize(("field", "name", "value"), STATES.values(), ids=list(STATES))
def test_states_that_no_set_up_writes_are_refused(refused, field, name, value):
    def edit(contents):
        state = contents["attributes"]["registry_"]["field_registries"][field]["state_registry"]
        state.pop(name, None)
        if value is not GONE:
            state[name] = value

    assert f"its registry of {field!r} is damaged" in refused(edit)


@pytest.mark.parametrize("field", [X, SPLIT, TREATMENT, STRATUM, CONTINUOUS, GRAPH, DESCRIPTORS])
@pytest.mark.parametrize("value", [GONE, None, 7, "", [], {}, {"state_registry": None}], ids=str)
def test_fields_without_a_state_are_refused(refused, field, value):
    def edit(contents):
        fields = contents["attributes"]["registry_"]["field_registries"]
        del fields[field]
        if value is not GONE:
            fields[field] = value

    assert "is damaged" in refused(edit)


@pytest.mark.parametrize(("name", "value"), [("control", "g0"), ("perturbation_key", None)])
def test_states_of_interventions_are_those_of_the_set_up(refused, name, value):
    def edit(contents):
        fields = contents["attributes"]["registry_"]["field_registries"]
        fields["scgraphvci_intervention"]["state_registry"][name] = value

    assert "its registry of 'scgraphvci_intervention' is damaged" in refused(edit, "GRNRefiner")


def test_no_genes_are_refused(refused):
    def edit(contents):
        del contents["attributes"]["registry_"]["field_registries"][X]["state_registry"]["column_names"]

    assert "KeyError: 'column_names'" in refused(edit)


@pytest.mark.parametrize("value", [None, 7, []])
def test_no_registry_of_fields_is_refused(refused, value):
    refused(lambda contents: contents["attributes"]["registry_"].update(field_registries=value))


# --- arguments of the set-up ---

SETUPS = {
    "a list for a column": ("perturbation_key", []),
    "a dict for a column": ("dose_key", {}),
    "a list for a layer": ("layer", ["X"]),
    "a list for a covariate": ("categorical_covariate_keys", [[]]),
    "a number for covariates": ("continuous_covariate_keys", 7),
    "a list for a modality": ("modality", []),
    "an empty separator": ("combination_sep", ""),
    "an argument that there is none of": ("no_such_argument", "x"),
    "covariates that the states do not hold": ("categorical_covariate_keys", ["cell_type", "split"]),
    "a network that the states do not hold": ("grn_key", None),
    "features that the states do not hold": ("gene_features_key", None),
    "directions that the states do not hold": ("perturbation_direction", None),
}


@pytest.mark.parametrize(("name", "value"), SETUPS.values(), ids=list(SETUPS))
def test_set_ups_that_are_none_are_refused(refused, name, value):
    refused(lambda contents: contents["attributes"]["registry_"]["setup_args"].update({name: value}))


# --- arguments of the constructor ---

ARGUMENTS = {
    "negative": ("n_hidden", -1),
    "beyond all integers": ("n_hidden", 10**30),
    "14 GB": ("n_hidden", 60_000),
    "200 GB": ("n_outcome_embedding", 60_000_000),
    "as wide as another weight": ("n_hidden", 128),
    "wider by one": ("n_latent", 3),
    "text": ("n_latent", "2; import os"),
    "nested": ("n_latent", {"__type__": "tuple", "items": [1]}),
    "hours of layers": ("n_layers", 10**9),
    "layers of the network": ("n_graph_layers", 10**9),
    "a list of layers": ("n_layers", [2]),
    "no number": ("n_hidden", NAN),
    "unknown": ("callback", "os.system"),
    "an unknown word": ("dispersion", "none"),
}


@pytest.mark.parametrize(("name", "value"), ARGUMENTS.values(), ids=list(ARGUMENTS))
def test_arguments_that_the_weights_do_not_have_are_refused_before_they_cost(refused, name, value):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    def edit(contents):
        contents["attributes"]["init_params_"]["kwargs"]["module_kwargs"][name] = value

    assert "no GraphVCI can be built of its arguments and weights" in refused(edit)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kB


@pytest.mark.parametrize("summary", ["n_vars", "n_continuous_covariates"])
def test_sizes_that_the_weights_do_not_have_are_refused_without_data(forge, models, tmp_path, summary):
    """With data, sizes are counted anew."""

    def edit(contents):
        for field in contents["attributes"]["registry_"]["field_registries"].values():
            if summary in field["summary_stats"]:
                field["summary_stats"][summary] = 10**7

    (tmp_path / FILE).write_bytes(models["GraphVCI"])
    forge(tmp_path / FILE, edit)
    with pytest.raises(ValueError, match=f"{REFUSED}no GraphVCI can be built"):
        sgv.GraphVCI.load(tmp_path, adata=False)
