"""One of two processes, started by test_multi_process: meets the other, and tells what it saw as JSON.

Arguments: address, number of this process, folder shared by both, folder of its own.
"""

import json
import os
import pathlib
import sys

import jax
import numpy as np
from jax.sharding import AxisType, Mesh

from xsample_jax.config.saved import check_shared, describe_difference
from xsample_jax.distributed import ProcessInfo, allgather_text, barrier, start
from xsample_jax.errors import CheckpointError, ProcessError
from xsample_jax.sharding import AXES, gather_rows, process_rows, to_global


def main(address: str, index: int, shared: pathlib.Path, own: pathlib.Path) -> dict:
    start(ProcessInfo(address, 2, index, "a test"), "{}", describe_difference, seconds=60)
    seen = {"exchanged": allgather_text("words", f"word {index}")}

    # Devices of both processes in turn, as in the order of a network: a process holds rows here and there.
    devices = np.array(jax.devices()).reshape(2, 2).T.reshape(4, 1, 1)
    mesh = Mesh(devices, AXES, axis_types=(AxisType.Auto,) * 3)
    rows = process_rows(mesh, 8)
    data = np.arange(16, dtype=np.float32).reshape(8, 2)
    doubled = jax.jit(lambda x: 2 * x)(to_global({"x": data[rows]}, mesh)["x"])
    gathered = gather_rows({"doubled": doubled, "row": rows.astype(np.int32)}, mesh)
    seen |= {"rows": rows.tolist(), "gathered": {name: value.tolist() for name, value in gathered.items()}}

    check_shared(shared)
    try:
        check_shared(own, seconds=0.5)
    except CheckpointError as error:
        seen["not_shared"] = str(error)
    if index == 0:
        try:
            barrier("a meeting", seconds=0.5)
        except ProcessError as error:
            seen["missing"] = str(error)
        (shared / "gone_on").touch()
    else:
        while not (shared / "gone_on").exists():
            pass
    return seen


if __name__ == "__main__":
    told = main(sys.argv[1], int(sys.argv[2]), pathlib.Path(sys.argv[3]), pathlib.Path(sys.argv[4]))
    pathlib.Path(sys.argv[4] + ".json").write_text(json.dumps(told))
    os._exit(0)
