"""Moments that counterfactual outcomes are held to."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from scgraphvci.module._likelihood import MIN_SCALE, is_count

if TYPE_CHECKING:
    from torch import Tensor

    from scgraphvci.data import StratumMoments
    from scgraphvci.module._module import GraphVCIModule


class Targets:
    r"""The covariate-specific model fit phat(y' | x, t') of every observed pair of stratum and treatment.

    With a baseline :math:`\hat m`, observed means m of n cells are shrunk toward it,
    :math:`\hat m + \frac{h}{h + 1/n} (m - \hat m)`, with h the variance of means about the baseline in within-stratum
    variances, of controls or of treated strata; without one they stay as they are. Variances are shrunk toward the
    pooled variance of their treatment.

    Attributes
    ----------
    mean, variance
        Shape ``(n_rows, n_genes)``.
    within_variance
        Variance within strata and treatments, pooled, shape ``(n_genes,)``.
    """

    def __init__(self, moments: StratumMoments, module: GraphVCIModule) -> None:
        stratum, condition = (torch.as_tensor(index) for index in (moments.row >= 0).nonzero())
        order = torch.as_tensor(moments.row)[stratum, condition].argsort()
        stratum, condition = stratum[order], condition[order]
        self.mean: Tensor = torch.as_tensor(moments.mean)
        if module.baseline is not None:
            self.mean = self._shrunken(self.mean, torch.as_tensor(moments.n_cells), stratum, condition, module)
        variance = moments.shrunken_variance(condition.numpy())
        self.variance = torch.as_tensor(variance) + MIN_SCALE**2
        self.within_variance = torch.as_tensor(moments.within_variance, dtype=self.mean.dtype) + MIN_SCALE**2

    @staticmethod
    @torch.no_grad()
    def _shrunken(
        mean: Tensor, n_cells: Tensor, stratum: Tensor, condition: Tensor, module: GraphVCIModule
    ) -> Tensor:
        device = module.design.device
        fitted = module.baseline(module.design[condition.to(device)], module.strata[stratum.to(device)])
        spread = module.baseline.heterogeneity[(condition > 0).long().to(device)].cpu()
        fitted = fitted.cpu()
        own = spread / (spread + 1 / n_cells[:, None])
        if is_count(module.likelihood):  # on the scale of the baseline, the log
            pseudo = 0.5 / n_cells[:, None]
            return torch.exp(fitted + own * (torch.log(mean + pseudo) - fitted)).to(mean.dtype)
        return (fitted + own * (mean - fitted)).to(mean.dtype)
