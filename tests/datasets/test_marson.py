"""Schmidt 2022 from a file on loopback."""

from __future__ import annotations

import scgraphvci as sgv

FEW = {"n_top_genes": 30, "n_hardest": 2}


def test_downloaded_and_prepared(host, draw_marson, to_bytes, cache):
    raw = draw_marson()
    host.put_osf("5n2mz", {"marson_formatted_raw.h5ad": to_bytes(raw)})
    adata = sgv.datasets.marson(**FEW)
    assert (cache / "marson_formatted_raw.h5ad").is_file()
    # 0 to 2 have few genes, 3 to 5 much mitochondrial RNA, 6 to 9 no type or donor
    assert adata.obs_names.tolist() == raw.obs_names[10:].tolist()
    assert (adata.obs["perturbation"] == raw.obs["target"][10:]).all()
    assert (adata.obs["cell_type"] == raw.obs["celltype"][10:].astype(str)).all()
    assert set(adata.obs["cell_type"]) == {"CD4", "CD8"}
    assert set(adata.obs["donor"]) == {"Donor1", "Donor2"}
    assert "cluster_name" in adata.obs
    assert {"cluser_name", "celltype"}.isdisjoint(adata.obs)
    assert {"G3", "G5", "G7"} <= set(adata.var_names)
    ood = adata.obs[adata.obs["split"] == "ood"]
    assert set(ood["cell_type"]) == {"CD8"}
    assert set(ood["stim"]) == {"Re-stimulated"}
    assert set(ood["perturbation"]) == set(adata.uns["split"]["held_out"]["perturbation"])
    assert "NTC" not in set(ood["perturbation"])
