"""GOPro: texts of the classes to which every image adds something of its own."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.objectives.golden_inputs import CASES, LABELS, QUEUE, Z1, Z2, Z3, interleaved
from tests.objectives.mixed_inputs import gopro
from tests.quick import quick_jit
from xsample_jax.models.heads import unit_rows
from xsample_jax.objectives.from_config import find_problems
from xsample_jax.objectives.logits import prompt_consistency, prompted
from xsample_jax.objectives.presets import PRESETS
from xsample_jax.objectives.terms import FeatureTerm

GOPRO = CASES[PRESETS["gopro"].golden]
X, Y, Z, TEXTS = (jnp.float32(z) for z in (Z1, Z2, Z3, QUEUE[:4]))


def prompts(s):
    """p [n, C, D] of shifts s [n, D]."""
    return unit_rows(TEXTS[None] + s[:, None])


def test_gopro_has_the_parts_and_both_gradients_of_the_published_code():
    """Its gradient in the prompts [n, C, D], which ours never makes, goes on to what they are made of."""
    feature_terms = PRESETS["gopro"].objective.feature_terms
    also, whole = GOPRO["also"], 0.3 * interleaved(X, Y, Z)
    parts = quick_jit(
        lambda: (
            gopro(terms=PRESETS["gopro"].objective.terms[:1], feature_terms=()),
            gopro(terms=(), feature_terms=feature_terms),
        )
    )()
    assert list(map(float, parts)) == pytest.approx([also["cross_entropy"], also["consistency"]], rel=1e-4)

    def with_given(p):
        logits = 10 * jnp.einsum("nd,ncd->nc", X, p)
        entropy = -jnp.mean(jax.nn.log_softmax(logits)[jnp.arange(12), LABELS])
        return entropy + sum(jnp.mean((p - prompts(0.3 * view)) ** 2) for view in (Y, Z))

    p, back = jax.vjp(prompts, 0.3 * X)
    in_prompts = jax.grad(with_given)(p)
    assert float(jnp.linalg.norm(in_prompts)) == pytest.approx(also["gradient_norm_prompts"], rel=1e-4)
    both = quick_jit(jax.grad(lambda x, s: gopro((x, Y, Z), s), argnums=(0, 1)))
    in_rows, in_shifts = both(X, whole)
    assert float(jnp.linalg.norm(in_rows)) == pytest.approx(also["gradient_norm_z1"], rel=1e-4)
    np.testing.assert_allclose(in_shifts[::3], back(in_prompts)[0], atol=2e-5)


def test_products_stand_for_the_prompts_of_every_pair():
    rng = np.random.default_rng(0)
    s, t = (jnp.float32(rng.normal(size=(12, 16))) for _ in range(2))
    found = prompted(X, TEXTS, {"prompt": s}, {})
    np.testing.assert_allclose(found, jnp.einsum("nd,ncd->nc", X, prompts(s)), atol=1e-5)
    apart = prompt_consistency(X, Y, {"prompt": s}, {"prompt": t}, {"z": TEXTS})
    np.testing.assert_allclose(apart, jnp.mean((prompts(s) - prompts(t)) ** 2), rtol=1e-4)
    alike = prompt_consistency(X, Y, {"prompt": s}, {"prompt": s}, {"z": TEXTS})
    assert float(alike) == pytest.approx(0, abs=1e-6)


def test_an_objective_without_the_heads_cannot_have_them():
    whole = PRESETS["gopro"].objective
    for name in ("prompts", "class_texts"):
        heads = {other: head for other, head in whole.heads.items() if other != name}
        told = list(map(str, find_problems(dataclasses.replace(whole, heads=heads))))
        assert told, name
        assert all(name in line and "gopro" in line for line in told)
    terms = (FeatureTerm("prompt_consistency"),)
    found = list(find_problems(dataclasses.replace(PRESETS["simclr"].objective, terms=(), feature_terms=terms)))
    assert "gopro" in str(found[0])


def test_every_width_has_prompts_of_its_own_prefix():
    """Of the whole width they are those without widths; of a half the other numbers do not matter."""
    whole, cut = (quick_jit(lambda shifts, w=w: gopro(shifts=shifts, widths=((w, 1.0),))) for w in (16, 8))
    shifts = jnp.asarray(0.3 * interleaved(X, Y, Z))
    other = shifts.at[:, 8:].set(0.5)
    assert float(whole(shifts)) == pytest.approx(float(quick_jit(gopro)()), rel=1e-5)
    assert float(cut(shifts)) == pytest.approx(float(cut(other)), rel=1e-6)
    assert float(whole(shifts)) != pytest.approx(float(whole(other)), rel=1e-2)
