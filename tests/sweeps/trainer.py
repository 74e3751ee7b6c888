"""Stands for python -m xsample_jax.main in a sweep: writes the files of a run, waits, fails or is killed as told.

PLAN is a JSON file {name of the point: {"code": exit code, "seconds": ..., "once": only at the first start,
"silent": as long again before its first step}}.
"""

import json
import os
import pathlib
import signal
import sys
import time

flags = dict(argument.lstrip("-").split("=", 1) for argument in sys.argv[1:] if argument.startswith("--"))
folder = pathlib.Path(flags["workdir"])
plan = json.loads(pathlib.Path(os.environ["PLAN"]).read_text()).get(folder.name, {})
folder.mkdir(parents=True, exist_ok=True)
starts = folder / "starts"
first = not starts.exists()
with starts.open("a") as file:
    file.write(f"{time.time()} {os.environ.get('CUDA_VISIBLE_DEVICES', '')}\n")


def stop(*_):
    (folder / "saved").touch()
    sys.exit(75)


signal.signal(signal.SIGTERM, stop)
if plan.get("silent"):
    time.sleep(plan["seconds"])
with (folder / "metrics.jsonl").open("a") as file:
    file.write(json.dumps({"step": len(starts.read_text().split("\n")) - 1, "loss": 2.5}) + "\n")
time.sleep(plan.get("seconds", 0))
if plan.get("code") and (first or not plan.get("once")):
    if plan["code"] < 0:
        os.kill(os.getpid(), -plan["code"])
    sys.exit(plan["code"])
(folder / "evaluation.json").write_text(json.dumps({"label/knn": 0.25 + int(flags["config.seed"])}))
with (folder / "starts").open("a") as file:
    file.write(f"{time.time()} end\n")
