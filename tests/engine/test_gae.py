"""fastvec.gae against the formulas, row by row."""
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fastvec

try:
    import torch  # here, so that the collections after each test do not look through it again
except ImportError:
    torch = None

needs_torch = pytest.mark.skipif(torch is None, reason="needs torch")


def reference(rewards, values, last_values, terminations, truncations, masks, final_values, gamma, gae_lambda):
    """Each A_t as the sum of the deltas that follow it (Schulman et al. 2016, eq. 16), in Python's floats."""
    steps, rows = rewards.shape
    advantages = np.zeros((steps, rows))
    for r in range(rows):
        for t in range(steps):
            if not masks[t, r]:
                continue
            total, weight, k = 0.0, 1.0, t
            while k < steps and masks[k, r]:
                following = float(values[k + 1, r] if k + 1 < steps else last_values[r])
                if terminations[k, r]:
                    following = 0.0
                elif truncations[k, r] and not isinstance(final_values, str):
                    known = None if final_values is None else float(final_values[k, r])
                    following = float(values[k, r]) if known is None or np.isnan(known) else known
                total += weight * (float(rewards[k, r]) + gamma * following - float(values[k, r]))
                if terminations[k, r] or truncations[k, r]:
                    break
                weight *= gamma * gae_lambda
                k += 1
            advantages[t, r] = total
    return advantages, np.where(masks, advantages + values, 0)


def drawn(seed, steps, rows, often=0.2):
    rng = np.random.default_rng(seed)
    floats = {name: rng.normal(size=(steps, rows)).astype(np.float32) for name in ("rewards", "values", "final_values")}
    flags = {name: rng.random((steps, rows)) < often for name in ("terminations", "truncations")}
    floats["final_values"][rng.random((steps, rows)) < 0.5] = np.nan
    return {**floats, **flags, "masks": rng.random((steps, rows)) > often, "last_values": rng.normal(size=rows).astype(np.float32)}


sizes = st.tuples(st.integers(0, 2 ** 32), st.integers(1, 30), st.integers(1, 70))
unit = st.floats(0, 1)


@settings(max_examples=60, deadline=None)
@given(sizes, unit, unit, st.sampled_from([0, 0.05, 0.5, 1]), st.sampled_from(["given", "next", None]))
def test_equal_to_the_formula(size, gamma, gae_lambda, often, final):
    x = drawn(*size, often)
    if final != "given":
        x["final_values"] = final
    got = fastvec.gae(**x, gamma=gamma, gae_lambda=gae_lambda)
    for a, b in zip(got, reference(**x, gamma=gamma, gae_lambda=gae_lambda), strict=True):
        assert a.dtype == np.float32
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-4)


@settings(max_examples=30, deadline=None)
@given(sizes, unit)
def test_lambda_one_is_discounted_returns(size, gamma):
    x = drawn(*size)
    returns = fastvec.gae(x["rewards"], x["values"], x["last_values"], x["terminations"], ~(x["rewards"] < 9), gamma=gamma, gae_lambda=1)[1]
    following = x["last_values"].astype(float)
    for t in reversed(range(size[1])):
        following = x["rewards"][t] + gamma * np.where(x["terminations"][t], 0, following)
        np.testing.assert_allclose(returns[t], following, rtol=1e-4, atol=2e-4)


@settings(max_examples=30, deadline=None)
@given(sizes, unit)
def test_lambda_zero_is_one_step(size, gamma):
    x = drawn(*size)
    none = np.zeros_like(x["terminations"])
    advantages, _ = fastvec.gae(x["rewards"], x["values"], x["last_values"], none, none, gamma=gamma, gae_lambda=0)
    following = np.concatenate([x["values"][1:], x["last_values"][None]])
    np.testing.assert_allclose(advantages, x["rewards"] + gamma * following - x["values"], rtol=1e-5, atol=1e-5)


@settings(max_examples=30, deadline=None)
@given(sizes)
def test_rows_and_what_is_left_out_do_not_leak(size):
    """Each row alone gives the same bits, and what is masked or ended may be NaN."""
    x = drawn(*size)
    advantages, returns = fastvec.gae(**x)
    for r in range(0, size[2], 7):
        alone = fastvec.gae(**{name: array[..., r:r + 1] for name, array in x.items()})
        assert alone[0].tobytes() == advantages[:, r].tobytes() and alone[1].tobytes() == returns[:, r].tobytes()
    rewards = np.where(x["masks"], x["rewards"], np.nan)
    final = np.where(x["truncations"] & ~x["terminations"] & x["masks"], x["final_values"], np.inf)
    for a, b in zip(fastvec.gae(**{**x, "rewards": rewards, "final_values": final}), (advantages, returns), strict=True):
        assert a.tobytes() == b.tobytes()
    ended = {**x, "terminations": np.ones_like(x["masks"]), "last_values": np.full_like(x["last_values"], np.nan)}
    assert np.isfinite(fastvec.gae(**ended)).all()


def test_a_truncation_bootstraps():
    """One step each: terminated, truncated with a value known, next, unknown."""
    flags = np.array([[False]]), np.array([[True]])

    def advantage(**options):
        return float(fastvec.gae([[1.0]], [[3.0]], [7.0], flags[0], flags[1], gamma=0.5, **options)[0][0, 0])

    assert advantage(final_values=[[5.0]]) == 1 + 0.5 * 5 - 3
    assert advantage(final_values="next") == 1 + 0.5 * 7 - 3
    assert advantage() == advantage(final_values=[[np.nan]]) == 1 + 0.5 * 3 - 3
    assert advantage(final_values=0) == 1 - 3
    assert float(fastvec.gae([[1.0]], [[3.0]], [7.0], flags[1], flags[1], gamma=0.5, final_values=[[5.0]])[0][0, 0]) == 1 - 3


def test_any_arrays():
    """Views, orders, dtypes and shapes behind T are taken as they come."""
    x = drawn(3, 9, 12)
    want = fastvec.gae(**x)
    given = [
        {name: np.asfortranarray(array) for name, array in x.items()},
        {name: array.astype(np.float64) for name, array in x.items()},
        {name: np.repeat(array, 2, -1)[..., ::2] for name, array in x.items()},
        {name: np.repeat(array, 2, 0)[::2] if array.ndim == 2 else array for name, array in x.items()},
        {name: array.reshape(*array.shape[:-1], 3, 4) for name, array in x.items()},
    ]
    for form in given:
        for a, b in zip(fastvec.gae(**form), want, strict=True):
            assert a.shape == tuple(form["rewards"].shape) and a.tobytes() == b.tobytes()
    line = fastvec.gae(*(x[name][..., 0] for name in ("rewards", "values", "last_values", "terminations", "truncations")))[0]
    assert line.shape == (9,)


@needs_torch
def test_torch_tensors():
    x = drawn(3, 9, 12)
    tensors = {name: torch.from_numpy(array).requires_grad_(array.dtype.kind == "f") for name, array in x.items()}
    for a, b in zip(fastvec.gae(**tensors), fastvec.gae(**x), strict=True):
        assert isinstance(a, np.ndarray) and a.tobytes() == b.tobytes()


@pytest.mark.parametrize("change, says", [
    ({"values": np.zeros((4, 3))}, r"values: shape \(4, 3\); give \(4, 2\)"),
    ({"last_values": np.zeros(3)}, r"last_values: shape \(3,\); give \(2,\)"),
    ({"last_values": 0.0}, r"last_values: shape \(\); give \(2,\)"),
    ({"masks": np.ones(2)}, r"masks: shape \(2,\); give \(4, 2\)"),
    ({"terminations": np.full((4, 2), "no")}, "terminations: dtype <U2; give numbers or bools"),
    ({"rewards": 3.0}, r"rewards=3.0; give an array \[T, ...\]"),
    ({"final_values": "last"}, "final_values='last'; give 'next', an array of shape"),
    ({"gamma": 1.5}, "gamma=1.5; give a number from 0 to 1"),
    ({"gamma": float("nan")}, "gamma=nan; give a number from 0 to 1"),
    ({"gae_lambda": True}, "gae_lambda=True; give a number from 0 to 1"),
])
def test_what_does_not_fit(change, says):
    names = ("rewards", "values", "terminations", "truncations")
    with pytest.raises((ValueError, TypeError), match=says):
        fastvec.gae(**{**{name: np.zeros((4, 2)) for name in names}, "last_values": np.zeros(2), **change})
