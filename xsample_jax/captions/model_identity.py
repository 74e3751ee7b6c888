"""Which model it is, by its weights, wherever they lie."""

import hashlib
from pathlib import Path

from xsample_jax.data.manifest import file_checksum

# The encoder of the X-Sample paper.
DEFAULT_ENCODER = "sentence-transformers/all-mpnet-base-v2"

# SHA-256 of model.safetensors -> official name, so that a copy in any folder is recognised.
KNOWN_WEIGHTS = {
    "78c0197b6159d92658e319bc1d72e4c73a9a03dd03815e70e555c5ef05615658": DEFAULT_ENCODER,
    "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db": "sentence-transformers/all-MiniLM-L6-v2",
}

WEIGHTS = "model.safetensors"


def weight_files(folder: Path) -> list[Path]:
    """The files with weights of a model of any kind, in it and in the folders of its modules (1_Dense), by name.

    Beside safetensors there may be the same weights pickled, which are not read.
    """
    files = [*folder.glob("*"), *folder.glob("*[0-9]_*/**/*")]
    safe = {path.parent for path in files if path.suffix == ".safetensors"}
    pickled = [path for path in files if path.suffix in (".bin", ".pt") and path.parent not in safe]
    return sorted([path for path in files if path.suffix == ".safetensors"] + pickled)


def identify(model: str, folder: Path | None) -> tuple[str, str]:
    """Name and revision of the weights in a folder: their checksum, which a name or a branch would not pin.

    The name is the official one for known weights, else the name on the hub or that of the folder: never a path. The
    checksum of model.safetensors alone is that of the file, of other weights that of their names and checksums. Where
    there are none, or the folder is not known, the revision is "unknown".
    """
    fallback = Path(model).resolve().name if Path(model).is_dir() else model
    checksums = {path.relative_to(folder): file_checksum(path) for path in weight_files(folder)} if folder else {}
    if not checksums:
        return fallback, "unknown"
    checksum = checksums.get(Path(WEIGHTS))
    if checksum is None or len(checksums) > 1:
        lines = "".join(f"{name.as_posix()} {checksum}\n" for name, checksum in checksums.items())
        checksum = hashlib.sha256(lines.encode()).hexdigest()
    return KNOWN_WEIGHTS.get(checksum, fallback), f"sha256:{checksum}"
