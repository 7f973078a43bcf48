"""What a result rests on, and what it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from scgraphvci.estimate._tables import long_frame

if TYPE_CHECKING:
    from scgraphvci.estimate._result import MarginalEffects


def overlap_frame(effects: MarginalEffects) -> pd.DataFrame:
    """See `MarginalEffects.overlap`."""
    treated, reference = effects.n_treated.astype(float), effects.n_reference.astype(float)
    n_effective = treated
    if effects.params["reference"] is not None:
        n_effective = 2 * treated * reference / np.maximum(treated + reference, 1)
    by_row = {name: getattr(effects, name) for name in ("n_treated", "n_reference", "n_stratum", "n_clusters")}
    by_row["propensity"] = np.divide(
        treated, effects.n_stratum, out=np.full_like(treated, np.nan), where=effects.n_stratum > 0
    )
    return long_frame(effects, by_row | {"share": effects.share, "n_effective": n_effective, "status": effects.status})


def summary(effects: MarginalEffects) -> list[tuple[str, str]]:
    """Lines of the `repr` of a result: what each is of, and what it says."""
    reference = effects.params["reference"]
    estimand = effects.params.get("contrast_of", effects.params.get("estimand", "difference")).replace("_", " ")
    what = "mean under the treatment" if reference is None else f"{estimand} to {reference!r}"
    if effects.is_contrast:
        what = f"difference of two {'means' if reference is None else f'{estimand}s to {reference!r}'}"
    names, counts = np.unique(effects.status.astype(str), return_counts=True)
    shape = f"{len(effects.treatments)} treatments x {len(effects.strata)} strata x {len(effects.genes)} genes"
    return [
        ("estimand", what),
        ("size", shape),
        ("strata", ", ".join(map(str, effects.strata.columns)) or "none"),
        ("estimator", str(effects.params["estimator"])),
        ("errors", "clustered" if effects.n_clusters.any() else "independent cells"),
        ("status", ", ".join(f"{name} {count}" for name, count in zip(names, counts, strict=True))),
    ]
