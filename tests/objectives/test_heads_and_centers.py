"""Systems with named heads, networks of pairs and centers of clusters: SepCLR, AMCL, AdaMEOW, MEOW, PCL, InterCLR."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.objectives.golden_inputs import CASES, Z1, Z2, Z3, extra, images
from tests.objectives.mixed_inputs import (
    AMCL,
    INTERCLR,
    PIXPRO,
    ROCKET,
    SEPCLR,
    adameow,
    amcl,
    amcl_barlow_twins,
    amcl_of_teacher,
    barlip,
    channel_network,
    interclr,
    pixpro,
    rocket,
    sepclr,
    swalip,
)
from tests.objectives.test_build import problems
from tests.quick import quick_jit
from tests.tiny import tiny_config
from xsample_jax.augment.views import make_views, view_boxes
from xsample_jax.errors import ConfigError
from xsample_jax.models.heads import unit_rows
from xsample_jax.objectives.cluster_centers import CENTER, center_block, center_temperatures, init_centers, move_centers
from xsample_jax.objectives.feature_losses import barlow_twins, near_cells
from xsample_jax.objectives.mixers import MixerInputs, semi_hard
from xsample_jax.objectives.objective import objective_loss
from xsample_jax.objectives.pair_network import CHANNEL, pair_entries
from xsample_jax.objectives.presets import PRESETS
from xsample_jax.objectives.step_blocks import drop_tokens

BARLIP = "BarLIP total (clip-rocket)"
X, Y, Z = (jnp.float32(z) for z in (Z1, Z2, Z3))


def norms(slopes):
    return [float(np.linalg.norm(slope)) for slope in slopes]


def of_norms(name):
    return pytest.approx(list(CASES[name]["extra"]["grad_norm"].values()), rel=2e-4)


def test_sepclr_has_the_parts_and_gradients_of_the_published_code():
    salient = [jnp.float32(extra(SEPCLR, name)) for name in ("s1", "s2")]
    value, slopes = quick_jit(jax.value_and_grad(lambda *z: sepclr(tuple(map(unit_rows, z[:2])), z[2:]), (0, 1, 2, 3)))(
        X, Y, *salient
    )
    assert value == pytest.approx(CASES[SEPCLR]["expected"], rel=1e-5)
    assert norms(slopes) == of_norms(SEPCLR)
    terms = PRESETS["sepclr"].objective.feature_terms
    parts = {"common": terms[:3], "salient": terms[3:6], "background": terms[6:8], "joint_entropy": terms[8:]}
    scale = {"common": 1, "salient": 1000, "background": 1000, "joint_entropy": 10}
    for name, some in parts.items():
        expected = scale[name] * CASES[SEPCLR]["extra"]["also"][name]
        assert sepclr(feature_terms=some) == pytest.approx(expected, rel=1e-5), name


def test_what_is_salient_leaves_the_background():
    """The terms of the background alone pull its salient rows to 0, and nothing else."""
    salient = [jnp.float32(extra(SEPCLR, name)) for name in ("s1", "s2")]
    terms = PRESETS["sepclr"].objective.feature_terms[6:8]
    slopes = quick_jit(jax.grad(lambda *z: sepclr(z[:2], z[2:], feature_terms=terms), (0, 1, 2, 3)))(X, Y, *salient)
    of_interest = extra(SEPCLR, "is_target") == 1
    assert not any(np.any(slope) for slope in slopes[:2])
    for slope, rows in zip(slopes[2:], salient, strict=True):
        assert not np.any(np.asarray(slope)[of_interest])
        along = np.sum(np.asarray(slope) * rows, axis=1)[~of_interest]
        assert (along > 0).all()


def test_amcl_is_its_golden_and_its_regularizer():
    terms = PRESETS["amcl"].objective.feature_terms
    plain = tuple(dataclasses.replace(term, name={"name": term.name, "beta": 0.0}) for term in terms)
    value, slopes = quick_jit(jax.value_and_grad(lambda *z: amcl(z, feature_terms=plain), (0, 1)))(X, Y)
    assert value == pytest.approx(CASES[AMCL]["expected"], rel=1e-5)
    assert norms(slopes) == of_norms(AMCL)
    extras = {name: extra(AMCL, name) for name in ("heads", "w1", "b1", "w2", "b2")}
    total = 0.0
    for head in extras["heads"]:
        x, y = (z @ head / np.linalg.norm(z @ head, axis=1, keepdims=True) for z in (Z1, Z2))
        for i in range(12):
            others = [k for k in range(12) if k != i]
            far = max(others, key=lambda k: x[i] @ y[k])
            taus = []
            for k in (i, far):
                hidden = np.maximum(np.concatenate([x[i], y[k]]) @ extras["w1"] + extras["b1"], 0)
                taus.append(1e-5 + (2 - 1e-5) / (1 + np.exp(-(hidden @ extras["w2"] + extras["b2"])[0])))
            total += sum(s * (4 * np.log(t) + 1 / t) for s, t in zip((1, -1), taus, strict=True)) / 12
    assert amcl() - value == pytest.approx(0.1 * total, rel=1e-4)


def plain_amcl(x, y, push, predicted):
    """The table's sum over heads in loops, x predicted by a matrix, keys of y."""
    w1, b1, w2, b2 = (extra(AMCL, name) for name in ("w1", "b1", "w2", "b2"))
    total = 0.0
    for head in extra(AMCL, "heads"):
        p, q = x @ head @ predicted, y @ head
        p, q = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (p, q))
        for i in range(12):
            far = max((k for k in range(12) if k != i), key=lambda k: p[i] @ q[k])
            for k, sign in ((i, -1), (far, 1))[: 1 + push]:
                hidden = np.maximum(np.concatenate([p[i], q[k]]) @ w1 + b1, 0)
                tau = 1e-5 + (2 - 1e-5) / (1 + np.exp(-(hidden @ w2 + b2)[0]))
                total += sign * (p[i] @ q[k] / tau - 0.1 * (4 * np.log(tau) + 1 / tau)) / 12
    return total


def test_amcl_of_moco_and_of_simsiam_are_the_table_with_keys_of_an_ema_encoder():
    turn = np.random.default_rng(6).normal(size=(8, 8)).astype(np.float32)
    cases = {"amcl_moco": (None, True, np.eye(8)), "amcl_simsiam": (jnp.asarray(turn), False, turn)}
    for preset, (predicted, push, matrix) in cases.items():
        expected = np.mean([plain_amcl(*ends, push, matrix) for ends in ((Z1, Z2), (Z2, Z1))])
        assert amcl_of_teacher(preset, predicted) == pytest.approx(expected, rel=2e-5), preset
    terms = PRESETS["amcl_moco"].objective.feature_terms[::2]
    plain = tuple(dataclasses.replace(term, name={**term.name, "beta": 0.0}, weight=1.0) for term in terms)
    value = amcl_of_teacher("amcl_moco", feature_terms=plain)
    assert value == pytest.approx(CASES[AMCL]["expected"], rel=1e-5)


def plain_correlations(views, network, beta, coldest):
    """The authors' table for Barlow Twins in loops over channels, in float64."""
    into, out, bias, shift = (np.float64(network[CHANNEL + name]) for name in ("in", "out", "bias", "shift"))
    total = 0.0
    for head in extra(AMCL, "heads"):
        x, y = ((z @ head - (z @ head).mean(0)) / np.sqrt((z @ head).var(0) + 1e-5) for z in map(np.float64, views))
        of_x, of_y = ([out @ np.maximum(into.T @ column + bias, 0) + shift for column in z.T] for z in (x, y))
        for m in range(8):
            for n in range(8):
                correlation = x[:, m] @ y[:, n] / 12
                tau = coldest + (2 - coldest) / (1 + np.exp(of_x[m] @ of_y[n]))
                cost = beta * (4 * np.log(tau) + 1 / tau)
                total += (1 - correlation / tau) ** 2 + cost if m == n else 0.005 * correlation**2 / tau - cost
    return total


@pytest.mark.parametrize(("beta", "coldest"), [(1e-6, 0.1), (0.02, 1e-5)])
def test_amcl_of_barlow_twins_is_the_table_and_has_its_gradients(beta, coldest):
    """The preset, and with the bound of the public code."""
    terms = PRESETS["amcl_barlow_twins"].objective.feature_terms
    terms = tuple(dataclasses.replace(term, name={**term.name, "beta": beta, "coldest": coldest}) for term in terms)
    changes = {"feature_terms": terms} if beta > 1e-6 else {}
    given = {"x": X, "y": Y, **channel_network()}

    def ours(parts):
        network = {name: value for name, value in parts.items() if name.startswith(CHANNEL)}
        return amcl_barlow_twins(network, (parts["x"], parts["y"]), **changes)

    value, slopes = quick_jit(jax.value_and_grad(ours))(given)
    assert value == pytest.approx(plain_correlations((Z1, Z2), given, beta, coldest), rel=2e-5)
    rng = np.random.default_rng(3)
    for name, slope in slopes.items():
        along = rng.normal(size=slope.shape)
        ends = []
        for step in (1e-5, -1e-5):
            moved = {n: np.float64(v) + (step * along if n == name else 0) for n, v in given.items()}
            ends.append(plain_correlations((moved["x"], moved["y"]), moved, beta, coldest))
        assert np.sum(slope * along) == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=1e-3, abs=1e-4), name


def test_amcl_of_barlow_twins_with_a_silent_network_is_barlow_twins_and_places_go_with_their_weights():
    network = channel_network()
    silent = {name: jnp.zeros_like(value) for name, value in network.items()}  # every temperature is 1
    terms = PRESETS["amcl_barlow_twins"].objective.feature_terms
    free = tuple(dataclasses.replace(term, name={**term.name, "beta": 0.0, "coldest": 1e-6}) for term in terms)
    plain = sum(float(barlow_twins(X @ head, Y @ head)) for head in jnp.float32(extra(AMCL, "heads")))
    assert amcl_barlow_twins(silent, feature_terms=free) == pytest.approx(plain, rel=2e-5)
    turned = {n: v if n.endswith("bias") else v[::-1] for n, v in network.items()}
    back = amcl_barlow_twins(turned, (Z1[::-1], Z2[::-1]))
    assert back == pytest.approx(float(amcl_barlow_twins(network)), rel=1e-5)
    for count, rows in ((7, X[:7]), (6, X[:12])):  # two views of 6 images are not 12 images
        with pytest.raises(ConfigError, match=rf"batch_size = {count}: expected .*12"):
            pair_entries(network, rows, count)


def test_the_instance_branch_of_pixpro_is_byol_beside_it():
    x, y, k = Z1[:3], Z2[:3], Z3[:3]  # the teacher has x and y, the predicted views are y and k
    instance = np.mean(np.sum((y - y) ** 2, axis=1)) + np.mean(np.sum((k - x) ** 2, axis=1))
    assert pixpro(preset="pixpro_instance") - pixpro() == pytest.approx(instance, rel=1e-4)


def test_adameow_has_the_gradients_of_its_golden():
    value, slopes = quick_jit(jax.value_and_grad(lambda *z: adameow(z), (0, 1)))(X, Y)
    name = PRESETS["adameow"].golden
    assert value == pytest.approx(CASES[name]["expected"], rel=1e-5)
    assert norms(slopes) == of_norms(name)


def test_interclr_has_the_parts_and_the_gradient_of_its_golden():
    value, slope = quick_jit(jax.value_and_grad(interclr))(X)
    case = CASES[INTERCLR]
    assert value == pytest.approx(case["expected"], rel=1e-5)
    assert norms([slope]) == pytest.approx([case["also"]["gradient_norm_z1"]], rel=1e-4)
    for term, part in zip(PRESETS["interclr"].objective.terms, ("intra", "inter"), strict=True):
        alone = interclr(terms=(dataclasses.replace(term, weight=1.0),))
        assert alone == pytest.approx(case["also"][part], rel=1e-5)


def test_semi_hard_keys_are_of_the_cluster_and_near_ones_of_others():
    rng = np.random.default_rng(0)
    cluster, keys = rng.integers(0, 4, 12), rng.integers(0, 3, 40)  # cluster 3 has no key
    y = unit_rows(jnp.asarray(rng.normal(size=(40, 16)), jnp.float32))
    same = jnp.asarray(cluster[:, None] == keys[None], jnp.float32)
    pairs = (same, same == 0, {}, {})
    draw = quick_jit(lambda key: semi_hard(MixerInputs(X, y, *pairs, jax.random.split(key, 12)), pool=9, number=4))
    for seed in range(3):
        made = draw(jax.random.key(seed))
        assert made.alone
        for i in range(12):
            place = np.argmin(np.linalg.norm(np.asarray(made.rows[i])[:, None] - np.asarray(y)[None], axis=2), axis=1)
            if cluster[i] == 3:
                assert not np.any(made.weight[i])
                continue
            assert keys[place[0]] == cluster[i]
            others = np.flatnonzero(keys != cluster[i])
            near = others[np.argsort(-(np.asarray(y)[others] @ Z1[i]))][:9]
            assert set(place[1:]) <= set(near)
            assert len(set(place[1:])) >= 3  # one at the edge of two stretches may be drawn twice
            np.testing.assert_array_equal(made.target[i], [1, 0, 0, 0, 0])


def test_center_temperatures_are_those_of_the_golden():
    name = "MEOW prototype temperatures (sum over clusters of c * phi_c)"
    apart, own = extra(name, "D"), extra(name, "assignment").astype(int)
    phi, clusters = extra(name, "phi"), len(extra(name, "phi"))
    count = np.bincount(own, minlength=clusters)
    distance = np.array([np.sqrt(apart[own == c]).mean() if count[c] else 0 for c in range(clusters)])
    ours = 0.4 * np.asarray(center_temperatures(jnp.asarray(distance), jnp.asarray(count, jnp.float32)))
    np.testing.assert_allclose(ours, phi, rtol=1e-5)
    assert ours @ np.arange(clusters) == pytest.approx(CASES[name]["expected"], rel=1e-5)
    more = center_temperatures(jnp.append(distance, 0.0), jnp.append(count, 0.0))  # one that no row was in
    np.testing.assert_allclose(0.4 * more[:-1], phi, rtol=1e-5)


def test_protonce_is_its_formula_on_running_centers():
    """Two clusterings, rows without a cluster, a cluster without rows; the centers are means of the first batch."""
    cluster = np.array(
        [[0, 1], [0, -1], [2, 1], [1, 0], [1, 1], [2, 0], [0, 0], [-1, 1], [0, 0], [1, 1], [2, 1], [2, 0]]
    )
    memory = init_centers((2, 4), 16)
    new = move_centers(memory, X, jnp.asarray(cluster))
    means = [[Z1[cluster[:, m] == c].mean(0) if c in cluster[:, m] else np.zeros(16) for c in range(4)] for m in (0, 1)]
    np.testing.assert_allclose(new[CENTER + "z"], means, atol=1e-6)
    again = move_centers(new, Y, jnp.asarray(cluster))
    mean = 0.9 * means[0][2] + 0.1 * Z2[cluster[:, 0] == 2].mean(0)
    np.testing.assert_allclose(again[CENTER + "z"][0, 2], mean, atol=1e-6)
    np.testing.assert_allclose(again[CENTER + "rows"][0], 2 * np.array([4, 3, 4, 0]))
    block = center_block(new, 1000)
    blocks = {"image": images(X, Y, cluster=cluster), "centers": block}
    objective = dataclasses.replace(PRESETS["meow"].objective, terms=PRESETS["meow"].objective.terms[1:])
    loss = objective_loss(objective, blocks, 12, 0.4)[0]
    losses = []
    for i in range(12):
        of_row = []
        for m in (0, 1):
            if cluster[i, m] < 0:
                continue
            there = [c for c in range(4) if c in cluster[:, m]]
            centers = np.array([means[m][c] / np.linalg.norm(means[m][c]) for c in there])
            apart = [np.linalg.norm(Z1[cluster[:, m] == c] - centers[n], axis=1).mean() for n, c in enumerate(there)]
            share = np.array([np.sum(cluster[:, m] == c) for c in there]) / np.sum(cluster[:, m] >= 0)
            phi = np.array(apart) / np.log(1000 * share + 5)
            phi = np.clip(phi, *np.quantile(phi, [0.1, 0.9]))
            s = centers @ Z1[i] / (0.4 * phi / phi.mean())
            of_row.append(np.log(np.exp(s).sum()) - s[there.index(cluster[i, m])])
        losses.append(np.mean(of_row))
    assert loss == pytest.approx(np.mean(losses), rel=1e-4)


VIEW = {"block": "image", "view": 0}
TEACHER = {"block": "teacher", "view": 1}
CELLS = VIEW | {"head": "propagated", "raw": True}
NEAR = {"name": "near_cells", "x": CELLS}


@pytest.mark.parametrize(
    ("changes", "field", "words"),
    [
        ({"terms": ({"keys": {"block": "image", "head": "salient"}},)}, "rows.head", "it has none"),
        ({"terms": ({"temperature": "of_head"},)}, "temperature", "heads"),
        ({"terms": ({"name": "learned_negatives"},)}, "name", "pair network"),
        ({"terms": ({"keys": {"block": "image", "raw": True}},)}, "rows.raw", "feature terms"),
        ({"terms": ({"name": "align", "x": VIEW | {"part": 1}},)}, "x.part", "all rows of a batch"),
        ({"terms": ({"keys": VIEW | {"beside": VIEW | {"part": 0}}},)}, "rows.part", "selection outside"),
        (
            {"preset": "adameow", "queue": 16, "terms": ({"name": "learned_negatives", "y": {"block": "queue"}},)},
            "terms[0].name",
            "'pair_second', which rows of the block 'queue'",
        ),
        ({"terms": ({"keys": VIEW | {"part": 0, "times": VIEW}},)}, "rows.part", "without times"),
        ({"preset": "pixpro", "terms": (NEAR | {"y": TEACHER},)}, "y.head", "dense, propagated"),
        (
            {"preset": "pixpro", "terms": (NEAR | {"y": TEACHER | {"head": "dense", "beside": CELLS}},)},
            "y.head",
            "no other",
        ),
        ({"preset": "pixpro", "terms": ({"anchors": VIEW | {"head": "dense"}},)}, "anchors.head", "are maps"),
        ({"preset": "pixpro", "terms": ({"name": "align", "x": CELLS, "y": CELLS},)}, "x.head", "only near_cells"),
    ],
)
def test_what_makes_no_sense_is_refused(changes, field, words):
    found = problems(**changes)
    assert any(problem.field.endswith(field) and words in str(problem) for problem in found), found


def of_rocket(value_of):
    """(value, norms of the gradients) on rows whose gradient passes no scaling."""
    value, slopes = quick_jit(jax.value_and_grad(lambda *z: value_of(z), (0, 1, 2)))(X, Y, Z)
    return value, norms(slopes)


@pytest.mark.parametrize(("name", "value_of"), [(BARLIP, barlip), (ROCKET, swalip)])
def test_barlip_and_swalip_have_the_gradients_of_the_published_code(name, value_of):
    value, slopes = of_rocket(value_of)
    assert value == pytest.approx(CASES[name]["expected"], rel=1e-5)
    assert slopes == of_norms(name)


def test_cl2l_is_the_published_one():
    """The golden is the sum of both directions, twice their mean."""
    value, slopes = of_rocket(lambda z: 2 * rocket("cl2l", z))
    name = "CL2L, two text views, sum (clip-rocket)"
    assert value == pytest.approx(CASES[name]["expected"], rel=1e-5)
    assert slopes == of_norms(name)


@pytest.mark.parametrize("preset", ["siamlip", "byolip"])
def test_siamlip_has_the_term_and_gradients_of_the_published_code(preset):
    """v = z, predictions v A1 of images and v A2 of texts; byolip with an EMA encoder that is the student."""
    name = "SiamLIP term (clip-rocket)"
    first, second = extra(name, "A1"), extra(name, "A2")
    heads = {"siam": lambda z: z, "predict": {"image": lambda z: z @ first, "text": lambda z: z @ second}}
    value, slopes = of_rocket(lambda z: rocket(preset, z, heads, terms=()))
    assert value == pytest.approx(CASES[name]["expected"], rel=1e-5)
    assert slopes == of_norms(name)


def test_versions_of_a_caption_lack_words():
    """Start and end stay, a fifth of the words goes, of a word alone none; wherever the image is in the batch."""
    rng = np.random.default_rng(0)
    tokens = np.zeros((60, 20), np.int32)
    lengths = rng.integers(1, 18, 60)
    for row, length in zip(tokens, lengths, strict=True):
        row[: length + 2] = [1, *rng.integers(3, 99, length), 2]
    ids, key = jnp.arange(60), jax.random.key(0)
    found = np.asarray(drop_tokens(jnp.asarray(tokens), ids, key, 2)).reshape(60, 2, 20)
    word = np.repeat((tokens > 2)[:, None], 2, axis=1)
    assert (found[~word] == np.repeat(tokens[:, None], 2, axis=1)[~word]).all()
    gone = word & (found == 0)
    assert gone.sum() / word.sum() == pytest.approx(0.2, abs=0.03)
    assert (found[~gone & word] == np.repeat(tokens[:, None], 2, axis=1)[~gone & word]).all()
    assert ((found > 2).sum(axis=2) > 0).all()
    assert (found[:, 0] != found[:, 1]).any()
    turned = np.asarray(drop_tokens(jnp.asarray(tokens[::-1]), ids[::-1], key, 2)).reshape(60, 2, 20)
    np.testing.assert_array_equal(turned[::-1], found)


def test_pixpro_has_the_gradients_of_the_published_code():
    maps = [jnp.float32(extra(PIXPRO, name)) for name in ("dense1", "dense2")]
    value, slopes = quick_jit(jax.value_and_grad(lambda *maps: pixpro(maps), (0, 1)))(*maps)
    assert value == pytest.approx(CASES[PIXPRO]["expected"], rel=1e-5)
    assert norms(slopes) == of_norms(PIXPRO)


def test_cells_of_one_place_are_near_each_other():
    """Equal crops: every cell is near itself alone; moving both changes nothing; crops apart give 0; flips turn."""
    rng = np.random.default_rng(0)
    x, y = (jnp.asarray(rng.normal(size=(1, 3, 3, 5)), jnp.float32) for _ in range(2))
    box = jnp.array([[0.1, 0.2, 0.4, 0.5]])
    value = lambda a, b, y=y: float(near_cells(x, y, {"crop": a}, {"crop": b}, at=0.5))  # noqa: E731
    own = float(-2 * jnp.mean(jnp.sum(unit_rows(x) * unit_rows(y), axis=-1)))
    assert value(box, box) == pytest.approx(own, rel=1e-5)
    moved = box + 0.3
    assert value(moved, moved) == pytest.approx(own, rel=1e-5)
    assert value(box, box + 0.5) == 0
    flipped = box[:, [2, 1, 0, 3]]
    assert value(box, flipped, y[:, :, ::-1]) == pytest.approx(own, rel=1e-5)
    assert value(box, box + 0.09) != pytest.approx(own, rel=1e-3)  # nearly a cell on


def test_boxes_are_those_of_the_views():
    """Images whose colors are the coordinates: every view shows its box, from x0 to x1, flipped or not."""
    config = tiny_config(augment__crop_scale=(0.2, 0.6), augment__jitter=0.0, augment__gray=0.0, augment__flip=0.5)
    size, ids = 64, jnp.arange(12)
    place = np.broadcast_to(np.arange(size) * 4.0, (size, size))
    image = np.stack([place, place.T, np.zeros((size, size))], axis=-1).astype(np.uint8)
    images_ = jnp.asarray(np.broadcast_to(image, (12, size, size, 3)))
    views = np.asarray(quick_jit(lambda x: make_views(x, ids, 3, jnp.int32(7), config.augment, 2))(images_))
    boxes = np.asarray(view_boxes(ids, 3, jnp.int32(7), config.augment, (2, size, size)))
    seen = (views * np.array(config.augment.std) + np.array(config.augment.mean)) * 255 / 4 / size
    assert (boxes[:, 0] > boxes[:, 2]).any()
    assert (boxes[:, 0] < boxes[:, 2]).any()
    middle = (boxes[:, :2] + boxes[:, 2:]) / 2
    np.testing.assert_allclose(seen[..., :2].mean(axis=(1, 2)), middle - 0.5 / size, atol=0.02)
    along = seen[:, :, -1, 0].mean(axis=1) - seen[:, :, 0, 0].mean(axis=1)
    assert (np.sign(along) == np.sign(boxes[:, 2] - boxes[:, 0])).all()
    whole = tiny_config(augment__crop_scale=(), augment__flip=0.0)
    np.testing.assert_array_equal(view_boxes(ids, 3, 0, whole.augment, (1, 8, 8)), [[0, 0, 1, 1]] * 12)
