"""From a config to a run that can start: its training split opened, and its parts."""

from jax.sharding import Mesh

from xsample_jax.class_embeddings import load_class_embeddings
from xsample_jax.data.altered import altered
from xsample_jax.data.manifest import Manifest
from xsample_jax.data.pipeline import Examples
from xsample_jax.data.sources import check_memory, open_training_source, source_folder
from xsample_jax.data_facts import data_facts
from xsample_jax.errors import ConfigError, did_you_mean, raise_all
from xsample_jax.examples import open_examples
from xsample_jax.kernel_fit import check_kernels
from xsample_jax.mesh import make_mesh
from xsample_jax.objectives.build import build_objective
from xsample_jax.parts import Parts


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
    check_eval_splits(config, examples.source.manifest)
    examples.source = altered(examples.source, config.data, config.seed)
    if config.data.cache == "decoded":
        pictures = len(examples) * config.data.image_size**2 * examples.source.channels
        check_memory("decoded", "of decoded pictures", pictures)
        examples.keep = True
    if config.eval.online_probe and not examples.source.manifest.class_names:
        fix = "Set --config.eval.online_probe=false."
        raise ConfigError("eval.online_probe", True, "False for a set without class names", fix)
    return Parts(config, data_facts(examples), mesh, classes), examples


def check_eval_splits(config, manifest: Manifest) -> None:
    """Raises ConfigError for the splits that an evaluation at the end of the run would ask for and the set lacks."""
    if config.eval.suite == "none" or config.data.mix:  # of mixed sets, evaluations open the first
        return
    splits = list(manifest.splits)
    problems = [
        ConfigError(
            f"eval.{name}",
            config.eval[name],
            f"a split of the set: {', '.join(splits)}",
            f"{did_you_mean(config.eval[name], splits)} Set --config.eval.{name}, or --config.eval.suite=none.",
        )
        for name in ("split", "train_split")
        if config.eval[name] not in splits
    ]
    raise_all(problems, "the splits of the evaluations")
