"""Bayesian logistic regression with few examples and many features: the fit that the head's estimates come from.

Source: MacKay 1992, "The evidence framework applied to classification networks" (the Laplace approximation, and eq. 10
for the moderated output). With N examples the weights lie in the span of the examples, so that everything is solved in
at most N dimensions, however many features there are. What the fit would say of an example that it had not seen is
approximated in closed form (Rad & Maleki 2020, "A scalable estimate of the out-of-sample prediction error", eq. 4).

A strong prior makes few labels rank images well, and timid about it. So p(good) is calibrated by what the fit would
have said of each labelled example if it had been left out (Platt 1999, "Probabilistic outputs for support vector
machines"): where it ranks them well p comes near 0 and 1, and where it does not p is everywhere the share of good ones.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy.linalg
import scipy.optimize
from scipy.special import expit, logit

__all__ = ["Logistic", "fit_logistic"]

_Array = npt.NDArray[np.float64]

_SMALLEST_SCALE = 1e-6
_LEAST_APART = 0.05
"""Mean p of good and of bad images closer than this say nothing about shares; the standard error is large then."""

_WIDE = 2.0
"""Standard deviation of the slope's logarithm a priori."""

_STEEPEST = 4.0
"""Its largest distance from 0."""

_FLAT = 1e-6
"""The prior precision of the intercept, which is hardly pulled to 0."""


@dataclass(frozen=True)
class Logistic:
    """p(good | x) = σ(w·φ + b), φ = (x − centre)/scale, with a Gaussian posterior of (w, b).

    Attributes:
        centre, scale: (D,).
        basis: (R, D), orthonormal rows that span the examples.
        weights: (R + 1,), MAP, in that basis; the last one is b.
        factor: the Cholesky factor of the posterior precision, (R + 1, R + 1), lower.
        prior: λ, the precision of the weights outside that span.
        left_out: (N,), for each example the log-odds of the moderated p(good) as if it had been left out of the fit.
        slope, offset: of the calibration, log-odds → slope·log-odds + offset.
    """

    centre: _Array
    scale: _Array
    basis: _Array
    weights: _Array
    factor: _Array
    prior: float
    left_out: _Array
    slope: float
    offset: float

    def logit(self, features: _Array) -> tuple[_Array, _Array]:
        """Mean and standard deviation of w·φ + b for `features` (N, D): two arrays (N,)."""
        phi = (features - self.centre) / self.scale
        inside = phi @ self.basis.T
        rows = np.concatenate([inside, np.ones((len(phi), 1))], axis=1)
        spread = scipy.linalg.solve_triangular(self.factor, rows.T, lower=True)
        outside = np.maximum((phi**2).sum(1) - (inside**2).sum(1), 0.0)
        return rows @ self.weights, np.sqrt((spread**2).sum(0) + outside / self.prior)

    def probability(self, features: _Array) -> tuple[_Array, _Array]:
        """The calibrated p(good), and one standard deviation of it to first order: two arrays (N,) in [0, 1]."""
        mean, deviation = self.logit(features)
        p: _Array = expit(self.slope * _moderated(mean, deviation**2) + self.offset)
        return p, p * (1 - p) * self.slope * _moderated(deviation, deviation**2)

    def share_good(self, good: npt.NDArray[np.bool_], estimates: _Array) -> tuple[float, float]:
        """The share of good images among those with p(good) = `estimates` (M,), and its standard error.

        A probabilistic adjusted count: mean p lies between the means that labelled bad and good images would have.
        Those are taken from the labels `good` (N,) of the fit, each as if it had been left out. It assumes that good
        and bad images look like those that were labelled. Source: Bella et al. 2010, "Quantification via probability
        estimators". It counts with p before its calibration, whose doubts make the error honest: with few labels a
        calibrated p is near 0 and 1 without knowing more.
        """
        inside = np.clip(estimates, _SMALLEST_SCALE, 1 - _SMALLEST_SCALE)
        estimates, left_out = expit((logit(inside) - self.offset) / self.slope), expit(self.left_out)
        kinds = (left_out[good], left_out[~good])
        (of_good, error_good), (of_bad, error_bad) = ((p.mean(), p.std() / math.sqrt(len(p))) for p in kinds)
        apart = max(float(of_good - of_bad), _LEAST_APART)
        share = float(estimates.mean() - of_bad) / apart
        error = math.hypot(estimates.std() / math.sqrt(len(estimates)), share * error_good, (1 - share) * error_bad)
        return min(max(share, 0.0), 1.0), error / apart


def fit_logistic(features: _Array, good: npt.NDArray[np.bool_], prior: float) -> Logistic:
    """The MAP fit to `features` (N, D) and labels `good` (N,) of both kinds, each kind weighing as much as the other.

    Features are standardised; w has the prior N(0, 1/`prior`), and b almost none.

    Raises:
        ValueError: all labels are of one kind.
    """
    if good.all() or not good.any():
        raise ValueError("a logistic fit needs examples of both kinds")
    centre, scale = features.mean(0), np.maximum(features.std(0), _SMALLEST_SCALE)
    _, singular, basis = scipy.linalg.svd((features - centre) / scale, full_matrices=False)
    basis = basis[singular > singular.max() * 1e-10]
    rows = np.concatenate([((features - centre) / scale) @ basis.T, np.ones((len(features), 1))], axis=1)
    sign = np.where(good, 1.0, -1.0)
    weigh = len(good) / (2 * np.where(good, good.sum(), (~good).sum()))
    precision = np.append(np.full(len(basis), prior), _FLAT)

    def objective(w: _Array) -> tuple[float, _Array]:
        margin = sign * (rows @ w)
        loss = weigh @ np.logaddexp(0.0, -margin) + 0.5 * (precision * w) @ w
        return float(loss), -rows.T @ (weigh * sign * expit(-margin)) + precision * w

    start = np.zeros(rows.shape[1])
    found = scipy.optimize.minimize(objective, start, jac=True, method="L-BFGS-B", options={"maxiter": 1000})
    p = expit(rows @ found.x)
    curvature = (rows.T * (weigh * p * (1 - p))) @ rows + np.diag(precision)
    factor = scipy.linalg.cholesky(curvature, lower=True)
    variance = (scipy.linalg.solve_triangular(factor, rows.T, lower=True) ** 2).sum(0)
    kept = np.maximum(1 - variance * weigh * p * (1 - p), _SMALLEST_SCALE)
    without = _moderated(rows @ found.x + variance * weigh * (p - good) / kept, variance / kept)
    return Logistic(centre, scale, basis, found.x, factor, prior, without, *_calibration(without, good))


def _calibration(log_odds: _Array, good: npt.NDArray[np.bool_]) -> tuple[float, float]:
    """Slope > 0 and offset of the logistic curve through the labels of the examples with `log_odds` (N,).

    Labels count as Platt's targets, a little short of 0 and 1, so that examples that are told apart without a fault
    give no infinite slope; the slope's logarithm has a wide Gaussian prior around 0.
    """
    targets = np.where(good, (good.sum() + 1) / (good.sum() + 2), 1 / ((~good).sum() + 2))

    def objective(w: _Array) -> float:
        margin = np.exp(w[0]) * log_odds + w[1]
        return float(
            (np.logaddexp(0.0, margin) - targets * margin).sum() + w[0] ** 2 / (2 * _WIDE**2) + _FLAT * w[1] ** 2
        )

    found = scipy.optimize.minimize(
        objective, np.zeros(2), method="L-BFGS-B", bounds=[(-_STEEPEST, _STEEPEST), (None, None)]
    )
    return float(np.exp(found.x[0])), float(found.x[1])


def _moderated(mean: _Array, variance: _Array) -> _Array:
    """Log-odds of σ averaged over a Gaussian of log-odds, to a good approximation."""
    log_odds: _Array = mean / np.sqrt(1 + np.pi * variance / 8)
    return log_odds
