"""What a checkpoint says besides arrays: how far a run is, as plain numbers that mean the same on any hardware."""

import dataclasses


@dataclasses.dataclass
class Progress:
    """How far a run is.

    Attributes:
      step: updates done (skipped ones count).
      data_position: examples drawn so far; the next batch starts there. It is step * batch_size until a roll-back.
      evaluated: False when the evaluation that was due at this step was cut off, so that a resumed run makes up for it.
      skipped: updates not applied because they were not finite, and how many of the last steps in a row.
      rollbacks: times the run went back to an earlier checkpoint.
    """

    step: int = 0
    data_position: int = 0
    evaluated: bool = True
    skipped: int = 0
    skipped_in_a_row: int = 0
    rollbacks: int = 0
