"""Rules about several keys: what does not go together is named with its fix, what does is let through."""

import pytest

from tests.config.changed import changed
from xsample_jax.config import find_problems
from xsample_jax.errors import ConfigError

RANKED = {"checkpoint__metric": "label/knn", "checkpoint__every": 20, "eval__every": 10}
KERNELS = {"loss__kernel": "pallas", "loss__impl": "streaming"}

VIT = {"model__encoder": "vit_ti", "model__patch_size": 8}
FREEZE = ({"parameters": "^encoder/", "freeze": True},)
ROCKET = {"objective__preset": "siamlip", "model__text__layers": 2, "views": 3}


@pytest.mark.parametrize(
    ("changes", "field", "fix"),
    [
        ({"steps": None}, "steps", "--config.steps=1000"),
        ({"epochs": 2.0}, "steps", "--config.epochs=None"),
        ({"views": 1}, "views", "--config.views=2"),
        ({"views": 1, "objective__preset": "simclr"}, "views", "--config.views=2"),
        ({"views": 1, "objective__preset": "supcon"}, "views", "--config.views=2"),
        ({"data__source": "records", "eval__suite": "probe"}, "data.path", "--config.data.path=FOLDER"),
        ({"data__path": "somewhere"}, "data.path", "--config.data.source=records"),
        ({"data__source": "emoji_folder"}, "data.path", "--config.data.path=FOLDER"),
        ({"data__split": "trian"}, "data.split", "Did you mean train"),
        ({"data__samples_per_class": 2, "data__balance": 0.5}, "data.samples_per_class", "--config.data.balance=0"),
        (
            {"data__samples_per_class": 2, "data__fraction": 0.5},
            "data.fraction",
            "--config.data.samples_per_class=None",
        ),
        ({"data__balance": 0.5, "data__fraction": 0.5}, "data.fraction", "--config.data.balance=0.0"),
        ({"objective__preset": "simclr", "data__label_noise": 0.1}, "data.label_noise", "--config.data.label_noise=0"),
        (
            {"objective__preset": "supcon", "data__caption_noise": 0.1},
            "data.caption_noise",
            "neither caption_embedding",
        ),
        ({"augment__size": 129}, "augment.size", "--config.data.image_size=129"),
        ({"model__encoder": "vit_ti", "model__patch_size": 5}, "model.patch_size", "2, 4, 8, 16, 32"),
        ({"objective__preset": "cacr"}, "views", "--config.views=3"),
        ({"objective__preset": "whitened_cse", "views": 3, "batch_size": 6}, "batch_size", "--config.batch_size=8"),
        ({"objective__preset": "whitened_cse", "views": 3, "model__head__dim": 30}, "model.head.dim", "dim=32"),
        ({"objective__preset": "clip"}, "model.text.layers", "--config.model.text.layers=6"),
        ({"objective__preset": "macl", "loss__groups": 2}, "loss.groups", "--config.loss.groups=1"),
        ({"objective__preset": "barlow_twins", "loss__groups": 2}, "loss.groups", "feature terms"),
        ({"objective__preset": "classifier", "loss__groups": 2}, "loss.groups", "rows of classes"),
        ({"objective__preset": "ressl", "loss__groups": 2}, "loss.groups", "'queue' is not one of images"),
        ({"objective__preset": "simclr", "loss__groups": 2, "loss__impl": "dense"}, "loss.groups", "is dense"),
        (
            {
                "objective__preset": "supremix",
                "data__side": ({"name": "target", "attributes": ("group", "subgroup")},),
            },
            "data.side[0].attributes",
            "one attribute",
        ),
        (
            {"objective__preset": "clip_frozen_text", "model__text__layers": 2},
            "model.text.layers",
            "--config.model.text.layers=0",
        ),
        (
            {"objective__preset": "clip", "model__text__layers": 2, "data__caption": "mean"},
            "data.caption",
            "--config.data.caption=first",
        ),
        (
            {"objective__preset": "clip", "model__text__layers": 2, "model__text__heads": 3},
            "model.text.width",
            "Set 255",
        ),
        ({"views": 1, "objective__preset": "moco"}, "views", "--config.views=2"),
        ({"views": 2, "objective__terms": ({"keys": {"block": "image", "view": 2}},)}, "views", "--config.views=3"),
        ({"objective__preset": "moco", "objective__queue": 1000}, "objective.queue", "--config.objective.queue=768"),
        ({"objective__preset": "moco", "objective__queue": 100}, "objective.queue", "--config.objective.queue=256"),
        (
            {"objective__target_neighbors": 4.0, "objective__target_same_mass": 0.5},
            "objective.target_same_mass",
            "target_same_mass=None",
        ),
        (
            {"objective__preset": "swav", "model__encoder": "vit_ti", "model__patch_size": 8},
            "model.encoder",
            "--config.model.encoder=resnet50",
        ),
        (
            {"objective__preset": "simclr", "objective__target_temperature": 0.05},
            "objective.target_temperature",
            "target_temperature=None",
        ),
        (
            {"objective__preset": "ressl", "objective__queue": 256, "objective__target_neighbors": 8.0},
            "objective.target_neighbors",
            "target_neighbors=None",
        ),
        ({"objective__graph": "teacher"}, "objective.terms[0].graph.source", "--config.objective.teacher"),
        ({"objective__preset": "vicreg", "objective__graph": "label"}, "objective.graph", "graph=None"),
        (
            {"objective__preset": "clip_frozen_text", "objective__temperature": 0.005},
            "objective.temperature",
            "temperature=0.07",
        ),
        (
            {"objective__preset": "rank_n_contrast", "objective__learn_temperature": True},
            "objective.temperature",
            "a start within [0.01, 1]",
        ),
        (
            {"objective__target_temperature": 0.05, "objective__target_neighbors": 8.0},
            "objective.target_temperature",
            "target_temperature=None",
        ),
        ({"objective__preset": "simclr", "objective__queue": 256}, "objective.queue", "objective.queue=None"),
        ({"objective__teacher_end": 1.0}, "objective.teacher_end", "byol, moco_v3"),
        ({"objective__preset": "coconut", "objective__teacher_end": 1.0}, "objective.teacher_end", "byol, moco_v3"),
        ({"objective__preset": "simclr", "objective__teacher": 0.9}, "objective.teacher", "objective.teacher=None"),
        ({"objective__preset": "simclr", "objective__prototypes": 9}, "objective.prototypes", "prototypes=None"),
        (
            {"objective__preset": "decoupled_softmax", "objective__graph": "hierarchy"},
            "objective.terms[0].graph",
            "a graph with zeros",
        ),
        ({"objective__preset": "hcl", "objective__graph": "uniform"}, "objective.terms[0].graph", "label or identity"),
        ({"objective__preset": "swav", "loss__grad_cache": 2}, "loss.grad_cache", "grad_cache=1"),
        (ROCKET | {"loss__grad_cache": 2}, "loss.grad_cache", "grad_cache=1"),
        ({"objective__preset": "pixpro", "model__encoder": "mlp2"}, "model.encoder", "encoder=resnet50"),
        (
            {"objective__preset": "pixpro", "model__encoder": "vit_ti", "model__patch_dropout": 0.5},
            "model.patch_dropout",
            "patch_dropout=0",
        ),
        (VIT | {"model__lora": 2, "optimizer__rules": FREEZE}, "optimizer.rules", "blocks/0/attention/qkv/lora/lora_a"),
        (
            VIT | {"model__lora": 2, "optimizer__rules": ({"parameters": "^head/", "freeze": True},)},
            "optimizer.rules",
            "blocks/0/attention/qkv/kernel",
        ),
        ({"objective__preset": "imix", "views": 1}, "views", "at least 2"),
        (
            {
                "objective__preset": "moco",
                "objective__queue": 16,
                "objective__terms": (
                    {
                        "graph": {"source": "label", "normalizer": "row_sum"},
                        "keys": ("teacher", "queue"),
                        "link": {"name": "soft_top_k", "k": 32},
                    },
                ),
                "batch_size": 8,
            },
            "objective.terms[0].link.k",
            "at most 31, as a row has 32 keys",
        ),
        ({"objective__terms": ({"graph": 3},)}, "objective.terms[0].graph", "a source"),
        ({"objective__terms": ({"keys": None},)}, "objective.terms[0].keys", "a block"),
        (
            {"objective__terms": ({"anchors": {"block": "image", "view": "0"}},)},
            "objective.terms[0].anchors.view",
            "an integer or None",
        ),
        ({"objective__terms": ({"weight": "x"},)}, "objective.terms[0].weight", "a number, or a rule of progress"),
        ({"objective__terms": ({"similarity": 3},)}, "objective.terms[0].similarity", "a name or a dict"),
        (
            {"objective__terms": ({"graph": {"source": "caption", "transforms": "affine"}},)},
            "objective.terms[0].graph.transforms",
            "a tuple, each a name",
        ),
        (
            {
                "objective__preset": "clip_frozen_text",
                "objective__terms": ({"keys": {"block": "text", "view": 1}},),
            },
            "rows.view",
            "from 0 to 0",
        ),
        ({"objective__terms": ({"graph": "lable"},)}, "objective.terms[0].graph.source", "Did you mean label"),
        ({"objective__terms": ({"temperature": 0.0},)}, "objective.terms[0].temperature", "a temperature > 0"),
        ({"objective__preset": "simclr", "objective__center": True}, "objective.center", "center=false"),
        ({"objective__graph": "label", "objective__center": True}, "objective.center", "center=false"),
        ({"objective__preset": "simclr", "objective__graph": "caption"}, "objective.graph", "preset=xclr"),
        ({"objective__preset": "clip_frozen_text", "objective__graph": "label"}, "objective.graph", "graph=None"),
        (
            {"objective__temperature": 2.0, "objective__learn_temperature": True},
            "objective.temperature",
            "temperature=0.07",
        ),
        ({"optimizer__name": "lars", "optimizer__clip_norm": 1.0}, "optimizer.clip_norm", "clip_norm=None"),
        ({"data__source": "records", "data__path": "x"}, "eval.suite", "--config.eval.suite=probe"),
        ({"eval__split": "train_styles"}, "eval.split", "--config.eval.split=test"),
        ({"eval__suite": "probe", "eval__split": "train"}, "eval.split", ""),
        ({"eval__online_probe": True, "loss__grad_cache": 2}, "eval.online_probe", "grad_cache=1"),
        ({"loss__kernel": "pallas", "loss__impl": "dense"}, "loss.kernel", "which has no tiles"),
        (KERNELS | {"objective__graph": "class_text"}, "loss.kernel", "term 0 has no kernels: a graph of class texts"),
        (KERNELS | {"objective__preset": "simclr"}, "loss.kernel", "not the softmax of cosines"),
        (KERNELS | {"objective__temperature": 0.02}, "loss.kernel", "stay above 0.025"),
        (KERNELS | {"objective__learn_temperature": True}, "loss.kernel", "stay above 0.025"),
        (KERNELS | {"objective__target_temperature": 0.02}, "loss.kernel", "stay above 0.025"),
        (KERNELS | {"batch_size": 160, "mesh__data": 8}, "loss.kernel", "batch_size to a multiple of 1024"),
        ({"eval__suite": "none", "checkpoint__metric": "knn"}, "checkpoint.metric", "checkpoint.metric=None"),
        (RANKED | {"checkpoint__keep_best": 0}, "checkpoint.keep_best", ""),
        (RANKED | {"eval__every": None}, "eval.every", "eval.every=20"),
        (RANKED | {"eval__every": 15}, "eval.every", "a divisor of checkpoint.every = 20"),
    ],
)
def test_combinations(changes, field, fix):
    (problem,) = find_problems(changed(**changes))
    assert isinstance(problem, ConfigError)
    assert problem.field == field
    assert fix in str(problem)


@pytest.mark.parametrize(
    "changes",
    [
        {"views": 1, "objective__preset": "clip_frozen_text"},
        {"objective__preset": "clip", "model__text__layers": 2},
        {"views": 1, "objective__preset": "siglip"},
        {"objective__preset": "moco", "objective__queue": 512},
        {"objective__preset": "swav", "model__encoder": "resnet18"},
        {"objective__graph": "teacher", "objective__teacher": 0.99},
        {"objective__target_neighbors": 4.0},
        {"objective__terms": ({"graph": "label"}, {"name": "align"})},
        {"objective__center": True},
        {"objective__graph": "class_text", "objective__center": True},
        {"objective__preset": "simclr", "objective__graph": "label"},
        {"model__encoder": "resnet18", "model__patch_size": 5},
        {"data__source": "records", "data__path": "x", "data__split": "any", "eval__suite": "none"},
        {"augment__size": 128},
        {"optimizer__name": "lars"},
        RANKED,
        KERNELS,
        KERNELS | {"batch_size": 1024, "mesh__data": 8},
    ],
)
def test_combinations_that_work(changes):
    assert find_problems(changed(**changes)) == []


def test_all_that_is_wrong_with_an_objective_is_reported_at_once():
    wrong = ({"graph": "lable", "link": "soft"}, {"negatives": "hard"})
    found = find_problems(changed(objective__terms=wrong, seed=-1))
    assert [problem.field for problem in found] == [
        "seed",
        "objective.terms[0].link",
        "objective.terms[0].graph.source",
        "objective.terms[1].negatives",
    ]


def test_kernels_are_refused_with_all_else_that_is_wrong():
    found = find_problems(changed(**KERNELS | {"objective__graph": "class_text"}, views=1, steps=None))
    assert {problem.field for problem in found} == {"loss.kernel", "steps", "views"}
