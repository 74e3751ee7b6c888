"""Adds caption embeddings to a dataset.

    python -m xsample_jax.tools.embed --data=FOLDER [--model=NAME_OR_FOLDER] [--backend=torch]
    python -m xsample_jax.tools.embed --data=FOLDER --vectors=FILE [--key=id]     # your own, in place of captions

Stop it at any time and run it again: it continues with the next shard. --what=classes writes the embeddings of the
class names instead, for the class_text graph. More: docs/captions.md.
"""

import argparse
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from xsample_jax.errors import ConfigError
from xsample_jax.io.paths import as_path
from xsample_jax.tools.cli import add_renamed, local_path, program, run_cli

TEMPLATES = {"captions": "{caption}", "classes": "a photo of a {caption}"}
OF_MODELS = ("model", "template", "device", "dtype")  # flags that say nothing of vectors from a file


def part_of(text: str) -> tuple[int, int]:
    """ "2/8" -> (2, 8)."""
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if not match or int(match[1]) >= int(match[2]):
        raise argparse.ArgumentTypeError(f"{text!r}: expected I/N with 0 <= I < N, as 0/8")
    return int(match[1]), int(match[2])


def encoder_options(backend: str, device: str | None, dtype: str | None) -> dict:
    """Options of the encoder from the flags; ConfigError for a device that is not there."""
    import jax

    if backend == "torch":
        if dtype:
            raise ConfigError("--dtype", dtype, "no type with --backend=torch, which takes that of the model")
        return {"device": device}
    try:
        devices = jax.local_devices(backend=device) if device else None
    except RuntimeError as error:
        there = jax.default_backend()
        raise ConfigError("--device", device, f"a platform of this machine: {there} or cpu", str(error)[:200]) from None
    return {"devices": devices, "dtype": dtype}


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=program("embed"), description=__doc__.split("\n")[0])
    add_renamed(parser, "--data", "--set", required=True, metavar="FOLDER", help="a dataset (with a manifest.json)")
    parser.add_argument("--model", help="name on the hub or folder (default: all-mpnet-base-v2, the paper's)")
    parser.add_argument("--backend", default="jax", choices=["jax", "torch"], help="torch runs any model, CLIP's too")
    parser.add_argument("--what", default="captions", choices=sorted(TEMPLATES), help="default: %(default)s")
    parser.add_argument(
        "--template", help="text with {caption} in it (default: only it; for classes, a photo of a {caption})"
    )
    parser.add_argument("--stored", choices=["float16", "int8"], help="type of a coordinate on disk (default: float16)")
    parser.add_argument("--device", help="cpu, gpu or tpu; torch: cpu, cuda, ... (default: the best there is)")
    parser.add_argument(
        "--dtype", choices=["float32", "bfloat16"], help="of the computation (default: float32 on a CPU)"
    )
    parser.add_argument("--part", type=part_of, metavar="I/N", help="every N-th shard only; join with a run without it")
    parser.add_argument("--overwrite", action="store_true", help="replace embeddings of another model")
    parser.add_argument(
        "--vectors", type=local_path, metavar="FILE", help="a vector for each record: .npz, .parquet, or .npy and .json"
    )
    parser.add_argument("--key", help="what names the rows of --vectors: id (default), label or an attribute")
    return parser


def run(arguments: Sequence[str]) -> None:
    parser = make_parser()
    chosen = parser.parse_args(arguments)
    if chosen.what == "classes" and (chosen.stored or chosen.part):
        parser.error("--stored and --part are for captions: class texts are few, and float16")
    if chosen.key and not chosen.vectors:
        parser.error("--key needs --vectors")
    if chosen.vectors and (flag := next((name for name in OF_MODELS if getattr(chosen, name)), None)):
        parser.error(f"--{flag} is for captions, --vectors brings its own")
    if chosen.vectors and (chosen.what == "classes" or chosen.backend == "torch"):
        parser.error("--vectors are those of the records: without --what=classes and --backend")
    from xsample_jax.captions.embed import CaptionForm, embed_classes, embed_set
    from xsample_jax.captions.encoders import open_encoder
    from xsample_jax.captions.sentence_model import DEFAULT_ENCODER

    template = chosen.template or TEMPLATES[chosen.what]
    options = encoder_options(chosen.backend, chosen.device, chosen.dtype)
    if chosen.vectors:
        from xsample_jax.captions.vectors import VectorFile

        encoder = VectorFile(chosen.vectors, chosen.key or "id")
    else:
        encoder = open_encoder(chosen.model or DEFAULT_ENCODER, chosen.backend, **options)
    if chosen.what == "classes":
        print("classes {} x {}".format(*embed_classes(chosen.data, encoder, template, chosen.overwrite).shape))
        return
    stored = chosen.stored or "float16"
    result = embed_set(
        chosen.data, encoder, CaptionForm(template, stored), overwrite=chosen.overwrite, part=chosen.part
    )
    for line in summary(result, as_path(chosen.data)):
        print(line)


def summary(result, folder: Path) -> Iterator[str]:
    """Yields what to tell the user about an EmbeddedSet."""
    from xsample_jax.captions.embed_state import under_way

    done = f"text encoder {(result.manifest.text_encoder or {}).get('name')}, fingerprint {result.manifest.fingerprint}"
    if result.before:
        yield f"nothing to do: {done}"
        for work in under_way(folder, result.manifest).values():
            yield f"embeddings under way: {work}"
        return
    per = (result.manifest.text_encoder or {}).get("per")
    rows = "records" if per == "record" else "captions"
    yield f"{rows} {result.captions}, of them new and distinct {result.distinct}; records without: {result.without}"
    if result.unread:
        yield (
            f"warning: {result.unread} of the {result.distinct} have no word that this model knows, and all of them "
            "one embedding: take a model of their language (--model)"
        )
    if result.cut:
        longest = (result.manifest.text_encoder or {}).get("max_length", "")
        yield f"{result.cut} reach the most tokens that this model reads ({longest}): what follows is cut off"
    yield done if result.finished else "this part is done; run without --part when all are"


def main(arguments: Sequence[str] | None = None) -> int:
    return run_cli(run, arguments)


if __name__ == "__main__":
    sys.exit(main())
