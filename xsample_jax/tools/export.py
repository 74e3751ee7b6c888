"""Writes the encoder of a run, or the whole model, for use elsewhere.

    python -m xsample_jax.tools.export --run=runs/mine --format=safetensors --out=encoder.safetensors
    python -m xsample_jax.tools.export --run=runs/mine --format=jax_export --out=encoder.jax
    python -m xsample_jax.tools.export --run=runs/clip --format=open_clip --out=FOLDER
    python -m xsample_jax.tools.export --run=runs/mine --push=ORGANIZATION/NAME

safetensors: names of timm (or open_clip), for torch and for `model.init_from`. jax_export: StableHLO with the weights
in it, for any jax. onnx: for ONNX Runtime and others (extra onnx). npz: for `xsample_jax.load_encoder`. open_clip:
image and text side, as a folder. hub: a folder as the Hugging Face hub has it, with a model card; --push uploads it.
More: docs/weights.md.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from xsample_jax.io.paths import as_path, local_copy_of
from xsample_jax.tools.cli import add_renamed, check_out, local_path, program, run_cli

FORMATS = ("safetensors", "jax_export", "onnx", "npz", "open_clip", "hub")


def export(
    checkpoint: str,
    form: str,
    out: str | Path,
    step: int | None = None,
    slim: bool = False,
    repository: str | None = None,
) -> str:
    """Writes `out` and returns in words how to use it. Raises CheckpointError.

    slim: the thin network of the run. repository: of hub, the name that the folder will have there.
    """
    if form == "hub":
        from xsample_jax.reports.model_card import write_repository

        return f"{out}\n{write_repository(checkpoint, out, step, repository=repository)}"
    from xsample_jax.encoder import load_encoder
    from xsample_jax.export import export_jax, export_npz, export_onnx, export_open_clip, export_safetensors
    from xsample_jax.weights.hub import LAYOUT_FILES, check_replaceable

    if form == "open_clip":
        check_replaceable(as_path(out), LAYOUT_FILES)
    encoder = load_encoder(checkpoint, step, slim)
    if form == "open_clip":  # a folder
        return f"{encoder.config.name}, step {encoder.step}: {out}\n{export_open_clip(encoder, out)}"
    write = {"safetensors": export_safetensors, "jax_export": export_jax, "onnx": export_onnx, "npz": export_npz}[form]
    with local_copy_of(out) as local:
        use = write(encoder, local)
    return f"{encoder.config.name}, step {encoder.step}: {out}\n{use}"


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=program("export"), description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_renamed(parser, "--run", "--checkpoint", required=True, metavar="RUN", help="run folder (its --workdir)")
    parser.add_argument("--step", type=int, help="of which checkpoint (default: the newest)")
    parser.add_argument("--format", choices=FORMATS)
    parser.add_argument("--out", type=local_path, metavar="FILE", help="a folder for open_clip and hub")
    parser.add_argument("--push", metavar="ORGANIZATION/NAME", help="upload as this repository of the Hugging Face hub")
    parser.add_argument(
        "--repository", metavar="ORGANIZATION/NAME", help="of --format=hub, where the folder will be uploaded later"
    )
    parser.add_argument("--public", action="store_true", help="a new repository is not private")
    parser.add_argument("--slim", action="store_true", help="the thin network of a run that trains one (sacl_xd)")
    return parser


def run(arguments: Sequence[str]) -> None:
    parser = make_parser()
    chosen = parser.parse_args(arguments)
    if chosen.push is not None:
        if chosen.out or chosen.slim or chosen.repository or chosen.format not in (None, "hub"):
            parser.error("--push goes without --out, --repository and --slim, and its format is hub")
        from xsample_jax.reports.model_card import push_to_hub

        print(push_to_hub(chosen.run, chosen.push, chosen.step, private=not chosen.public))
        return
    if chosen.format is None or chosen.out is None:
        parser.error("the following arguments are required: --format and --out, or --push")
    if chosen.slim and chosen.format in ("open_clip", "hub"):
        parser.error(f"--slim goes without --format={chosen.format}, which has the whole model")
    if chosen.repository is not None and chosen.format != "hub":
        parser.error("--repository goes with --format=hub alone")
    folder = chosen.format in ("open_clip", "hub")
    check_out(chosen.out, folder, parents=folder)
    print(export(chosen.run, chosen.format, chosen.out, chosen.step, chosen.slim, chosen.repository))


def main(arguments: Sequence[str] | None = None) -> int:
    return run_cli(run, arguments)


if __name__ == "__main__":
    sys.exit(main())
