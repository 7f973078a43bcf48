"""Moments that counterfactual outcomes are held to."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from scgraphvci.module._likelihood import MIN_SCALE, is_count, mean_of

if TYPE_CHECKING:
    from torch import Tensor

    from scgraphvci.data import StratumMoments
    from scgraphvci.module import GraphVCIModule
    from scgraphvci.module._baseline import MeanBaseline

CHUNK = 1_000  # pairs


class Targets:
    r"""The covariate-specific model fit phat(y' | x, t') of every observed pair of stratum and treatment.

    With a baseline :math:`\hat m`, observed means m of n cells are shrunk toward it,
    :math:`\hat m + \frac{h}{h + 1/n} (m - \hat m)`, with h the variance of means about the baseline in within-stratum
    variances, of controls or of treated strata; for counts, means are logs. Without a baseline they stay as they are.
    Variances are shrunk toward the pooled variance of their treatment.

    Attributes
    ----------
    mean, variance
        On the outcome scale, rows as in the moments, shape ``(n_rows, n_genes)``.
    within_variance
        Variance within strata and treatments, pooled, shape ``(n_genes,)``.
    """

    def __init__(self, moments: StratumMoments, module: GraphVCIModule) -> None:
        stratum, condition = np.nonzero(moments.row >= 0)
        order = np.argsort(moments.row[stratum, condition])
        stratum, condition = stratum[order], condition[order]
        self.mean = torch.as_tensor(moments.mean)
        if module.baseline is not None:
            self.mean = _shrunken_mean(moments, stratum, condition, module, module.baseline)
        self.variance = torch.as_tensor(moments.shrunken_variance(condition)) + MIN_SCALE**2
        self.within_variance = torch.as_tensor(moments.within_variance, dtype=self.mean.dtype) + MIN_SCALE**2


@torch.no_grad()
def _shrunken_mean(
    moments: StratumMoments, stratum: np.ndarray, condition: np.ndarray, module: GraphVCIModule, baseline: MeanBaseline
) -> Tensor:
    count = is_count(module.likelihood)
    device, dtype = baseline.shift.device, baseline.shift.dtype
    where, what = (torch.as_tensor(codes, device=device) for codes in (stratum, condition))
    observed = torch.as_tensor(moments.log_mean if count else moments.mean, dtype=dtype, device=device)
    noise = 1 / torch.as_tensor(moments.n_cells, dtype=dtype, device=device)[:, None]
    parts = zip(what.split(CHUNK), where.split(CHUNK), strict=True)  # treatment vectors of all pairs would be many
    fitted = torch.cat([baseline(module.design[condition], module.strata[stratum]) for condition, stratum in parts])
    spread = baseline.heterogeneity[(what > 0).long()]
    shrunken = fitted + spread / (spread + noise) * (observed - fitted)
    return (mean_of("nb", [shrunken]) if count else shrunken).cpu()
