"""The dry runs whose output is kept in golden/. Write them anew: python -m tests.launch.cases"""

import pathlib
import subprocess

ROOT = pathlib.Path(__file__).parent.parent.parent
GOLDEN = pathlib.Path(__file__).parent / "golden"

TRAINER = "-- --config=configs/cc12m.py --workdir=gs://lab/runs/cc12m --config.data.path=gs://lab/data/cc12m"
ODD = ["--", "--config=configs/cc12m.py", "--workdir=gs://lab/runs/it's mine", '--config.name=a "b" $HOME; `id`']
SLICE = "--name=xclr --zone=us-west4-a --project=lab"
CLUSTER = "--cluster=lab --zone=us-west4-a --project=lab"

CASES = {
    "tpu_vm_create": f"tpu_vm.sh create {SLICE} --type=v5litepod-64",
    "tpu_vm_create_spot": f"tpu_vm.sh create {SLICE} --type v5litepod-64 --spot --service-account=train@lab.example",
    "tpu_vm_setup": f"tpu_vm.sh setup {SLICE} {TRAINER}",
    "tpu_vm_run": f"tpu_vm.sh run {SLICE} {TRAINER}",
    "tpu_vm_run_odd": [*f"tpu_vm.sh run {SLICE}".split(), *ODD],
    "tpu_vm_status": f"tpu_vm.sh status {SLICE}",
    "tpu_vm_logs": f"tpu_vm.sh logs {SLICE} --worker=3 --lines=50",
    "tpu_vm_stop": f"tpu_vm.sh stop {SLICE}",
    "tpu_vm_delete": "tpu_vm.sh delete --name=xclr --zone=us-west4-a",
    "tpu_vm_state": f"tpu_vm.sh state {SLICE}",
    "queued_create": f"queued.sh create {SLICE} --type=v5litepod-64 {TRAINER}",
    "queued_create_odd": [
        *f"queued.sh create {SLICE} --type=v6e-64 --on-demand".split(), "--version=v2-alpha-tpuv6e", *ODD,
    ],
    "queued_state": f"queued.sh state {SLICE}",
    "queued_delete": f"queued.sh delete {SLICE}",
    "babysit_queued": f"babysit.sh {SLICE} --type=v5litepod-64 {TRAINER}",
    "babysit_wandb": f"babysit.sh {SLICE} --type=v5litepod-64 --wandb-secret=wandb-key {TRAINER}",
    "tpu_vm_setup_wandb": f"tpu_vm.sh setup {SLICE} --wandb-secret=wandb-key {TRAINER}",
    "babysit_tpu_vm": f"babysit.sh {SLICE} --type=v5litepod-64 --via=tpu_vm {TRAINER}",
    "xpk_cluster": f"xpk.sh cluster {CLUSTER} --type=v5litepod-64 --slices=2",
    "xpk_storage": f"xpk.sh storage {CLUSTER} --bucket=lab",
    "xpk_run": f"xpk.sh run {CLUSTER} --name=xclr --type=v5litepod-64 --image=r.example/xsample:1 {TRAINER}",
    "xpk_status": f"xpk.sh status {CLUSTER} --name=xclr",
    "xpk_logs": f"xpk.sh logs {CLUSTER} --name=xclr",
    "xpk_delete": f"xpk.sh delete {CLUSTER} --name=xclr",
    "xpk_delete_cluster": f"xpk.sh delete-cluster {CLUSTER}",
    "gke_run": f"gke.sh run --name=xclr --context=lab --image=r.example/xsample:1 {TRAINER}",
    "gke_run_wandb": f"gke.sh run --name=xclr --image=r.example/xsample:1 --wandb-secret=wandb-key {TRAINER}",
    "gke_run_v6e": [
        *["gke.sh", "run", "--name=xclr", "--image=r.example/xsample:1", "--topology=4x4"],
        *["--accelerator=tpu-v6e-slice", "--slices=2", "--on-demand", "--service-account=train"], *ODD,
    ],
    "gke_status": "gke.sh status --name=xclr",
    "gke_logs": "gke.sh logs --name=xclr --context=lab",
    "gke_delete": "gke.sh delete --name=xclr",
    "gpu_host_run": "gpu_host.sh run --gpus=0,1 -- --config=configs/cc12m.py --workdir=runs/cc12m",
    "gpu_host_start": "gpu_host.sh start -- --config=configs/cc12m.py --workdir=/data/runs/cc12m",
    "gpu_host_stop": "gpu_host.sh stop --workdir=/data/runs/cc12m",
    "gpu_host_logs": "gpu_host.sh logs --workdir=/data/runs/cc12m",
    "slurm": "slurm.sbatch --dry-run --config=configs/cc12m.py --workdir=/shared/runs/cc12m",
}  # fmt: skip


def arguments(case: str) -> list[str]:
    words = CASES[case].split() if isinstance(CASES[case], str) else list(CASES[case])
    if "--dry-run" not in words:
        words.insert(words.index("--") if "--" in words else len(words), "--dry-run")
    return words


def dry_run(case: str, **where) -> subprocess.CompletedProcess:
    script, *words = arguments(case)
    return subprocess.run(["bash", f"launch/{script}", *words], cwd=ROOT, capture_output=True, text=True, **where)


if __name__ == "__main__":
    GOLDEN.mkdir(exist_ok=True)
    for path in GOLDEN.iterdir():
        path.unlink()
    for name in CASES:
        answer = dry_run(name)
        assert answer.returncode == 0, (name, answer.stderr)
        (GOLDEN / f"{name}.txt").write_text(answer.stdout)
