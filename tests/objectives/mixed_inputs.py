"""Presets with synthetic keys on the inputs of their goldens, with the draws that the goldens have."""

from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from tests.objectives.golden_inputs import QUEUE, Z1, Z2, Z3, extra, images, interleaved, preset_value, queue, texts
from xsample_jax.models.heads import Propagation, standardized, unit_rows
from xsample_jax.objectives import mixers
from xsample_jax.objectives.blocks import key_block
from xsample_jax.objectives.pair_network import CHANNEL, PAIR, pair_entries
from xsample_jax.objectives.presets import PRESETS
from xsample_jax.objectives.step_blocks import hard_block

SUPREMIX = "SupReMix (mixed negatives, mixed positives, distance weights)"


def first_positive(key, similarity, positive, number):
    """The first positive of an anchor stands for all, as in the published code of Metrix."""
    return jnp.broadcast_to(jnp.argmax(positive, axis=1)[:, None], (len(positive), number))


def metrix(z=Z1, preset="metrix", **changes):
    ratios = lambda key, places, a, b: jnp.full(places.shape, 0.3)  # noqa: E731
    with mock.patch.multiple(mixers, draw_positives=first_positive, draw_ratios=ratios):
        return preset_value(preset, {"image": images(z)}, key=jax.random.key(0), **changes)


def given_ratios(key, places, a, b):
    """alpha_ik of the golden, whose rows are view by view; ours are image by image."""
    rows = np.arange(24).reshape(2, 12).T.reshape(-1)
    given = jnp.asarray(extra(SUPREMIX, "alpha")[np.ix_(rows, rows)])
    return jnp.take_along_axis(given, places, axis=1)


def supremix(first=Z1, second=Z2, **changes):
    target = extra(SUPREMIX, "target")[:, None]
    blocks = {"image": images(first, second, target=target)}
    with mock.patch.object(mixers, "draw_ratios", given_ratios):
        return preset_value("supremix", blocks, key=jax.random.key(0), **changes)


SEPCLR, ADAMEOW = "SepCLR total (k-JEM)", "AdaMEOW learned negative weights"
INTERCLR, AMCL = "InterCLR: .75 intra-image + .25 inter-image", "AMCL: NT-Xent with 3 heads, no regularizer"


def sepclr(views=(Z1, Z2), salient=None, **changes):
    salient = [extra(SEPCLR, name) for name in ("s1", "s2")] if salient is None else salient
    rows = {"head/salient": lambda z: interleaved(*salient)}
    blocks = {"image": images(*views, per_row=rows, is_target=extra(SEPCLR, "is_target").astype(int))}
    return preset_value("sepclr", blocks, **changes)


def network_of(first, second, bias, out, last):
    """Parameters of a network of pairs."""
    given = {"first": first, "second": second, "bias": bias, "out/weights": out[:, 0], "out/bias": last[0]}
    return {PAIR + name: jnp.asarray(value) for name, value in given.items()}


def adameow(views=(Z1, Z2), **changes):
    first, bias, out, last = (jnp.asarray(extra(ADAMEOW, name)) for name in ("m1", "c1", "m2", "c2"))
    params = network_of(first, first, bias, out, last)
    blocks = {"image": images(*views)}
    blocks["image"] |= pair_entries(params, blocks["image"]["z"], len(views[0]))
    return preset_value("adameow", blocks, **changes)


def amcl(views=(Z1, Z2), **changes):
    weights, bias, out, last = (jnp.asarray(extra(AMCL, name)) for name in ("w1", "b1", "w2", "b2"))
    params, half = network_of(weights[:8], weights[8:], bias, out, last), extra(AMCL, "heads")
    block = images(*views)
    for name, matrix in zip(PRESETS["amcl"].objective.heads, half, strict=True):
        raw = block["z"] @ jnp.asarray(matrix)
        block[f"head/{name}"] = raw
        block |= {
            f"head/{name}/{part}": rows for part, rows in pair_entries(params, unit_rows(raw), len(views[0])).items()
        }
    return preset_value("amcl", {"image": block}, **changes)


def channel_network(images=12, hidden=5, scale=0.3):
    """Parameters of a network of pairs of channels, large enough for temperatures that differ."""
    rng = np.random.default_rng(8)
    shapes = {"in": (images, hidden), "out": (images, hidden), "bias": (hidden,), "shift": (images,)}
    return {CHANNEL + name: jnp.float32(scale * rng.normal(size=shape)) for name, shape in shapes.items()}


def amcl_barlow_twins(params, views=(Z1, Z2), **changes):
    block = images(*views)
    for name, matrix in zip(PRESETS["amcl_barlow_twins"].objective.heads, extra(AMCL, "heads"), strict=True):
        block[f"head/{name}"] = block["z"] @ jnp.asarray(matrix)
    block |= pair_entries(params, block["z"], len(views[0]))
    return preset_value("amcl_barlow_twins", {"image": block}, **changes)


def amcl_of_teacher(preset, predicted=None, views=(Z1, Z2), **changes):
    """The golden's heads on views, those of the EMA encoder the same; predicted [D, D]: of a head's rows."""
    weights, bias, out, last = (jnp.asarray(extra(AMCL, name)) for name in ("w1", "b1", "w2", "b2"))
    params, half = network_of(weights[:8], weights[8:], bias, out, last), extra(AMCL, "heads")
    blocks = {"image": images(*views), "teacher": images(*views, first_row=90)}
    for name, matrix in zip(("first", "second", "third"), half, strict=True):
        raw = blocks["image"]["z"] @ jnp.asarray(matrix)
        given = {"image": {name: raw}, "teacher": {name: jax.lax.stop_gradient(raw)}}
        given["image"] |= {} if predicted is None else {f"{name}_predicted": raw @ predicted}
        for block, heads in given.items():
            for head, rows in heads.items():
                parts = pair_entries(params, unit_rows(rows), len(views[0]))
                blocks[block] |= {f"head/{head}": rows} | {f"head/{head}/{part}": x for part, x in parts.items()}
    return preset_value(preset, blocks, **changes)


def interclr(first=Z1, preset="interclr", **changes):
    """The bank of the golden is the queue; both draws are those of the golden."""
    positive, negatives, label = (extra(INTERCLR, name).astype(int) for name in ("positive", "negatives", "bank_label"))
    own = label[positive]
    blocks = {
        "image": images(first, Z2, cluster=own[:, None]),
        "teacher": images(Z3, Z2, first_row=90, cluster=own[:, None]),
        "queue": queue(cluster=jnp.asarray(label)[:, None]),
    }
    blocks["bank"] = blocks["queue"]
    of_positive = lambda key, similarity, among, number: jnp.asarray(positive)[:, None]  # noqa: E731
    of_negative = lambda key, similarity, among, most: (jnp.asarray(negatives), jnp.ones(negatives.shape))  # noqa: E731
    with mock.patch.multiple(mixers, draw_positives=of_positive, spread=of_negative):
        return preset_value(preset, blocks, key=jax.random.key(0), **changes)


def gopro(views=(Z1, Z2, Z3), shifts=None, **changes):
    """Texts of four classes; an image adds 0.3 times its embedding, and projections are the embeddings themselves."""
    shift = 0.3 * interleaved(*views) if shifts is None else shifts
    rows = {"prompt": lambda z: shift, "head/prompts": lambda z: shift, "head/visual": lambda z: z}
    blocks = {"image": images(*views, per_row=rows)}
    blocks["class_texts"] = key_block(jnp.asarray(QUEUE[:4]), label=jnp.arange(4))
    return preset_value("gopro", blocks, **changes)


ROCKET = "SwALIP total = .2 SwALIP + CL2L (clip-rocket)"


def rocket(name, views=(Z1, Z2, Z3), extra_heads=None, **changes):
    """Weak and first strong view z1, second z2; caption and first version z3, second text2; scales 20 and 10.

    extra_heads: {head: (outputs of image views 0, 1, 2; of the caption; of the two versions)} of rows.
    """
    first, second, text = views
    images_of, texts_of, versions = (first, first, second), (text,), (text, extra(ROCKET, "text2"))
    heads = {"local": lambda z: z} | (extra_heads or {})
    per_row = [{}, {}, {}]
    for head, change in heads.items():
        per = change if isinstance(change, dict) else {"image": change, "text": change}
        for entries, side, rows in zip(
            per_row, ("image", "text", "text"), (images_of, texts_of, versions), strict=True
        ):
            z, name_of = interleaved(*(per[side](one) for one in rows)), f"head/{head}_{side}"
            count = len(rows)
            entries |= {name_of: z, f"{name_of}/head_temperature": jnp.full(len(z), 0.1)}
            entries |= {f"{name_of}/view_{v}": jnp.repeat(z[v::count], count, axis=0) for v in range(count)}
    blocks = {
        "image": images(*images_of) | per_row[0],
        "text": images(*texts_of, first_row=1000) | per_row[1],
        "text_views": images(*versions, first_row=2000) | per_row[2],
    }
    for of, teacher in (("image", "teacher"), ("text", "text_teacher"), ("text_views", "text_views_teacher")):
        blocks[teacher] = jax.lax.stop_gradient(blocks[of])
    return preset_value(name, blocks, temperature=1 / 20, **changes)


def barlip(views=(Z1, Z2, Z3), **changes):
    return rocket("barlip_heads", views, {"barlow": standardized}, **changes)


def swalip(views=(Z1, Z2, Z3), **changes):
    return rocket("swalip_heads", views, **changes)


TCL = "TCL: six contrastive terms"


def tcl(first=Z1, **changes):
    """View 1 of the images by the EMA encoder is z2; the queue of texts is that of images, turned."""
    ema_text, cells, words = (extra(TCL, name) for name in ("ema_text", "local_image", "local_text"))
    there, turned = extra(TCL, "text_mask").astype(bool), jnp.asarray(QUEUE[::-1].copy())
    image = images(first, Z1, per_row={"teacher": lambda z: interleaved(Z2, Z2)})
    blocks = {
        "image": image,
        "text": texts(Z3, per_row={"teacher": lambda z: jnp.asarray(ema_text)}),
        "teacher": images(Z1, Z2, first_row=90, per_row={"teacher": lambda z: z}),
        "text_teacher": images(ema_text, first_row=200, per_row={"teacher": lambda z: z}),
        "queue": queue(teacher=jnp.asarray(QUEUE)),
        "text_queue": key_block(turned, label=jnp.full(len(turned), -1), teacher=turned),
        "teacher_cells": images(*np.moveaxis(cells, 1, 0), first_row=300),
        "teacher_words": images(*np.moveaxis(words, 1, 0), first_row=400) | {"filled": jnp.asarray(there.reshape(-1))},
    }
    return preset_value("tcl_contrastive", blocks, progress=0.5, **changes)


PIXPRO = "PixPro: propagation and both directions"


def pixpro(maps=None, preset="pixpro", **changes):
    """Maps of three images in two views; keys are the maps with their channels turned by one, without gradient."""
    given = [jnp.asarray(extra(PIXPRO, name), jnp.float32) for name in ("dense1", "dense2")] if maps is None else maps
    maps = [jnp.moveaxis(one, 1, -1) for one in given]
    head = Propagation(6, 2.0, rngs=nnx.Rngs(0))
    head.value.kernel[...] = jnp.asarray(extra(PIXPRO, "value_weight"), jnp.float32).T
    head.value.bias[...] = jnp.asarray(extra(PIXPRO, "value_bias"), jnp.float32)
    crops = jnp.stack([jnp.asarray(extra(PIXPRO, name), jnp.float32) for name in ("coord1", "coord2")], axis=1)
    both = jnp.stack(maps, axis=1).reshape(6, 3, 3, 6)
    keys = jax.lax.stop_gradient(jnp.roll(both, 1, axis=-1))
    own = {"crop": crops.reshape(6, 4)}
    blocks = {
        "image": images(Z1[:3], Z2[:3]) | own | {"head/propagated": head(both)},
        "teacher": images(Z1[:3], Z2[:3], first_row=90) | own | {"head/dense": keys},
        "predicted": images(Z2[:3], Z3[:3], first_row=200),
    }
    return preset_value(preset, blocks, 3, **changes)


DEGLA = "DeGLA total with two hard texts and a moved teacher, gradients"


def degla(image=Z1, text=Z3, hard=None, **changes):
    """Image i owns the wrong captions 2 i and 2 i + 1, text i those of i and i + 12: as the published code has it, two
    layouts of the same rows. So the third and the fourth term get blocks of their own here."""
    hard = jnp.asarray(extra(DEGLA, "neg_text")) if hard is None else hard
    ema_image, ema_text = (jnp.asarray(extra(DEGLA, name)) for name in ("teacher_image", "teacher_text"))

    def blocks_of(owner):
        return {
            "image": images(image),
            "text": texts(text) | {"owner": jnp.arange(12)},
            "teacher": images(ema_image, first_row=90),
            "text_teacher": images(ema_text[:12], first_row=200) | {"owner": jnp.arange(12)},
            "hard_text": hard_block(hard, jnp.arange(12), jnp.ones(24, bool)) | {"owner": owner},
            "hard_text_teacher": hard_block(ema_text[12:], jnp.arange(12), jnp.ones(24, bool)),
        }

    of_images, of_texts = (blocks_of(jnp.asarray(owner)) for owner in (np.repeat(range(12), 2), np.tile(range(12), 2)))
    *others, last = PRESETS["degla"].objective.terms
    total = preset_value("degla", of_images, temperature=1 / 5, terms=tuple(others), **changes)
    return total + preset_value("degla", of_texts, temperature=1 / 5, terms=(last,), feature_terms=())
