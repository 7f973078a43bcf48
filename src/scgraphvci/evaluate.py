"""Scores of predictors on held-out strata, beside simple baselines and repeated experiments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
import pandas as pd
from anndata import AnnData

from scgraphvci._evaluation._conditions import held_out_conditions, starting_cells
from scgraphvci._evaluation._contest import TRUTH, Contest
from scgraphvci._evaluation._exports import to_cell_eval, to_pertpy
from scgraphvci._evaluation._leakage import check_unseen
from scgraphvci._evaluation._predictors import resolve, set_up_of
from scgraphvci._warn import warn
from scgraphvci.baselines import Predictor

if TYPE_CHECKING:
    from scgraphvci.datasets import Truth

Protocol = Literal["matched", "paper"]
MAX_DE_SHARE = 0.25  # of all genes


class Evaluation:
    """Predictions of held-out treatments, scored in every stratum beside what any score must be compared with.

    A *condition* is a treatment in a stratum. For each, every predictor predicts once, starting from cells of the
    stratum, and its mean profile and cells are scored against the held-out cells. Nothing of the truth (references,
    gene lists, weights) comes from a prediction.

    Parameters
    ----------
    models
        A fitted predictor, or several by name. At least one is a model or baseline of this package: its set-up says
        where treatments, covariates and the split are. Others need ``predict(treatment, indices=)``, with `dose` where
        there are doses, and `adata` for ``protocol="paper"`` or if they have an attribute `adata` that is not the
        screen: they get source cells alone, never held-out ones. Predictors with a method ``sample``, like that of
        :meth:`scgraphvci.GraphVCI.sample`, are asked for draws where distributions are compared.
    adata
        The screen; the data of the first predictor that has some if None.
    split
        Which cells are the truth: "ood" or "test".
    baselines
        "simple" adds no change, train mean, stratum mean, control level, context shift, additive and ridge PCA, fitted
        on train cells; or None. What has one of these names in `models` must be that very baseline, fitted on these
        data with the first predictor's settings, and stands for it.
    source
        Treatment of the cells that predictions start from, or "all"; neither "ood" cells nor those of the truth ever
        are.
    groupby
        Covariates whose joint levels are the strata; the set-up's categorical covariates if None.
    layer
        Layer with the truth, which added baselines read too; what the first predictor reads if None. Every predictor
        with a set-up must read it, or predict it.
    truth
        Truth of a simulated screen: mean profiles are then scored against its noise-free means. Distributions are
        compared with held-out cells all the same.
    n_de
        Number of genes of `r2_de`; a warning says if they are more than a quarter of all.
    min_cells
        Conditions with fewer held-out cells are scored, and flagged as thin.
    n_bootstrap
        Resamples behind the intervals: of treatments where there are at least ten, else of conditions.
    duplicates
        Whether to add the technical and the interpolated duplicate, what a repeated experiment would score.
    protocol
        "matched": predictions start from cells of the stratum. "paper": from those of all strata, their covariates
        overwritten, as in Wu et al. (ICLR 2023).
    seed
        Of everything random.

    Attributes
    ----------
    skipped
        Held-out conditions that cannot be scored, with the `reason`. Treatments that no training cell received are
        not among them: they are scored, and marked `unseen` in :meth:`pairs`.

    Raises
    ------
    ValueError
        If no condition can be scored, nothing says how the screen is set up, predictors read different scales, one has
        the name of a simple baseline without being it, one was trained on cells it would be scored on (or validated on
        "ood" ones), or a prediction is not finite or of other genes.
    TypeError
        If the data are not an AnnData, a model was set up on a MuData, or something is no predictor.

    Notes
    -----
    Models of counts are scored on log1p(counts / library * s), s being the standard library of the first of them (of
    the simulator, with `truth`): so are the held-out counts; baselines are fitted on that, and predictions are drawn at
    the libraries of the source cells.

    Examples
    --------
    >>> import scgraphvci as sgv
    >>> adata = sgv.datasets.simulate(n_cells=600, n_genes=60, n_perturbations=4, seed=0)
    >>> shift = sgv.baselines.ContextShift(adata, categorical_covariate_keys=["cell_type"], split_key="split")
    >>> evaluation = Evaluation({"mine": shift}, truth=sgv.datasets.truth(adata), n_de=10)
    >>> evaluation.summary()["weighted_r2"].columns.tolist()[:4]
    ['mean', 'ci_low', 'ci_high', 'difference']
    """

    def __init__(
        self,
        models: Predictor | Mapping[str, Predictor],
        adata: AnnData | None = None,
        split: str = "ood",
        baselines: Literal["simple"] | None = "simple",
        source: str = "control",
        *,
        groupby: Sequence[str] | str | None = None,
        layer: str | None = None,
        truth: Truth | None = None,
        n_de: int = 50,
        min_cells: int = 5,
        n_bootstrap: int = 1000,
        duplicates: bool = True,
        protocol: Protocol = "matched",
        seed: int = 0,
    ) -> None:
        if protocol not in get_args(Protocol):
            msg = f"Unknown protocol {protocol!r}. Choose one of {get_args(Protocol)}."
            raise ValueError(msg)
        if n_bootstrap < 1:
            msg = f"`n_bootstrap` must be at least 1, not {n_bootstrap}."
            raise ValueError(msg)
        screen, entrants = resolve(models, adata, baselines, groupby, layer, truth, seed)
        n_genes = screen.adata.n_vars
        if n_de > n_genes * MAX_DE_SHARE:
            msg = (
                f"`r2_de` counts {min(n_de, n_genes)} of {n_genes} genes, and is close to `r2`. Take a smaller `n_de`."
            )
            warn(msg)
        conditions, self.skipped = held_out_conditions(screen, split, source, truth, n_de, min_cells)
        settings = {entrant.name: known for entrant in entrants if (known := set_up_of(entrant.model)) is not None}
        scored = np.concatenate([one.held_out for one in conditions])
        check_unseen(settings, {entrant.name: entrant.model for entrant in entrants}, screen.adata, scored, split)
        anywhere = np.flatnonzero(starting_cells(screen, split, source)) if protocol == "paper" else None
        self._contest = Contest(screen, entrants, conditions, seed, anywhere)
        self._table = self._contest.score(n_bootstrap, duplicates=duplicates, noise_free=truth is not None)

    def __repr__(self) -> str:
        """Say what was evaluated."""
        thin = int(self._table.labels["thin"].sum())
        return (
            f"Evaluation of {list(self._table.scores)} on {len(self._table.labels)} conditions, {thin} of them thin; "
            f"{len(self.skipped)} skipped"
        )

    def pairs(self) -> pd.DataFrame:
        """Return the scores of every condition.

        Returns
        -------
        One row per condition and predictor: `predictor`, `kind` ("model", "baseline" or "duplicate"), `treatment`,
        `dose`, one column per covariate, `n_cells`, `thin`, `unseen` (no training cell of any stratum received the
        treatment, or, of a combination, one of its perturbations, at whatever dose), `n_significant` (genes that differ
        from control), `n_reference` (training treatments behind the perturbed reference; the fewer, the noisier it is),
        and one column per metric, NaN where it is not defined. :data:`scgraphvci.metrics.METRICS` describes them.
        """
        return self._table.pairs()

    def summary(self) -> pd.DataFrame:
        """Return means over conditions, with 95 % bootstrap intervals.

        Where there are at least ten treatments (each dose being one), whole treatments are resampled with all their
        conditions: what is special of a treatment is so in every stratum, so that its conditions are not independent.
        With fewer, conditions are resampled as if they were, and intervals are too narrow for other treatments.

        Returns
        -------
        One row per predictor, columns (metric, statistic). The statistics are `mean`, `ci_low`, `ci_high`; the paired
        `difference` to the simple baseline of best mean, `difference_low`, `difference_high`, **positive where the
        predictor is better**, whatever the direction of the metric; `n`, the conditions in which the metric is
        defined; and, with duplicates, `drf` of the metric, as in :meth:`calibration`. ("size", ...) has the numbers of
        conditions, held-out cells and thin conditions. Two more monitors of collapse: ("mean_pairwise_correlation",
        "mean") of predicted shifts in a stratum, to compare with its "truth"; ("nearest_own", "mean"), the share of
        conditions whose prediction is nearest to its own true mean.
        """
        frame = self._table.summary()
        similarity = self._contest.pairwise_correlations()
        frame["mean_pairwise_correlation", "mean"] = [similarity.get(name, np.nan) for name in frame.index]
        frame["mean_pairwise_correlation", "truth"] = similarity[TRUTH]
        frame["nearest_own", "mean"] = [self._table.nearest_own(name) for name in frame.index]
        return frame

    def calibration(self) -> pd.DataFrame:
        """Return what each metric can tell on these data.

        Returns
        -------
        One row per metric: `drf`, the dynamic range fraction, `bds`, the bound discrimination score, `positive` and
        `negative`, the better duplicate and the best of the negative controls (no change, train mean, stratum mean and
        control level), which they compare, and `n`, the conditions in which both are defined. See
        :func:`scgraphvci.metrics.dynamic_range_fraction`.
        """
        return self._table.calibration()

    def headline(self) -> pd.DataFrame:
        """Return the primary metrics of the models, and say which may be headlined.

        Returns
        -------
        One row per model and primary metric: `predictor`, `metric`, `best_baseline`, the statistics of :meth:`summary`,
        `n_unseen`, the conditions whose treatment no training cell received, `drf`, and `headline`: False where the
        dynamic range fraction is below .2 or unknown, so that the metric cannot tell a repeated experiment from a
        negative control on these data, and where `n`, the conditions in which the metric is defined, is below 5.

        Raises
        ------
        ValueError
            If a simple baseline is missing.
        """
        return self._table.headline()

    def shifts(self) -> pd.DataFrame:
        """Return predicted and true shift from control of every gene; :func:`scgraphvci.pl.shift_scatter` draws them.

        Returns
        -------
        One row per condition, predictor and gene: `predictor`, `treatment`, `dose`, one column per covariate,
        `n_cells`, `gene`, `true`, `predicted`.
        """
        return self._contest.shifts()

    def genes(self) -> pd.DataFrame:
        """Return what every gene counts in every condition, which comes from the truth alone.

        Returns
        -------
        One row per condition and gene: `treatment`, `dose`, one column per covariate, `gene`; `weight` in
        `weighted_mse` and `weighted_r2`; `is_de`, whether `r2_de` counts it; `is_significant`, whether `de_*` do; and
        the means `reference` (control) and `true`.
        """
        return self._contest.genes()

    def to_cell_eval(self, predictor: str, directory: str | Path | None = None) -> tuple[AnnData, AnnData]:
        """Return predicted and real cells for cell-eval's ``MetricsEvaluator`` and command line.

        Parameters
        ----------
        predictor
            Whose predictions.
        directory
            Folder to write ``adata_pred.h5ad`` and ``adata_real.h5ad`` to, made if missing; nothing is written if None.

        Returns
        -------
        Predicted and real cells. Both hold the same control cells, those of the data. ``obs["target"]`` names the
        treatment (with ``@dose``), "non-targeting" for control: cell-eval's defaults; ``obs["stratum"]`` the stratum.
        Predicted values below 0, which cell-eval refuses, become 0, so that its scores can differ from those here.
        cell-eval knows one control only: with several strata evaluate one at a time, or give it ``--celltype-col
        stratum``.

        Raises
        ------
        ValueError
            If the predictor is unknown.
        """
        folder = None if directory is None else Path(directory)
        return to_cell_eval(self._contest.screen, self._contest.conditions, self._contest.cells_of(predictor), folder)

    def to_pertpy(self, predictor: str) -> AnnData:
        """Return control, true and predicted cells for pertpy's distances.

        Parameters
        ----------
        predictor
            Whose predictions.

        Returns
        -------
        AnnData with ``obs["condition"]`` (treatment and stratum) and ``obs["origin"]``: "control", "true" or
        "predicted"; control cells are repeated in every condition of their stratum. ``obsm["X_pca"]`` is the basis in
        which distributions are compared here. For one condition: ``Distance("edistance", obsm_key="X_pca").pairwise(
        adata[adata.obs["condition"] == name], groupby="origin")``.

        Raises
        ------
        ValueError
            If the predictor is unknown.
        """
        return to_pertpy(self._contest.screen, self._contest.conditions, self._contest.cells_of(predictor))


def evaluate(
    models: Predictor | Mapping[str, Predictor],
    adata: AnnData | None = None,
    split: str = "ood",
    baselines: Literal["simple"] | None = "simple",
    source: str = "control",
    *,
    groupby: Sequence[str] | str | None = None,
    layer: str | None = None,
    truth: Truth | None = None,
    n_de: int = 50,
    min_cells: int = 5,
    n_bootstrap: int = 1000,
    duplicates: bool = True,
    protocol: Protocol = "matched",
    seed: int = 0,
) -> pd.DataFrame:
    """Score predictors on held-out conditions; :meth:`Evaluation.summary` with the parameters of :class:`Evaluation`.

    Examples
    --------
    >>> import scgraphvci as sgv
    >>> adata = sgv.datasets.simulate(n_cells=600, n_genes=60, n_perturbations=4, seed=0)
    >>> shift = sgv.baselines.ContextShift(adata, categorical_covariate_keys=["cell_type"], split_key="split")
    >>> evaluate({"mine": shift}, n_de=10).index.tolist()[:3]
    ['mine', 'no change', 'train mean']
    """
    return Evaluation(
        models, adata, split, baselines, source, groupby=groupby, layer=layer, truth=truth, n_de=n_de,
        min_cells=min_cells, n_bootstrap=n_bootstrap, duplicates=duplicates, protocol=protocol, seed=seed,
    ).summary()  # fmt: skip
