"""A model folder as sentence-transformers saves it: where it lies, what it is, its tokenizer."""

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from tokenizers import Tokenizer

from xsample_jax.captions.packing import WIDTHS
from xsample_jax.data.manifest import file_checksum
from xsample_jax.errors import DataError

# The encoder of the X-Sample paper.
DEFAULT_ENCODER = "sentence-transformers/all-mpnet-base-v2"

# SHA-256 of model.safetensors -> official name, so that a copy in any folder is recognised.
KNOWN_WEIGHTS = {
    "78c0197b6159d92658e319bc1d72e4c73a9a03dd03815e70e555c5ef05615658": DEFAULT_ENCODER,
    "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db": "sentence-transformers/all-MiniLM-L6-v2",
}

WEIGHTS = "model.safetensors"
FAMILIES = ("bert", "mpnet")
POOLINGS = ("mean", "cls")
OTHERWISE = "Use --backend=torch, which runs whatever sentence-transformers runs (extra `text`)."


@dataclasses.dataclass(frozen=True)
class SentenceFolder:
    """What a folder says about its model.

    Attributes:
      path: the folder with config.json and the weights.
      config: config.json of the transformer.
      pooling: how token vectors become one: "mean" or "cls".
      max_length: tokens that a text is cut to, with start and end.
      lower_case: texts are lower-cased before they are tokenized.
      tokenizer: cuts to max_length and does not pad.
    """

    path: Path
    config: dict
    pooling: str
    max_length: int
    lower_case: bool
    tokenizer: Tokenizer

    def tokenize(self, texts: Sequence[str], chunk: int = 4096) -> Iterator[list[int]]:
        """Yields the token ids of each text, with the start and end tokens."""
        for start in range(0, len(texts), chunk):
            part = [text.lower() if self.lower_case else text for text in texts[start : start + chunk]]
            for encoding in self.tokenizer.encode_batch_fast(part):
                yield encoding.ids


def find_folder(model: str) -> Path:
    """The folder of a model: `model` itself, or a copy of the hub's model of that name (fetched if there is a network).

    Raises DataError when there is neither.
    """
    if Path(model).is_dir():
        return Path(model)
    from huggingface_hub import snapshot_download  # comes with tokenizers

    try:
        return Path(snapshot_download(model, allow_patterns=["*.json", "*/config.json", WEIGHTS, "vocab.txt"]))
    except (OSError, ValueError) as error:  # no network, no such name, not a name
        fix = "Give a folder with a downloaded model, or a name of the hub and a network."
        raise DataError("model", model, f"a sentence-transformers model ({str(error)[:200]})", fix) from error


def read_folder(path: Path) -> SentenceFolder:
    """Reads everything but the weights; DataError names the file and what in it we do not run."""
    config = _read(path, "config.json")
    if config.get("model_type") not in FAMILIES:
        raise DataError(f"model_type of {path}", config.get("model_type"), f"one of {', '.join(FAMILIES)}", OTHERWISE)
    kinds = {entry["type"].rsplit(".", 1)[-1]: entry["path"] for entry in _read(path, "modules.json")}
    if list(kinds) not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]):
        raise DataError(f"modules.json of {path}", list(kinds), "Transformer, Pooling and perhaps Normalize", OTHERWISE)
    if kinds["Transformer"]:
        expected = "the transformer in the folder itself"
        raise DataError(f"modules.json of {path}", kinds["Transformer"], expected, OTHERWISE)
    prompt = _read(path, "config_sentence_transformers.json", {}).get("default_prompt_name")
    if prompt:
        raise DataError(f"default_prompt_name of {path}", prompt, "a model without a default prompt", OTHERWISE)
    settings = _read(path, "sentence_bert_config.json", {})
    positions = config["max_position_embeddings"] - (2 if config["model_type"] == "mpnet" else 0)
    own = settings.get("max_seq_length") or _read(path, "tokenizer_config.json", {}).get("model_max_length")
    max_length = int(min(own or positions, positions, WIDTHS[-1]))
    return SentenceFolder(
        path,
        config,
        _pooling(path, _read(path, f"{kinds['Pooling']}/config.json")),
        max_length,
        bool(settings.get("do_lower_case", False)),
        _tokenizer(path, max_length),
    )


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


def _read(path: Path, name: str, default: dict | None = None) -> dict:
    file = path / name
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if default is not None:
            return default
        fix = "Give a folder that SentenceTransformer.save wrote, or that was downloaded whole."
        raise DataError("model", str(file), "an existing file", fix) from None
    except ValueError as error:
        raise DataError("model", str(file), f"JSON ({error})", "Fetch the model again.") from None


def _pooling(path: Path, settings: dict) -> str:
    modes = settings.get("pooling_mode")  # newer folders name it, older ones have a switch for each
    if modes is None:
        switches = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls"}
        chosen = [key for key, on in settings.items() if key.startswith("pooling_mode_") and on is True]
        modes = [switches.get(key, key) for key in chosen]
    modes = [modes] if isinstance(modes, str) else list(modes)
    if len(modes) != 1 or modes[0] not in POOLINGS:
        raise DataError(f"pooling of {path}", modes, f"one of {', '.join(POOLINGS)}", OTHERWISE)
    return modes[0]


def _tokenizer(path: Path, max_length: int) -> Tokenizer:
    file = path / "tokenizer.json"
    try:
        tokenizer = Tokenizer.from_str(file.read_text(encoding="utf-8"))
    except Exception as error:  # the library raises bare Exception for what it cannot parse
        raise DataError("tokenizer", str(file), f"a saved tokenizer ({str(error)[:200]})", OTHERWISE) from error
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_length)
    return tokenizer
