"""L008 from a file on loopback."""

from __future__ import annotations

import pytest

import scgraphvci as sgv

FEW = {"n_top_genes": 30, "n_hardest": 2}


@pytest.mark.parametrize("project", ["a87cu", "5n2mz"])
def test_downloaded_and_prepared(host, draw_l008, to_bytes, project):
    raw = draw_l008()
    host.put_osf(project, {"L008_rna_counts.h5ad": to_bytes(raw)})
    adata = sgv.datasets.l008(**FEW)
    assert adata.obs_names.tolist() == raw.obs_names[9:].tolist()
    for condition, row in zip(raw.obs["condition"][9:], adata.obs.itertuples(), strict=True):
        number, donor, cas9, state = condition.split(" ")
        assert (row.donor, row.crispr, row.cell_type) == (donor, cas9, state)
        assert donor == f"Donor#{number[0]}"
        assert row.perturbation == ("ctrl" if cas9 == "Cas9-" else row.target_gene)
    assert set(adata.obs["perturbation"]) == {"ctrl", "NTC", "G2", "G4", "G6"}
    assert {"G2", "G4", "G6"} <= set(adata.var_names)
    ood = adata.obs[adata.obs["split"] == "ood"]
    assert set(ood["cell_type"]) == {"restim"}
    assert set(ood["crispr"]) == {"Cas9+"}
    assert ood["perturbation"].nunique() == 2


def test_missing_target_is_left_out(draw_l008, tmp_path):
    raw = draw_l008()
    raw.obs["target_gene"] = raw.obs["target_gene"].cat.remove_categories("NA")
    raw.write_h5ad(tmp_path / "raw.h5ad")
    assert sgv.datasets.l008(tmp_path / "raw.h5ad", **FEW).n_obs == raw.n_obs - 9
