"""Bayesian logistic regression with few examples and many features: the fit that the head's estimates come from.

Source: MacKay 1992, "The evidence framework applied to classification networks" (the Laplace approximation, and eq. 10
for the moderated output). With N examples the weights lie in the span of the examples, so that everything is solved in
at most N dimensions, however many features there are. What the fit would say of an example that it had not seen is
approximated in closed form (Rad & Maleki 2020, "A scalable estimate of the out-of-sample prediction error", eq. 4).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy.linalg
import scipy.optimize
from scipy.special import expit

__all__ = ["Logistic", "fit_logistic"]

_Array = npt.NDArray[np.float64]

_SMALLEST_SCALE = 1e-6
_LEAST_APART = 0.05
"""Mean p of good and of bad images closer than this say nothing about shares; the standard error is large then."""

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
        left_out: (N,), for each example the moderated p(good) as if it had been left out of the fit.
    """

    centre: _Array
    scale: _Array
    basis: _Array
    weights: _Array
    factor: _Array
    prior: float
    left_out: _Array

    def logit(self, features: _Array) -> tuple[_Array, _Array]:
        """Mean and standard deviation of w·φ + b for `features` (N, D): two arrays (N,)."""
        phi = (features - self.centre) / self.scale
        inside = phi @ self.basis.T
        rows = np.concatenate([inside, np.ones((len(phi), 1))], axis=1)
        spread = scipy.linalg.solve_triangular(self.factor, rows.T, lower=True)
        outside = np.maximum((phi**2).sum(1) - (inside**2).sum(1), 0.0)
        return rows @ self.weights, np.sqrt((spread**2).sum(0) + outside / self.prior)

    def probability(self, features: _Array) -> tuple[_Array, _Array]:
        """The moderated p(good), and one standard deviation of σ(w·φ + b) to first order: two arrays (N,) in [0, 1]."""
        mean, deviation = self.logit(features)
        p = _moderated(mean, deviation**2)
        return p, p * (1 - p) * deviation

    def share_good(self, good: npt.NDArray[np.bool_], estimates: _Array) -> tuple[float, float]:
        """The share of good images among those with p(good) = `estimates` (M,), and its standard error.

        A probabilistic adjusted count: mean p lies between the means that labelled bad and good images would have.
        Those are taken from the labels `good` (N,) of the fit, each as if it had been left out. It assumes that good
        and bad images look like those that were labelled. Source: Bella et al. 2010, "Quantification via probability
        estimators".
        """
        kinds = (self.left_out[good], self.left_out[~good])
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
    without = rows @ found.x + variance * weigh * (p - good) / kept
    return Logistic(centre, scale, basis, found.x, factor, prior, _moderated(without, variance / kept))


def _moderated(mean: _Array, variance: _Array) -> _Array:
    """σ(mean) averaged over a Gaussian of that variance, to a good approximation."""
    p: _Array = expit(mean / np.sqrt(1 + np.pi * variance / 8))
    return p
