"""The search that learns from unfinished runs: its Gaussian process, and what it spends."""

import numpy as np
import pytest
from scipy.special import gamma, kv

from benchmarks.law_search import Belief, Search, alike, features
from benchmarks.samplers import view_of
from benchmarks.tabular import TABLE


def test_architectures_are_alike_as_matern_says() -> None:
    """The kernel in closed form is the general one, with Bessel functions, at 5/2."""
    points = np.linspace(0, 4, 9)[:, None]
    far = np.abs(points - points.T)[~np.eye(9, dtype=bool)]
    scaled = np.sqrt(5) * far
    general = 2 ** (1 - 2.5) / gamma(2.5) * scaled**2.5 * kv(2.5, scaled)
    assert alike(points, points)[~np.eye(9, dtype=bool)] == pytest.approx(general)


def test_ends_are_predicted_from_readings_of_all_horizons() -> None:
    """A curve over one axis, read at the first of two horizons everywhere and at the end of two."""
    known = np.linspace(-1.5, 1.5, 9)[:, None]
    belief = Belief(known, horizons=2)
    for arm in range(9):
        belief.read(arm, 0, 2.2 * float(np.exp(0.02 * (known[arm, 0] - 0.5) ** 2)))
    for arm in (0, 8):
        belief.read(arm, 1, 2.0 * float(np.exp(0.02 * (known[arm, 0] - 0.5) ** 2)))
    mean, covariance = belief.posterior()
    assert abs(known[int(mean.argmin()), 0] - 0.5) < 0.4
    assert np.linalg.eigvalsh(covariance).min() > -1e-9
    seen, unseen = covariance[8, 8], covariance[4, 4]
    assert seen < unseen, "what was read at its end is known better"


def test_a_search_counts_what_it_trains_and_answers_only_what_ended() -> None:
    view = view_of(TABLE, 0)
    search = Search(view, 0)
    traces = search.traces(4.0)
    recipe = view.tabular.recipe
    whole = recipe.trained_tokens / (recipe.steps * recipe.tokens_per_step)
    assert search.costs.sum() == pytest.approx(whole)
    trained = sum(float(search.costs[:n].sum()) for n in search.reached)
    spent = [trace.spent[-1] for trace in traces.values()]
    assert spent == pytest.approx([trained] * 2)
    assert 4.0 <= trained < 4.0 + whole
    ended = {search.arms[n] for n in np.flatnonzero(search.reached == len(search.costs))}
    answers = next(t.chosen for way, t in traces.items() if "finished" in way.sampler)
    assert set(answers) <= {None, *ended}
    assert len(features(view.tabular)) == len(view.tabular.options)
