"""Sets beyond 2**31 records and ids, without their data: order, position and ids; old numbers as they were."""

import json
import pathlib
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.scale import DATACOMP, StandIn
from tests.tiny import tiny_config
from xsample_jax.augment.backgrounds import random_colors
from xsample_jax.augment.ids import copies_of, fold_in_id, id_entry, ids_of, with_numbers, words_of
from xsample_jax.augment.views import draw_numbers
from xsample_jax.data import sources
from xsample_jax.data.dataset import Dataset, train_batches
from xsample_jax.data.loader import Permuted, Shares, draw_order, permuted, record_rates
from xsample_jax.data.perturb import choose_fraction, choose_samples
from xsample_jax.data.records import open_records, read_manifest
from xsample_jax.data.shards import ShardList, canonical_text, read_fields
from xsample_jax.data.side import read_side
from xsample_jax.data.sources import Mixture, open_training_source
from xsample_jax.data.writer import write_records
from xsample_jax.errors import ConfigError, DataError
from xsample_jax.graphs.sources import identity, random
from xsample_jax.models.heads import products
from xsample_jax.objectives.blocks import image_block, key_block
from xsample_jax.objectives.learned_state import second_classes
from xsample_jax.objectives.mixtures import draw_mixtures

# Numbers of the code before ids had 63 bits (main, e7d08a6): runs of that time go on with the same batches and views.
BEFORE = json.loads((pathlib.Path(__file__).parent / "goldens_scale.json").read_text())
OLD_IDS = np.array([0, 1, 5, 5, 2**31 - 1, 123456789, 1], np.int32)
# Equal in their low 31 or 32 bits, next to each other, twice the same, and the largest there is.
IDS = [5, 5 + 2**31, 5 + 2**32, 5 + 2**33, 2**31 - 1, 2**31, 2**63 - 1, 5 + 2**32]


def entries(ids):
    return np.stack([id_entry(id, True) for id in ids])


def test_orders_and_shares_are_those_of_old_runs():
    for name, found in BEFORE["orders"].items():
        count, seed = map(int, name.split(","))
        index = draw_order(count, seed)
        assert [index(place) for place in (0, 1, 7, count - 1, count, 2 * count + 3, 2**33 + 7)] == found, name
    index = draw_order(80, 3, record_rates([50, 30], [0.75, 0.25], None, 0.0))
    assert [index(place) for place in range(240)] == BEFORE["mixture"]
    index = draw_order(50, 3, record_rates([50], [], np.array([0] * 40 + [1] * 8 + [-1] * 2), 0.5))
    assert [index(place) for place in range(150)] == BEFORE["balance"]
    assert choose_fraction(range(1000), 0.03, 7).tolist() == BEFORE["fraction"]


@jax.jit
def drawn(ids, step):
    """Everything that is drawn from ids; rows of a batch in which some occur twice."""
    batch = with_numbers({"id": ids})
    words, key = words_of(batch), jax.random.key(9, impl="threefry2x32")
    draws = draw_numbers(3, step, words, 2, copies_of(batch["id"]))
    block = image_block(jnp.zeros((len(ids), 2)), batch, 1)
    return {
        "draws": {name: value[:, :, 0] for name, value in draws.items()},
        "colors": random_colors(words, 4),
        "mixtures": draw_mixtures(key, block["id_words"]),
        "second": second_classes(key, words, jnp.arange(len(ids), dtype=jnp.int32)),
        "random": random(block, key_block(jnp.zeros((1, 2)))),
    }


def test_views_of_old_ids_are_those_of_old_runs_in_one_word_and_in_two():
    narrow = drawn(OLD_IDS, jnp.int32(11))
    wide = drawn(entries(OLD_IDS.tolist()), jnp.int32(11))
    jax.tree.map(np.testing.assert_array_equal, narrow, wide)
    for name in ("colors", "second"):
        np.testing.assert_array_equal(np.asarray(narrow[name], np.float64).reshape(-1), BEFORE[name])
    for found, before in zip(narrow["mixtures"], BEFORE["mixtures"], strict=True):
        np.testing.assert_allclose(found, before, rtol=1e-6)  # beta: other fusions round otherwise
    for name, before in BEFORE["draws"].items():
        np.testing.assert_array_equal(np.asarray(narrow["draws"][name], np.float64).reshape(-1), before)
    nothing = np.asarray(BEFORE["random"]).reshape(-1, 2)[:, 0]  # of ids with a key of no image
    np.testing.assert_allclose(narrow["random"][:, 0], nothing, atol=1e-6)


def test_every_large_id_has_views_of_its_own():
    found = drawn(entries(IDS), jnp.int32(11))
    rows = np.concatenate([np.asarray(value) for value in found["draws"].values()], axis=1)
    rows = np.concatenate([rows, np.asarray(found["colors"]).reshape(len(IDS), -1)], axis=1)
    assert (np.asarray(found["colors"])[2] == np.asarray(found["colors"])[-1]).all()  # the same id
    for column in rows.T[:-3]:  # the second copy in a batch has other views
        assert len(np.unique(column)) == len(IDS)
    assert len(np.unique(rows[:, -3:], axis=0)) == len(IDS) - 1
    of_one = drawn(entries(IDS[::-1]), jnp.int32(11))  # whatever the place in the batch
    np.testing.assert_array_equal(np.asarray(of_one["colors"])[::-1], found["colors"])
    assert len({tuple(np.asarray(jax.random.key_data(fold_in_id(jax.random.key(0), id)))) for id in entries(IDS)}) == 7


@pytest.mark.parametrize("devices", [1, 8])
def test_self_masks_of_large_ids(devices):
    """Pairs of one image, by Python's whole numbers; on a mesh, in which ids are sorted across devices."""
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:devices]), ("data",))
    rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))

    @jax.jit
    def graph(ids, z):
        side = with_numbers({"id": ids})
        block = image_block(z, side, 2)
        return identity(block, block), products(block["z"], block["z"]), block["id_words"]

    z = np.random.default_rng(0).normal(size=(2 * len(IDS), 3)).astype(np.float32)
    found, cosines, words = graph(jax.device_put(entries(IDS), rows), jax.device_put(z, rows))
    twice = np.repeat(np.array(IDS, object), 2)
    np.testing.assert_array_equal(found, (twice[:, None] == twice[None, :]).astype(np.float32))
    np.testing.assert_allclose(cosines, z @ z.T, rtol=1e-5, atol=1e-5)
    assert ids_of(np.asarray(words)).tolist() == twice.tolist()


def test_an_order_of_any_number_is_a_bijection():
    for count in (*range(1, 40), 255, 256, 257, 1000):
        for key in (0, 2**64 - 1):
            assert sorted(permuted(place, count, key) for place in range(count)) == list(range(count))
    assert [permuted(place, 1000, 1) for place in range(20)] != [permuted(place, 1000, 2) for place in range(20)]
    index = draw_order(DATACOMP, 0)
    found = np.array([index(2 * DATACOMP + place) for place in range(4000)])
    assert len(np.unique(found)) == 4000
    assert found.min() >= 0
    assert found.max() < DATACOMP
    assert found.mean() / DATACOMP == pytest.approx(0.5, abs=0.02)  # 4 standard deviations
    assert np.corrcoef(found[:-1], found[1:])[0, 1] == pytest.approx(0, abs=0.07)
    assert len(np.unique(found % 64)) == len(np.unique(found // (DATACOMP // 64))) == 64
    other = [index(3 * DATACOMP + place) for place in range(20)]  # another epoch
    assert not set(other) & set(found[:20].tolist())


def batches(source, start, rows, number=2):
    config = tiny_config(batch_size=8)
    iterator = train_batches(Dataset(source, 4, "first"), config, start, rows)
    found = [next(iterator) for _ in range(number)]
    iterator.close()
    return np.stack([ids_of(batch["id"]) for batch in found]), np.stack([batch["image"] for batch in found])


@pytest.mark.parametrize("hosts", [2, 4])
def test_a_run_resumes_beyond_2_to_the_33_on_any_number_of_hosts(hosts):
    source, start = StandIn(DATACOMP, first_id=2**32), 2**33 + 7
    ids, images = batches(source, start, range(8))
    index = draw_order(DATACOMP, tiny_config().seed)
    expected = np.array([index(start + place) for place in range(16)])
    np.testing.assert_array_equal(ids.reshape(-1), expected + 2**32)
    np.testing.assert_array_equal(images[..., 0, 0, 0].reshape(-1), expected % 256)
    share = 8 // hosts
    parts = [batches(source, start, range(share * host, share * (host + 1)))[0] for host in range(hosts)]
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), ids)
    later, _ = batches(source, start + 8, range(8), number=1)
    np.testing.assert_array_equal(later[0], ids[1])


def test_shares_of_sets_too_large_to_rate_each_record():
    """The rules of `draw_order`, counted on small sets; then the same object at DataComp's size."""
    rates = Shares((30, 10, 60), (0.25, 0.65, 0.1))
    index = draw_order(100, 0, rates)
    whole = np.array([[index(100 * epoch + place) for place in range(100)] for epoch in range(4)])
    for epoch in whole:
        sets = np.searchsorted([30, 40], epoch, side="right")
        np.testing.assert_array_equal(np.bincount(sets), [25, 65, 10])
        assert np.bincount(epoch[sets == 0], minlength=30).max() == 1
        assert np.ptp(np.bincount(epoch[sets == 1] - 30, minlength=10)) == 1  # 6 or 7 times each
    assert len({tuple(sorted(epoch[epoch < 30])) for epoch in whole}) == 4
    uneven = draw_order(100, 0, Shares((50, 50), (0.505, 0.495)))
    counts = [sum(uneven(100 * epoch + place) < 50 for place in range(100)) for epoch in range(10)]
    assert set(counts) == {50, 51}
    large = record_rates([10**10, 10**9], [0.25, 0.75], None, 0.0)
    index = draw_order(11 * 10**9, 1, large)
    found = np.array([index(2**40 + place) for place in range(2000)])
    assert np.mean(found < 10**10) == pytest.approx(0.25, abs=0.04)
    assert found.max() < 11 * 10**9


def test_a_fraction_of_a_large_set_is_part_of_a_larger_fraction():
    small, large = (choose_fraction(StandIn(DATACOMP), share, 3) for share in (0.001, 0.25))
    assert isinstance(large, Permuted)
    assert (len(small), len(large)) == (12_800_000, 3_200_000_000)
    assert [small[place] for place in range(10)] == [large[place] for place in range(10)]
    assert len({large[place] for place in range(2**31, 2**31 + 1000)}) == 1000


def test_a_mixture_beyond_2_to_the_31_has_large_ids():
    mixture = Mixture([StandIn(2**31), StandIn(2**31)])
    assert mixture.wide_ids
    record = mixture[2**31 + 300]
    assert (record["id"], record["image"][-3]) == (2**31 + 300, 300 % 256)
    assert not Mixture([StandIn(10), StandIn(10)]).wide_ids
    example = Dataset(mixture, 4, "first")[2**31 + 300]
    assert ids_of(example["id"][None]).tolist() == [2**31 + 300]


def test_what_is_kept_for_every_record_is_refused_before_it_takes_memory(monkeypatch):
    source, data = StandIn(10**13), tiny_config().data
    monkeypatch.setitem(sources.SOURCES, "emoji", lambda data, split: source)
    data.balance = 0.5
    begun = time.monotonic()
    for refused in (
        lambda: open_training_source(data),
        lambda: choose_samples(source, 5, 0),
        lambda: read_side("weights.npz", "weight", source),
    ):
        with pytest.raises(ConfigError, match=r"keeps .* bytes for each") as caught:
            refused()
        assert len(str(caught.value)) < 500
    assert time.monotonic() - begun < 5


def test_large_ids_are_written_and_read(tmp_path):
    image = b"P6\n1 1\n255\nabc"
    records = [{"id": id, "image": image} for id in (3, 2**31, 2**63 - 1)]
    manifest = write_records(tmp_path / "wide", "t", {"train": records, "val": [{"id": 4, "image": image}]})
    assert manifest.splits["train"]["largest_id"] == 2**63 - 1
    assert "largest_id" not in manifest.splits["val"]  # as every set before
    assert read_manifest(tmp_path / "wide") == manifest
    source = open_records(tmp_path / "wide", "train")
    found = np.stack([Dataset(source, 1, "first")[place]["id"] for place in range(3)])
    assert ids_of(found).tolist() == [3, 2**31, 2**63 - 1]
    assert Dataset(open_records(tmp_path / "wide", "val"), 1, "first")[0]["id"].shape == ()
    source.wide_ids = False
    with pytest.raises(DataError, match="manifest does not say"):
        Dataset(source, 1, "first")[1]
    with pytest.raises(DataError, match="an int from 0"):
        write_records(tmp_path / "more", "t", {"train": [{"id": 2**63, "image": image}]})


def test_shards_as_columns_are_the_list_that_they_were():
    shards = [
        {"file": f'é"{number}.arrayrecord', "count": number, "bytes": 2**40 + number, "sha256": f"{number:064x}"}
        for number in range(5000)  # more than are dicts at a time
    ]
    fields = {"b": "ü", "splits": {"val": {"shards": shards[:3], "count": 3}, "train": {"count": 1, "shards": shards}}}
    read = read_fields(json.dumps(fields))
    assert isinstance(read["splits"]["train"]["shards"], ShardList)
    assert read == fields
    assert read["splits"]["train"]["shards"][-1] == shards[-1]
    assert read["splits"]["train"]["shards"] != shards[1:] + shards[:1]
    plain = json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert "".join(canonical_text(read)) == "".join(canonical_text(fields)) == plain
    edited = {"splits": {"train": {"shards": [shards[0], {"file": 1}, shards[1]]}}, "other": shards[0]}
    assert read_fields(json.dumps(edited))["splits"] == edited["splits"]
