"""xsample_jax: image encoders trained with X-Sample contrastive learning (X-CLR, arXiv 2407.18134) in JAX.

    xsample_jax.train(config, workdir)       train and evaluate, or resume; returns the metrics
    xsample_jax.load_encoder(workdir)        .encode(images) -> float32 [n, features]
    xsample_jax.evaluate(workdir)            evaluates a run again, or in another way
    xsample_jax.load_config(file)            "configs/quickstart.py:smoke" -> config
    xsample_jax.push_to_hub(workdir, name)   a repository of the Hugging Face hub, with a model card

Importing the package loads none of it (nor jax): that happens at the first use.
"""

import importlib

__version__ = "0.1.0"

_API = {
    "evaluate": "xsample_jax.evals.evaluate",
    "load_config": "xsample_jax.config",
    "load_encoder": "xsample_jax.encoder",
    "push_to_hub": "xsample_jax.reports.model_card",
    "train": "xsample_jax.loop",
}


def __getattr__(name: str):
    if name in _API:
        return getattr(importlib.import_module(_API[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_API])
