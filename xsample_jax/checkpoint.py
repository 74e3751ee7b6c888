"""Checkpoints: state, position in the data, config and metrics in one orbax composite, written in the background."""

import dataclasses
import pathlib

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from xsample_jax.errors import CheckpointError
from xsample_jax.state import TrainState

FORMAT = 1


class Checkpoints:
    """The checkpoints of one run folder. Keeps the newest `keep_latest` and, with a metric, the best `keep_best`."""

    def __init__(self, folder: str | pathlib.Path, options):
        self.metric = options.metric
        policies = [checkpoint_managers.LatestN(options.keep_latest)]
        if options.metric and options.keep_best:
            worst = float("-inf")
            policies.append(
                checkpoint_managers.BestN(get_metric_fn=lambda m: m.get(options.metric, worst), n=options.keep_best)
            )
        # LatestN must be among the policies: orbax' own max_to_keep with a best_fn deletes the newest checkpoint.
        self._manager = ocp.CheckpointManager(
            pathlib.Path(folder).absolute() / "checkpoints",
            item_names=("state", "meta"),
            options=ocp.CheckpointManagerOptions(
                preservation_policy=checkpoint_managers.AnyPreservationPolicy(policies),
                best_fn=(lambda m: m.get(options.metric, float("-inf"))) if options.metric else None,
            ),
        )

    def latest_step(self) -> int | None:
        return self._manager.latest_step()

    def save(self, state: TrainState, step: int, data_position: int, config_json: str, metrics: dict | None = None):
        """Starts writing in the background; the arrays are copied first, so the state may be donated at once.

        Raises CheckpointError when an earlier background write has failed.
        """
        self.check()
        meta = {"format": FORMAT, "data_position": data_position, "config": config_json}
        self._manager.save(
            step,
            args=ocp.args.Composite(state=ocp.args.StandardSave(_as_dict(state)), meta=ocp.args.JsonSave(meta)),
            metrics=metrics or {},
        )

    def restore(self, abstract_state: TrainState, step: int | None = None) -> tuple[TrainState, dict]:
        """(state, meta) of a step (default: the newest) onto the shardings that `abstract_state` carries."""
        step = self.latest_step() if step is None else step
        try:
            saved = self._manager.restore(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardRestore(_as_dict(abstract_state)), meta=ocp.args.JsonRestore()
                ),
            )
        except (ValueError, KeyError) as error:
            raise CheckpointError(
                "checkpoint",
                f"step {step} of {self._manager.directory}",
                f"the parameters and optimiser state of this config; orbax says: {error}",
                "Use the config the run was started with (config.json in its folder), or another --workdir.",
            ) from error
        if saved["meta"]["format"] != FORMAT:
            raise CheckpointError("checkpoint format", saved["meta"]["format"], f"{FORMAT}", "Use a matching version.")
        return TrainState(**saved["state"]), saved["meta"]

    def check(self) -> None:
        """Raises CheckpointError when a write in the background has failed."""
        try:
            self._manager.check_for_errors()
        except Exception as error:
            raise CheckpointError(
                "checkpoint write", str(error), "a write that succeeds", "Is the disk full?"
            ) from error

    def wait(self) -> None:
        self._manager.wait_until_finished()
        self.check()

    def close(self) -> None:
        self._manager.close()


def _as_dict(state: TrainState) -> dict:
    return {field.name: getattr(state, field.name) for field in dataclasses.fields(state)}


def with_shardings(abstract_state: TrainState, shardings) -> TrainState:
    """Shapes and dtypes that also say where each array goes."""
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        abstract_state,
        shardings,
    )
