"""From a config to an objective: what is replaced, terms out of plain data, and every mistake with its fix."""

import dataclasses
import json

import jax.numpy as jnp
import pytest
from ml_collections import ConfigDict

from xsample_jax.config import flat_keys
from xsample_jax.data.dataset import check_side_information
from xsample_jax.errors import ConfigError, DataError, Problems
from xsample_jax.graphs.targets import TRANSFORMS, Graph, Mixture
from xsample_jax.objectives.blocks import IMAGE, TEXT, Rows
from xsample_jax.objectives.from_config import build_objective, find_problems, needed_views, presets_that_read
from xsample_jax.objectives.objective import Objective
from xsample_jax.objectives.presets import PRESETS
from xsample_jax.objectives.terms import FeatureTerm, Term
from xsample_jax.registry import resolve

DEFAULTS = {
    name.removeprefix("objective."): key.default
    for name, key in flat_keys().items()
    if name.rpartition(".")[0] == "objective"
}


def build(**changes):
    return build_objective(ConfigDict({**DEFAULTS, **changes}, type_safe=False))


def problems(**changes):
    with pytest.raises(ConfigError, match="expected") as caught:
        build(**changes)
    return caught.value.problems if isinstance(caught.value, Problems) else (caught.value,)


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_is_without_problems_and_unchanged_by_the_defaults(preset):
    assert build(preset=preset) == PRESETS[preset].objective


def test_config_values_replace_the_presets():
    objective = build(graph="class_text", temperature=0.2, target_temperature=0.05, center=True)
    assert objective.terms == (Term(Graph("class_text", "softmax")),)
    assert (objective.temperature, objective.target_temperature, objective.center) == (0.2, 0.05, True)
    assert objective.requires == {"class_embedding"}
    assert build().temperature == 0.1
    assert build(preset="clip").learn_temperature
    assert not build(preset="clip", learn_temperature=False).learn_temperature
    moco = build(preset="moco", teacher=0.0, queue=64)
    assert (moco.teacher, moco.queue) == (0.0, 64)
    assert build(preset="swav", prototypes=7).prototypes == 7
    assert build(target_neighbors=8.0).target_temperature == {"name": "neighbors", "count": 8.0}
    assert build(target_same_mass=0.5).target_temperature == {"name": "same_mass", "mass": 0.5}


def test_what_a_preset_reads():
    assert build(preset="simclr").requires == set()
    assert build(preset="supcon").requires == {"label"}
    assert build(preset="clip").requires == {"caption_tokens"}
    assert build(preset="clip_frozen_text").requires == {"caption_embedding"}
    assert build(preset="rank_n_contrast").requires == {"caption_embedding"}
    assert build(preset="simlap").requires == {"label"}
    assert build(preset="isogclr").requires == {"index"}
    assert build(preset="xclr_hierarchy").requires == {"path"}


def test_presets_that_can_do_with_what_there_is():
    assert "supcon" not in presets_that_read([])
    assert {"simclr", "moco", "barlow_twins"} <= set(presets_that_read([]))
    with_labels = presets_that_read(["label"])
    assert {"supcon", "simlap", "simclr"} <= set(with_labels)
    assert not {"xclr", "clip", "clip_frozen_text"} & set(with_labels)


TERMS = (
    {
        "graph": {
            "graphs": ["label", {"source": {"name": "hierarchy", "measure": "path"}, "normalizer": "softmax"}],
            "weights": [0.7, 0.3],
        },
        "anchors": {"block": "image", "view": 1},
        "keys": ["text", {"block": "image", "view": 0}],
        "denominator": {"name": "rank", "by": "label"},
        "temperature": 0.2,
        "weight": 2.0,
    },
    {
        "graph": {"source": "caption", "normalizer": "softmax", "transforms": [{"name": "top_k", "k": 4}]},
        "keys": "text",
    },
    {
        "name": "align",
        "x": {"block": "image", "view": 0, "beside": "text"},
        "y": {"block": "text", "beside": {"block": "image", "view": 1}},
        "weight": 0.5,
    },
)


def test_terms_out_of_plain_data():
    objective = build(preset="clip_frozen_text", terms=TERMS)
    path = Graph({"name": "hierarchy", "measure": "path"}, "softmax")
    assert objective.terms == (
        Term(
            Mixture((Graph("label"), path), (0.7, 0.3)),
            anchors=Rows("image", 1),
            keys=(TEXT, Rows("image", 0)),
            denominator={"name": "rank", "by": "label"},
            temperature=0.2,
            weight=2.0,
        ),
        Term(Graph("caption", "softmax", ({"name": "top_k", "k": 4},)), keys=TEXT),
    )
    assert objective.feature_terms == (
        FeatureTerm("align", Rows("image", 0, beside=TEXT), Rows("text", beside=Rows("image", 1)), 0.5),
    )
    assert objective.requires == {"label", "path", "caption_embedding"}
    assert objective.text == "linear"  # the rest of the preset stays


def test_terms_survive_json():
    assert build(preset="clip_frozen_text", terms=tuple(json.loads(json.dumps(TERMS)))) == build(
        preset="clip_frozen_text", terms=TERMS
    )


def test_a_preset_written_out_is_the_preset():
    term = {"graph": {"source": "caption", "normalizer": "softmax"}}
    assert build(preset="simclr", terms=(term,)) == PRESETS["xclr"].objective


@pytest.mark.parametrize(
    ("changes", "field", "words"),
    [
        ({"preset": "supkon"}, "objective.preset", "Did you mean supcon"),
        ({"graph": "captions"}, "objective.graph", "Did you mean caption?"),
        ({"preset": "clip", "graph": "label"}, "objective.graph", "--config.objective.graph=None"),
        ({"preset": "align", "graph": "label"}, "objective.graph", "one graph"),
        ({"preset": "barlow_twins", "graph": "label"}, "objective.graph", "one graph"),
        ({"preset": "supcon", "graph": "caption"}, "objective.graph", "cosines can be negative"),
        ({"preset": "supcon", "graph": "class_text"}, "objective.graph", "transform affine"),
        ({"graph": "teacher"}, "objective.terms[0].graph.source", "--config.objective.teacher"),
        ({"graph": "text_similarity"}, "objective.terms[0].graph.source", "soft_clip"),
        ({"graph": "second_label"}, "objective.terms[0].graph.source", "simlap"),
        ({"preset": "simclr", "center": True}, "objective.center", "center=false"),
        ({"temperature": 0.0}, "objective.temperature", "a temperature > 0"),
        ({"temperature": -0.1}, "objective.temperature", "a temperature > 0"),
        ({"target_temperature": 0}, "objective.target_temperature", "a temperature > 0"),
        ({"terms": ()}, "objective.terms", "at least one term"),
        ({"terms": ({"grpah": "label"},)}, "objective.terms[0].grpah", "Did you mean graph?"),
        ({"terms": ({"graph": {"sauce": "label"}},)}, "objective.terms[0].graph.sauce", "Did you mean source?"),
        ({"terms": ({"keys": {"block": "image", "veiw": 1}},)}, "objective.terms[0].keys.veiw", "Did you mean view?"),
        ({"terms": ({"name": "align", "graph": "label"},)}, "objective.terms[0].graph", "a field of FeatureTerm"),
        ({"terms": ({"graph": "lable"},)}, "objective.terms[0].graph.source", "Did you mean label"),
        (
            {"terms": ({"graph": {"source": "label", "normalizer": "sinkhron"}},)},
            "objective.terms[0].graph.normalizer",
            "Did you mean sinkhorn?",
        ),
        (
            {"terms": ({"graph": {"source": "label", "transforms": ({"name": "top_k"},)}},)},
            "objective.terms[0].graph.transforms.k",
            "needs it",
        ),
        (
            {"terms": ({"negatives": {"name": "hardest", "kk": 4}},)},
            "objective.terms[0].negatives.kk",
            "Did you mean k?",
        ),
        ({"terms": ({"link": "sigmoide"},)}, "objective.terms[0].link", "Did you mean sigmoid"),
        ({"terms": ({"denominator": "ranks"},)}, "objective.terms[0].denominator", "Did you mean rank?"),
        (
            {"terms": ({"denominator": {"name": "rank", "by": "captoin"}},)},
            "objective.terms[0].denominator.by",
            "Did you mean caption?",
        ),
        ({"terms": ({"aggregate": "inside"},)}, "objective.terms[0].aggregate", "one of in, out"),
        ({"terms": ({"reduce": "columns"},)}, "objective.terms[0].reduce", "rows or pairs"),
        ({"terms": ({"temperature": 0.0},)}, "objective.terms[0].temperature", "a temperature > 0"),
        (
            {"terms": ({"graph": {"source": "label", "target_temperature": 0.0}},)},
            "objective.terms[0].graph.target_temperature",
            "a temperature > 0",
        ),
        (
            {"terms": ({"graph": {"source": "label", "target_temperature": {"name": "nieghbours", "count": 3}}},)},
            "objective.terms[0].graph.target_temperature",
            "Did you mean neighbors?",
        ),
        (
            {"terms": ({"graph": {"graphs": ["label", "uniform"], "weights": [1.0]}},)},
            "objective.terms[0].graph.weights",
            "one weight for each of the 2 graphs",
        ),
        (
            {"terms": ({"mixer": "hard_mixtures", "similarity": "margin"},)},
            "objective.terms[0].similarity",
            "dot for a term with a mixer",
        ),
        ({"terms": ({"keys": "txet"},)}, "rows.block", "Did you mean text"),
        ({"terms": ({"keys": "text"},)}, "rows.block", "clip_frozen_text"),
        ({"terms": ({"keys": ("image", "queue")},)}, "rows.block", "--config.objective.queue"),
        ({"terms": ({"keys": {"block": "image", "beside": "teacher"}},)}, "rows.block", "--config.objective.teacher"),
        ({"terms": ({"name": "aligned"},)}, "objective.feature_terms[0].name", "Did you mean align"),
    ],
)
def test_mistakes_are_named_with_their_fix(changes, field, words):
    (problem,) = problems(**changes)
    assert problem.field == field
    assert words in str(problem)


def test_several_mistakes_are_reported_at_once():
    wrong = (
        {"graph": {"source": "lable", "normalizer": "sum"}, "link": "soft", "temperature": -1},
        {"anchors": "imgae", "negatives": "hard"},
    )
    found = problems(terms=wrong, target_temperature=-2.0)
    assert {problem.field for problem in found} == {
        "objective.terms[0].graph.source",
        "objective.terms[0].graph.normalizer",
        "objective.terms[0].link",
        "objective.terms[0].temperature",
        "objective.terms[1].negatives",
        "rows.block",
        "objective.target_temperature",
    }
    found = problems(terms=({"grpah": "label"}, {"kyes": "image"}))
    assert [problem.field for problem in found] == ["objective.terms[0].grpah", "objective.terms[1].kyes"]


def test_negative_similarities_may_be_mapped_or_regressed_to():
    mapped = {"graph": {"source": "caption", "transforms": ["affine"]}}
    regressed = {"graph": {"source": "caption", "normalizer": "none"}, "link": "square"}
    assert build(terms=(mapped, regressed)).terms[1].link == "square"


def test_a_teacher_may_have_no_momentum():
    objective = Objective((Term(Graph("teacher", "softmax")),), 0.1, teacher=0.0)
    assert list(find_problems(objective)) == []
    assert len(list(find_problems(dataclasses.replace(objective, teacher=None)))) == 1


@pytest.mark.parametrize(
    ("terms", "views"),
    [
        ((Term(),), 2),
        ((Term(keys=TEXT), Term(anchors=TEXT, keys=IMAGE)), 1),
        ((Term(anchors=Rows("image", 0), keys=Rows("image", 2)),), 3),
        ((Term(anchors=TEXT, keys=Rows("image", 0, times=Rows("image", 3))),), 4),
        ((Term(anchors=Rows("local", 5), keys=Rows("prototypes")),), 1),
    ],
)
def test_needed_views(terms, views):
    assert needed_views(Objective(terms, 0.1)) == views


class Unlabeled:
    """A set with captions and their embeddings, and nothing else."""

    class manifest:
        class_names, text_encoder = (), {"dim": 4}

    def __len__(self):
        return 1

    def __getitem__(self, index):
        return {"label": -1, "captions": ["a red bird"], "attributes": {}}


def test_missing_side_information_names_the_entry_and_presets_that_work():
    for preset in ("xclr", "clip", "simclr", "sogclr"):
        check_side_information(PRESETS[preset].objective.requires, Unlabeled())
    with pytest.raises(DataError, match="batch entry label = None: expected a dataset that has it") as caught:
        check_side_information(PRESETS["supcon"].objective.requires, Unlabeled())
    proposed, _, more = str(caught.value).partition("supports: ")[2].rstrip(".").partition(" and ")
    assert proposed.startswith("xclr, xclr_random, simclr, dcl")
    supported = presets_that_read(["caption_embedding", "caption_tokens", "index", "attributes"])
    assert set(proposed.split(", ")) < set(supported)
    assert more == f"{len(supported) - 12} more"
    assert {"clip", "clip_frozen_text", "isogclr"} < set(supported)
    assert not {"supcon", "unicl", "xclr_class_text", "xclr_hierarchy", "simlap"} & set(supported)


def test_everything_that_a_set_lacks_is_reported_at_once():
    terms = ({"graph": "hierarchy"}, {"graph": "label"}, {"graph": {"source": "caption", "normalizer": "softmax"}})
    with pytest.raises(Problems) as caught:
        check_side_information(build(terms=terms).requires, Unlabeled())
    assert [problem.field for problem in caught.value.problems] == ["batch entry label", "batch entry path"]
    with pytest.raises(DataError, match="no set has it"):
        check_side_information(frozenset({"box"}), Unlabeled())


def test_what_data_side_can_give_says_so_and_who_makes_it():
    """An objective that reads clusters is not trained on a set without: the entry, its sources, and what would work."""
    reads = build(preset="simclr", terms=({"negatives": "clusters_apart"},)).requires
    with pytest.raises(DataError, match="batch entry cluster = None: expected attributes or a file for 'cluster'") as e:
        check_side_information(reads, Unlabeled())
    assert "It comes from tools.cluster or attributes" in str(e.value)
    assert "supports: xclr, xclr_random, simclr, dcl" in str(e.value)
    check_side_information(reads, Unlabeled(), ["cluster"])
    with pytest.raises(DataError, match="a file for 'class_temperature'"):
        check_side_information(frozenset({"class_temperature"}), Unlabeled(), ["cluster"])


@pytest.mark.parametrize(
    ("term", "field", "words"),
    [
        ({"negatives": "same_owner"}, "negatives", "degla"),
        ({"denominator": {"name": "rank", "by": "geometry"}}, "denominator", "'box'"),
        ({"denominator": {"name": "rank", "by": 5}}, "denominator.by", "a name"),
        ({"negatives": "neither_label"}, "negatives", "simlap"),
        ({"similarity": "gated"}, "similarity", "simlap"),
        ({"row_weight": "moving_average"}, "row_weight", "sogclr"),
        ({"temperature": "per_anchor"}, "temperature", "isogclr"),
        ({"graph": {"source": {"name": "hierarchy", "measure": "lin"}}}, "graph.source.measure", "wu_palmer, path"),
        ({"link": {"name": "robust", "q": 1.5}}, "link.q", "at most 1"),
        ({"link": {"name": "robust"}, "temperature": 0.004}, "temperature", "overflows"),
        ({"temperature": {"name": "schedule", "low": -1.0}}, "temperature.low", "at least 0.001"),
        ({"denominator": "views", "keys": {"block": "image", "view": 1}}, "denominator", "rows of one view"),
        ({"link": "joint", "row_weight": "focal"}, "row_weight", "has no denominator"),
        ({"graph": "geometry"}, "graph.source", "'box'"),
    ],
)
def test_what_a_term_chooses_is_checked_before_it_is_traced(term, field, words):
    """faults A1, A2, D9: slots that read what nothing provides, invalid options, choices without meaning together."""
    found = [problem for problem in problems(preset="simclr", terms=(term,)) if field in problem.field]
    assert found
    assert words in str(found[0])


def test_views_that_a_slot_reads_are_needed():
    """faults A1: `swapped` of view 5 was a KeyError."""
    source = {"source": {"name": "swapped", "of": 5}, "normalizer": "softmax"}
    assert needed_views(build(preset="simclr", terms=({"graph": source},))) == 6


COLD = {"source": "caption", "normalizer": "softmax", "target_temperature": 1e-50}


@pytest.mark.parametrize(
    ("term", "field"),
    [
        ({"keys": (), "denominator": "views"}, "objective.terms[0].keys"),
        ({"keys": [], "similarity": "volume"}, "objective.terms[0].keys"),
        ({"temperature": 1e-50}, "objective.terms[0].temperature"),
        ({"graph": COLD}, "objective.terms[0].graph.target_temperature"),
    ],
)
def test_no_keys_and_numbers_that_float32_does_not_hold(term, field):
    """faults A2, A9."""
    assert field in [problem.field for problem in problems(terms=(term,))]


def test_whole_numbers_are_taken_where_a_float_is_meant():
    """faults A9: larger than int32 they were an exception in the trace."""
    affine = resolve(TRANSFORMS, {"name": "affine", "scale": 3 * 10**9, "offset": 0}, "graph")
    assert affine(jnp.ones(()), None) == pytest.approx(3e9)
