"""Runs xsample_jax.main, with the smallest encoder and no report, and writes down which records each step saw.

The child of tests that need processes of their own.

Arguments: a file for the record (one JSON line per step: ids of this process's rows, ids decoded up to now), then
those of main.
"""

import json
import sys

from xsample_jax import main


def record(path: str) -> None:
    from tests.objectives.synthetic import LinearEncoder
    from xsample_jax import loop
    from xsample_jax.data.dataset import Dataset
    from xsample_jax.evals import features as device_rows
    from xsample_jax.models import towers

    towers.ENCODERS["resnet18"] = lambda config, rngs: LinearEncoder(rngs)
    device_rows.on_devices.__defaults__ = (0, 1)  # galleries are spread over all devices, as large ones are
    read, to_global, example = [], loop.to_global, Dataset._example

    def decoded(self, *arguments):
        found = example(self, *arguments)
        read.append(int(found["id"]))
        return found

    def noted(batch, mesh):
        with open(path, "a") as file:
            file.write(json.dumps({"id": batch["id"].tolist(), "read": read.copy()}) + "\n")
        return to_global(batch, mesh)

    Dataset._example, loop.to_global = decoded, noted
    loop.write_report = lambda runs, path: None  # its figures take longer than the run


if __name__ == "__main__":
    where = sys.argv.pop(1)
    start = main.main

    def recorded(argv, overrides):
        record(where)
        start(argv, overrides)

    main.main = recorded
    main.run()
