import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.models.filled import filled, normal, run
from tests.objectives.synthetic import LinearEncoder
from xsample_jax.errors import ConfigError
from xsample_jax.models.towers import ENCODERS, build_model
from xsample_jax.state import define_model


def _images(n=4, side=16):
    return normal(0, (n, side, side, 3))


@pytest.mark.parametrize("encoder", ["resnet18", "resnet34", "resnet50", "vit_ti", "vit_s", "vit_b"])
def test_every_encoder_builds_abstractly(config, encoder):
    assert encoder in ENCODERS
    config.model.encoder = encoder
    model = nnx.eval_shape(lambda: build_model(config, rngs=nnx.Rngs(0)))
    features, z = nnx.eval_shape(lambda m, x: m.embed(x), model, jax.ShapeDtypeStruct((6, 32, 32, 3), jnp.float32))
    assert features.shape == (6, model.encoder.features)
    assert z.shape == (6, 8)
    assert features.dtype == z.dtype == jnp.float32
    assert {leaf.dtype for leaf in jax.tree.leaves(nnx.state(model))} == {jnp.dtype("float32")}


def test_split_once_and_step_under_plain_jit(config, shallow):
    config.precision.compute = "bfloat16"
    model = filled(lambda: build_model(config, rngs=nnx.Rngs(0)))
    graph, parameters, rest = nnx.split(model, nnx.Param, ...)

    @jax.jit
    def step(parameters, rest, images):
        def loss(parameters):
            model = nnx.merge(graph, parameters, rest, copy=True)
            features, z = model.embed(images)
            return jnp.sum(jnp.square(z[0] - z[1])), (features, z, nnx.split(model, nnx.Param, ...)[2])

        return jax.grad(loss, has_aux=True)(parameters)

    gradients, (features, z, new_rest) = step(parameters, rest, _images())
    assert features.shape == (4, 8)
    assert features.dtype == z.dtype == jnp.float32
    np.testing.assert_allclose(np.linalg.norm(z, axis=1), 1.0, rtol=1e-6)
    assert jax.tree.structure(new_rest) == jax.tree.structure(rest)
    norms = {"/".join(map(str, path)): np.abs(leaf[...]).max() for path, leaf in nnx.to_flat_state(gradients)}
    assert all(np.isfinite(list(norms.values())))
    assert norms["encoder/stem/conv/kernel"] > 0
    assert norms["encoder/stages/1/0/norm2/scale"] > 0
    assert norms["head/out/kernel"] > 0
    assert not np.allclose(new_rest["encoder"]["stem"]["norm"]["mean"][...], 0)


def test_eval_mode_reaches_every_batch_norm(config, shallow):
    model = filled(lambda: build_model(config, rngs=nnx.Rngs(0)))
    model.eval()
    images = _images()
    changed = images.at[1:].multiply(3.0)

    def embed(model, images):
        return model.embed(images)

    features, z = run(model, images, call=embed)
    features_changed, z_changed = run(model, changed, call=embed)
    np.testing.assert_allclose(features[0], features_changed[0], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(z[0], z_changed[0], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
        run(model, images, call=lambda model, images: model.features(images)), features, rtol=1e-5
    )
    model.train()
    assert np.abs(run(model, images, call=embed)[1] - z).max() > 1e-3


def test_linear_text(config):
    model = filled(lambda: build_model(config, "linear", 6, rngs=nnx.Rngs(0)))
    embeddings = np.random.default_rng(0).normal(size=(3, 6)).astype(np.float16)
    z = model.embed_text({"caption_embedding": embeddings, "label": np.zeros(3)})
    raw = embeddings.astype(np.float64) @ np.asarray(model.text.out.kernel[...])
    np.testing.assert_allclose(z, raw / np.linalg.norm(raw, axis=1, keepdims=True), rtol=1e-5, atol=1e-6)
    with pytest.raises(ConfigError, match="caption_embedding"):
        model.embed_text({"caption_tokens": np.zeros((3, 4), np.int32)})


def test_transformer_text(config):
    config.model.text.layers, config.model.text.width, config.model.text.heads = 1, 16, 2
    model = filled(lambda: build_model(config, "transformer", 20, rngs=nnx.Rngs(0)))
    batch = {"caption_tokens": np.array([[1, 5, 2, 0], [1, 6, 7, 2]], np.int32)}
    z = run(model, batch, call=lambda model, batch: model.embed_text(batch))
    assert z.shape == (2, 8)
    np.testing.assert_allclose(np.linalg.norm(z, axis=1), 1.0, rtol=1e-6)


def test_errors_name_the_field_and_the_way_out(config):
    def build(*arguments, **more):
        return nnx.eval_shape(lambda: build_model(config, *arguments, **more, rngs=nnx.Rngs(0)))

    model = build()
    assert model.text is None
    with pytest.raises(ConfigError, match="text tower"):
        model.embed_text({})
    with pytest.raises(ConfigError, match="caption_dim"):
        build("linear")
    with pytest.raises(ConfigError, match=r"model\.text\.layers"):
        build("transformer", 20)
    config.model.text.layers = 1
    with pytest.raises(ConfigError, match="vocab_size"):
        build("transformer")
    with pytest.raises(ConfigError, match=r"linear.*transformer"):
        build("bert")
    config.model.encoder = "resnet5"
    with pytest.raises(ConfigError, match=r"model\.encoder.*Did you mean resnet50"):
        build()
    config.model.encoder, config.augment.size = "vit_ti", 40
    with pytest.raises(ConfigError, match=r"augment\.size = 40"):
        build()


@pytest.mark.parametrize("random", [nnx.Dropout(0.1, rngs=nnx.Rngs(0)), nnx.Rngs(noise=1)], ids=["dropout", "keys"])
def test_an_encoder_with_random_state_is_refused_before_it_trains(random):
    """faults A1: nnx.Dropout in an encoder of one's own ended in a TypeError of the optimizer's or the average's."""

    class Own(LinearEncoder):
        def __init__(self, rngs):
            super().__init__(rngs)
            self.random = random

    with pytest.raises(ConfigError, match=r"model\.encoder = 'random/.*without random state"):
        define_model(lambda rngs: Own(rngs))
    define_model(lambda rngs: LinearEncoder(rngs))
