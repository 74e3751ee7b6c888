"""From a config to a run that can start: its training split opened, and its parts."""

from collections.abc import Iterator

from jax.sharding import Mesh

from xsample_jax.class_embeddings import load_class_embeddings
from xsample_jax.data.altered import altered
from xsample_jax.data.manifest import read_manifest
from xsample_jax.data.pipeline import Examples
from xsample_jax.data.record_reader import RecordSource, open_records
from xsample_jax.data.some_records import readable, spread_places
from xsample_jax.data.sources import check_memory, open_training_source, source_folder
from xsample_jax.data_facts import data_facts
from xsample_jax.errors import ConfigError, DataError, UserError, did_you_mean, raise_all
from xsample_jax.examples import no_records, open_examples
from xsample_jax.kernel_fit import check_kernels
from xsample_jax.mesh import make_mesh
from xsample_jax.objectives.build import build_objective
from xsample_jax.parts import Parts

LABELS_LOOKED_AT = 256


def assemble(config, mesh: Mesh | None = None) -> tuple[Parts, Examples]:
    """Opens the training split of a config and returns the parts of its run, and the examples."""
    mesh = mesh or make_mesh(config.mesh, config.batch_size)
    objective = build_objective(config.objective)
    check_kernels(config, objective, mesh)
    fields = objective.requires
    source, rates = open_training_source(config.data)
    examples = open_examples(config, config.data.split, fields, source)
    examples.rates = rates
    classes = None
    if "class_embedding" in fields:
        classes = load_class_embeddings(source_folder(config.data), examples.source)
    check_eval_splits(config)
    examples.source = altered(examples.source, config.data, config.seed)
    if config.data.cache == "decoded":
        pictures = len(examples) * config.data.image_size**2 * examples.source.channels
        check_memory("decoded", "of decoded pictures", pictures)
        examples.keep = True
    if config.eval.online_probe and not examples.source.manifest.class_names:
        fix = "Set --config.eval.online_probe=false."
        raise ConfigError("eval.online_probe", True, "False for a set without class names", fix)
    return Parts(config, data_facts(examples), mesh, classes), examples


def check_eval_splits(config) -> None:
    """Finds out before the first step what the evaluation at the end of the run would stumble over.

    Raises ConfigError, DataError or Problems: a split that is not there or is empty, a shard that is missing, or no
    labels or attributes, which the suite predicts.
    """
    if config.eval.suite == "none":
        return
    folder = source_folder(config.data)  # of mixed sets, evaluations open the first
    splits = read_manifest(folder).splits
    problems: list[UserError] = []
    for key in ("split", "train_split"):
        name = config.eval[key]
        if name not in splits:
            expected = f"a split of the set: {', '.join(splits)}"
            fix = f"{did_you_mean(name, splits)} Set --config.eval.{key}, or --config.eval.suite=none."
            problems.append(ConfigError(f"eval.{key}", name, expected, fix))
        elif not splits[name]["count"]:
            problems.append(no_records(name, folder))
        else:
            problems += _nothing_to_predict(config.eval.suite, open_records(folder, name))
    raise_all(problems, "the splits of the evaluations")


def _nothing_to_predict(suite: str, source: RecordSource) -> Iterator[DataError]:
    manifest, of_split = source.manifest, f"of split {source.split}"
    if suite == "shapes" and not manifest.attributes:
        fix = "Set --config.eval.suite=probe."
        yield DataError(f"attributes {of_split}", "none", "a record set with attributes, one for each factor", fix)
    # A set that names its classes may have labels for a few of its records: only reading all of them would tell.
    if suite == "probe" and not manifest.class_names:
        records = readable(source, spread_places(len(source), LABELS_LOOKED_AT))
        if not any(record["label"] >= 0 for record in records):
            fix = "Set --config.eval.suite=none for a set without labels."
            yield DataError(f"labels {of_split}", "none", "labelled records, which eval.suite = 'probe' predicts", fix)
