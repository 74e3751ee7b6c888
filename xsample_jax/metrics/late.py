"""Metrics one step late: those of a step are fetched when the next one is under way, so that no device waits."""

import dataclasses
from collections.abc import Callable, Mapping

import jax
import numpy as np

from xsample_jax.mesh import fetch_scalars


@dataclasses.dataclass(frozen=True)
class Late:
    """What is kept of a step until it is looked at.

    Attributes:
      step: its number, from 1. data_position: where its batch began.
      metrics: on the device. batch: this process's share, on the host. log: whether its metrics are written.
    """

    step: int
    data_position: int
    metrics: Mapping[str, jax.Array]
    batch: Mapping[str, np.ndarray]
    log: bool


class LateMetrics:
    """Holds one step. `settle` fetches the flag of each step, and the metrics of those that are logged.

    Args:
      write: called with (step, scalars) of steps that are logged, and of those that are not finite.
      judge: called with the step held and its metrics, fetched, when they are not finite; may raise.
    """

    def __init__(self, write: Callable[[int, dict], None], judge: Callable[[Late, dict], None]):
        self._write, self._judge = write, judge
        self._held: Late | None = None

    def hold(self, late: Late) -> None:
        self.settle()
        self._held = late

    def settle(self) -> bool:
        """Looks at the step that is held. Returns False when there was none or it was not finite."""
        late, self._held = self._held, None
        if late is None:
            return False
        finite = bool(jax.device_get(late.metrics["finite"]))
        if late.log or not finite:
            self._write(late.step, fetch_scalars(late.metrics))
        if not finite:
            self._judge(late, jax.device_get(dict(late.metrics)))
        return finite
