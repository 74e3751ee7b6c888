"""Weights & Biases as one more place where numbers go (extra `wandb`, `log.wandb`)."""

import uuid
from collections.abc import Callable, Mapping
from pathlib import Path

from xsample_jax.errors import ConfigError

RUN_ID = "wandb_id.txt"


class WandbWriter:
    """Sends the numbers of a step to a W&B run; WANDB_MODE=offline keeps them in <run folder>/wandb.

    A resumed run goes on in the same W&B run, whose id is kept in the run folder. Steps that were logged before a kill
    and are done again are ignored by W&B; their numbers are the same.

    Args:
      project: W&B project.
      folder: run folder.
      name: of the run.
      config: what W&B shows as the config of the run.

    Raises:
      ConfigError: the package wandb is not installed.
    """

    def __init__(self, project: str, folder: str | Path, name: str, config: Mapping[str, object]):
        try:
            import wandb
        except ImportError as error:
            raise ConfigError(
                "log.wandb",
                project,
                "the package wandb, or None",
                "Install it with pip install 'xsample_jax[wandb]', or set --config.log.wandb=None.",
            ) from error
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / RUN_ID
        if not path.exists():
            path.write_text(uuid.uuid4().hex)
        self._run = wandb.init(
            project=project, name=name, dir=str(folder), id=path.read_text(), resume="allow", config=dict(config)
        )

    def write(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log({name: float(value) for name, value in values.items()}, step=int(step))

    def close(self) -> None:
        self._run.finish()


def wandb_writer(config, folder: str | Path) -> Callable[[], WandbWriter] | None:
    """What opens the writer that a config asks for; None where `log.wandb` is."""
    project = config.log.wandb
    return None if project is None else lambda: WandbWriter(project, folder, config.name, config.to_dict())
