import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from xsample_jax.errors import ConfigError
from xsample_jax.models.resnet import ResNet


def _count(model):
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))


def _images(n, side=16, seed=0):
    return jax.random.normal(jax.random.key(seed), (n, side, side, 3))


def _randomise_scales(model):
    """Gives every batch-norm scale a random value, so that no branch is hidden behind a zero."""
    for path, variable in nnx.to_flat_state(nnx.state(model, nnx.Param)):
        if path[-1] == "scale":
            key = jax.random.key(hash(path) % 2**31)
            variable[...] = 0.5 + jax.random.uniform(key, variable[...].shape)
    return model


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
    block = ResNet(8, 4, rngs=nnx.Rngs(0)).stages[1][0]
    assert (block.conv1.stride, block.conv2.stride, block.conv3.stride) == (1, 2, 1)


@pytest.mark.parametrize(("stem", "side"), [("imagenet", 4), ("cifar", 16)])
def test_stems_divide_the_side(stem, side, shallow):
    model = ResNet(6, 4, stem, rngs=nnx.Rngs(0))
    assert model.stem(_images(2)).shape == (2, side, side, 4)
    features = model(_images(2))
    assert features.shape == (2, 8)
    assert features.dtype == jnp.float32


@pytest.mark.parametrize("depth", [6, 8])
@pytest.mark.parametrize("stem", ["imagenet", "cifar"])
def test_dot_and_conv_agree_on_features_and_all_gradients(depth, stem, shallow):
    images = _images(4, 17)
    results = []
    for implementation in ("conv", "dot"):
        model = _randomise_scales(ResNet(depth, 4, stem, implementation, rngs=nnx.Rngs(0)))
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
def test_blocks_start_as_their_shortcuts(depth, shallow):
    model = ResNet(depth, 4, "cifar", rngs=nnx.Rngs(0))
    x = jax.random.normal(jax.random.key(1), (2, 8, 8, 4 * model.stages[0][0].expansion))
    for stage in model.stages:
        block = stage[0]
        x = jax.random.normal(jax.random.key(1), (2, 8, 8, block.conv1.kernel[...].shape[2]))
        expected = jax.nn.relu(x if block.shortcut is None else block.shortcut(x))
        np.testing.assert_array_equal(block(x), expected)


def test_batch_norm_over_a_split_batch_is_over_the_global_batch(shallow):
    model = _randomise_scales(ResNet(6, 4, "cifar", rngs=nnx.Rngs(0)))
    graph, state = nnx.split(model)
    # Every device's part has its own mean and spread: per-device statistics could not pass for global ones.
    images = _images(16) * jnp.linspace(0.2, 4.0, 16)[:, None, None, None] + jnp.arange(16.0)[:, None, None, None]

    @jax.jit
    def run(state, images):
        model = nnx.merge(graph, state, copy=True)
        features = model(images)
        return features, nnx.state(model, nnx.BatchStat)

    mesh = Mesh(np.array(jax.devices()[:8]), ("data",))
    assert mesh.size == 8
    split = jax.device_put(images, NamedSharding(mesh, PartitionSpec("data")))
    everywhere = jax.device_put(state, NamedSharding(mesh, PartitionSpec()))
    features, statistics = run(state, images)
    features_split, statistics_split = run(everywhere, split)
    np.testing.assert_allclose(features_split, features, rtol=1e-4, atol=1e-5)
    for ours, theirs in zip(jax.tree.leaves(statistics_split), jax.tree.leaves(statistics), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)
    # and they are what the formula says: 0.9 old + 0.1 of the mean of the stem's output over the whole batch
    stem_mean = np.asarray(model.stem.conv(images)).mean((0, 1, 2))
    np.testing.assert_allclose(statistics_split["stem"]["norm"]["mean"][...], 0.1 * stem_mean, rtol=1e-4, atol=1e-5)


def test_eval_uses_the_running_averages_and_rows_do_not_mix(shallow):
    model = ResNet(6, 4, "cifar", rngs=nnx.Rngs(0))
    images = _images(4)
    assert not np.allclose(model(images)[:1], model(images[:1]), atol=1e-4)
    model.eval()
    before = jax.tree.map(np.asarray, nnx.state(model, nnx.BatchStat))
    np.testing.assert_allclose(model(images)[:1], model(images[:1]), rtol=1e-5, atol=1e-6)
    jax.tree.map(np.testing.assert_array_equal, before, nnx.state(model, nnx.BatchStat))


def test_bfloat16_is_close_and_state_stays_float32(shallow):
    images = _images(8)
    single = _randomise_scales(ResNet(8, 8, "cifar", rngs=nnx.Rngs(0)))(images)
    model = _randomise_scales(ResNet(8, 8, "cifar", dtype=jnp.bfloat16, rngs=nnx.Rngs(0)))
    features = model(images)
    assert features.dtype == jnp.float32
    assert {leaf.dtype for leaf in jax.tree.leaves(nnx.state(model))} == {jnp.dtype("float32")}
    error = np.abs(features - single).max() / np.abs(single).max()
    assert 0 < error < 0.03


def test_unknown_choices_are_config_errors():
    with pytest.raises(ConfigError, match="18, 34, 50"):
        ResNet(19, rngs=nnx.Rngs(0))
    with pytest.raises(ConfigError, match="Did you mean cifar"):
        ResNet(18, stem="cifer", rngs=nnx.Rngs(0))
