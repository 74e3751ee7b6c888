import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from tests.models.filled import filled, normal, run
from xsample_jax.errors import ConfigError
from xsample_jax.models.resnet import ResNet


def _count(model):
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))


def _images(n, side=16, seed=0):
    return normal(seed, (n, side, side, 3))


# Totals as torchvision publishes them, with a 1000-way classifier of features * 1000 weights and 1000 biases.
@pytest.mark.parametrize(
    ("depth", "features", "published"), [(18, 512, 11_689_512), (34, 512, 21_797_672), (50, 2048, 25_557_032)]
)
def test_parameter_counts_are_the_published_ones(depth, features, published):
    model = nnx.eval_shape(lambda: ResNet(depth, rngs=nnx.Rngs(0)))
    assert model.features == features
    assert _count(model) + features * 1000 + 1000 == published


def test_paths_name_stage_block_and_layer():
    model = nnx.eval_shape(lambda: ResNet(50, rngs=nnx.Rngs(0)))
    shapes = {"/".join(map(str, path)): leaf.shape for path, leaf in nnx.to_flat_state(nnx.state(model, nnx.Param))}
    assert shapes["stem/conv/kernel"] == (7, 7, 3, 64)
    assert shapes["stages/1/0/conv2/kernel"] == (3, 3, 128, 128)
    assert shapes["stages/3/2/norm3/scale"] == (2048,)
    assert shapes["stages/1/0/shortcut/conv/kernel"] == (1, 1, 256, 512)
    assert "stages/0/1/shortcut/conv/kernel" not in shapes


def test_the_bottleneck_strides_in_its_3x3(shallow):
    block = nnx.eval_shape(lambda: ResNet(8, 4, rngs=nnx.Rngs(0))).stages[1][0]
    assert (block.conv1.stride, block.conv2.stride, block.conv3.stride) == (1, 2, 1)


@pytest.mark.parametrize(("stem", "side"), [("imagenet", 4), ("cifar", 16)])
def test_stems_divide_the_side(stem, side, shallow):
    model = nnx.eval_shape(lambda: ResNet(6, 4, stem, rngs=nnx.Rngs(0)))
    assert nnx.eval_shape(lambda model, x: model.stem(x), model, _images(2)).shape == (2, side, side, 4)
    features = nnx.eval_shape(lambda model, x: model(x), model, _images(2))
    assert features.shape == (2, 8)
    assert features.dtype == jnp.float32


@pytest.mark.parametrize(("depth", "stem"), [(6, "imagenet"), (8, "cifar")])
def test_dot_and_conv_agree_on_features_and_all_gradients(depth, stem, shallow):
    images = _images(4, 17)
    results = []
    for implementation in ("conv", "dot"):
        model = filled(lambda i=implementation: ResNet(depth, 4, stem, i, rngs=nnx.Rngs(0)))
        graph, parameters, rest = nnx.split(model, nnx.Param, ...)

        @jax.jit
        def value(parameters, rest=rest, graph=graph):
            features = nnx.merge(graph, parameters, rest, copy=True)(images)
            return jnp.sum(jnp.sin(jnp.arange(features.size).reshape(features.shape)) * features), features

        results.append(jax.grad(value, has_aux=True)(parameters))
    (gradients, features), (gradients_dot, features_dot) = results
    np.testing.assert_allclose(features_dot, features, rtol=1e-4, atol=1e-5)
    flat, flat_dot = dict(nnx.to_flat_state(gradients)), dict(nnx.to_flat_state(gradients_dot))
    assert flat.keys() == flat_dot.keys()
    for path, gradient in flat.items():
        scale = np.abs(gradient[...]).max()
        assert scale > 0, path
        np.testing.assert_allclose(flat_dot[path][...], gradient[...], rtol=1e-4, atol=1e-4 * scale, err_msg=str(path))


@pytest.mark.parametrize("depth", [6, 8])
def test_blocks_start_as_their_shortcuts(depth, shallow, monkeypatch):
    # He initialization by numpy: a draw by jax would be compiled for every shape. The scales keep their own.
    monkeypatch.setattr(nnx.initializers, "variance_scaling", lambda *_: lambda key, shape, dtype: normal(0, shape))
    model = ResNet(depth, 4, "cifar", rngs=nnx.Rngs(0))
    blocks = [stage[0] for stage in model.stages]
    inputs = [_images(2, 8)[..., :1] * jnp.ones(block.conv1.kernel[...].shape[2]) for block in blocks]

    def outputs_and_shortcuts(model, inputs):
        blocks = [stage[0] for stage in model.stages]
        outputs = [block(x) for block, x in zip(blocks, inputs, strict=True)]
        return outputs, [x if b.shortcut is None else b.shortcut(x) for b, x in zip(blocks, inputs, strict=True)]

    for output, shortcut in zip(*run(model, inputs, call=outputs_and_shortcuts), strict=True):
        np.testing.assert_allclose(output, np.maximum(shortcut, 0), rtol=1e-5, atol=1e-5)


def test_batch_norm_over_a_split_batch_is_over_the_global_batch(shallow):
    model = filled(lambda: ResNet(6, 4, "cifar", rngs=nnx.Rngs(0)))
    graph, state = nnx.split(model)
    # Every device's part has its own mean and spread: per-device statistics could not pass for global ones.
    images = _images(16) * jnp.linspace(0.2, 4.0, 16)[:, None, None, None] + jnp.arange(16.0)[:, None, None, None]

    @jax.jit
    def forward(state, images):
        model = nnx.merge(graph, state, copy=True)
        features = model(images)
        return features, nnx.state(model, nnx.BatchStat)

    mesh = Mesh(np.array(jax.devices()[:8]), ("data",))
    assert mesh.size == 8
    split = jax.device_put(images, NamedSharding(mesh, PartitionSpec("data")))
    everywhere = jax.device_put(state, NamedSharding(mesh, PartitionSpec()))
    features, statistics = forward(state, images)
    features_split, statistics_split = forward(everywhere, split)
    np.testing.assert_allclose(features_split, features, rtol=1e-4, atol=1e-5)
    for ours, theirs in zip(jax.tree.leaves(statistics_split), jax.tree.leaves(statistics), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)
    # and they are what the formula says: 0.9 old + 0.1 of the mean of the stem's output over the whole batch
    stem_mean = np.asarray(run(model.stem.conv, images)).mean((0, 1, 2))
    np.testing.assert_allclose(statistics_split["stem"]["norm"]["mean"][...], 0.1 * stem_mean, rtol=1e-4, atol=1e-5)


def test_eval_uses_the_running_averages_and_rows_do_not_mix(shallow):
    model = filled(lambda: ResNet(6, 4, "cifar", rngs=nnx.Rngs(0)))
    images = _images(4)
    changed = images.at[1:].multiply(3.0)

    def features_and_statistics(model, images):
        return model(images), nnx.state(model, nnx.BatchStat)

    training, training_changed = run(model, images), run(model, changed)
    assert np.abs(training[0] - training_changed[0]).max() > 1e-2
    model.eval()
    before = nnx.state(model, nnx.BatchStat)
    features, after = run(model, images, call=features_and_statistics)
    np.testing.assert_allclose(features[0], run(model, changed)[0], rtol=1e-5, atol=1e-6)
    jax.tree.map(np.testing.assert_array_equal, before, after)


def test_bfloat16_is_close_and_state_stays_float32(shallow):
    images = _images(8)
    single = run(filled(lambda: ResNet(8, 8, "cifar", rngs=nnx.Rngs(0))), images)
    model = nnx.eval_shape(lambda: ResNet(8, 8, "cifar", dtype=jnp.bfloat16, rngs=nnx.Rngs(0)))
    assert {leaf.dtype for leaf in jax.tree.leaves(nnx.state(model))} == {jnp.dtype("float32")}
    features = run(filled(lambda: ResNet(8, 8, "cifar", dtype=jnp.bfloat16, rngs=nnx.Rngs(0))), images)
    assert features.dtype == jnp.float32
    error = np.abs(features - single).max() / np.abs(single).max()
    assert 0 < error < 0.03


def test_unknown_choices_are_config_errors():
    with pytest.raises(ConfigError, match="18, 34, 50"):
        ResNet(19, rngs=nnx.Rngs(0))
    with pytest.raises(ConfigError, match="Did you mean cifar"):
        ResNet(18, stem="cifer", rngs=nnx.Rngs(0))
