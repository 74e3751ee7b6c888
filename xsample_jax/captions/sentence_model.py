"""A model folder as sentence-transformers saves it: its files, its configuration, its tokenizer."""

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from xsample_jax.data.records import file_checksum
from xsample_jax.errors import DataError

# Which model it is, by its weights, wherever they lie.


# The encoder of the X-Sample paper.
DEFAULT_ENCODER = "sentence-transformers/all-mpnet-base-v2"

# SHA-256 of model.safetensors -> official name, so that a copy in any folder is recognized.
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


SETTINGS = "sentence_bert_config.json"
POOLINGS = ("mean", "cls")
OTHERWISE = "Use --backend=torch, which runs whatever sentence-transformers runs (extra `text`)."

# What config.json has to say: where a key lacks, its library takes a default that depends on the family.
KEYS = {
    **dict.fromkeys(("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"), int),
    **dict.fromkeys(("vocab_size", "max_position_embeddings"), int),
    "hidden_act": str,
    "layer_norm_eps": float,
}
ZERO = ("pad_token_id", "layer_norm_eps")  # which may be 0
LARGEST, MOST_LAYERS = 1 << 24, 1000
FAMILIES = {
    "bert": KEYS | {"type_vocab_size": int},
    "mpnet": KEYS | {"pad_token_id": int, "relative_attention_num_buckets": int},
}


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

    def count_known(self, texts: Sequence[str]) -> np.ndarray:
        """int [n, 2]: tokens that say something (neither special nor unknown), and all tokens of each text."""
        unknown = getattr(self.tokenizer.model, "unk_token", None)
        counts = np.zeros((len(texts), 2), np.int64)
        for place, text in enumerate(texts):
            encoding = self.tokenizer.encode(text.lower() if self.lower_case else text)
            words = [
                token
                for token, special in zip(encoding.tokens, encoding.special_tokens_mask, strict=True)
                if not special and token != unknown
            ]
            counts[place] = len(words), len(encoding.ids)
        return counts


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
    config = _config(path)
    pooling = _pooling(path)
    prompt = _read(path, "config_sentence_transformers.json", {}).get("default_prompt_name")
    if prompt:
        raise DataError(f"default_prompt_name of {path}", prompt, "a model without a default prompt", OTHERWISE)
    max_length = _max_length(path, config)
    lower_case = bool(_read(path, SETTINGS, {}).get("do_lower_case", False))
    return SentenceFolder(path, config, pooling, max_length, lower_case, _tokenizer(path, config, max_length))


def _read(path: Path, name: str, default: dict | None = None, kind: type = dict):
    file = path / name
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if default is not None:
            return default
        fix = "Give a folder that SentenceTransformer.save wrote, or that was downloaded whole."
        raise DataError("model", str(file), "an existing file", fix) from None
    except (OSError, ValueError, RecursionError) as error:
        raise DataError("model", str(file), f"JSON ({str(error)[:200]})", "Fetch the model again.") from None
    if not isinstance(found, kind):
        raise DataError("model", str(file), f"a {kind.__name__} in JSON, not {found!r:.80}", "Fetch the model again.")
    return found


def _config(path: Path) -> dict:
    config = _read(path, "config.json")
    if config.get("model_type") not in tuple(FAMILIES):  # which a list may be looked for in
        raise DataError(f"model_type of {path}", config.get("model_type"), f"one of {', '.join(FAMILIES)}", OTHERWISE)
    for key, kind in FAMILIES[config["model_type"]].items():
        value = config.get(key)
        if not isinstance(value, (int, float) if kind is float else kind) or isinstance(value, bool):
            raise DataError(f"{key} in {path / 'config.json'}", value, f"a value ({kind.__name__})", OTHERWISE)
        most = MOST_LAYERS if key == "num_hidden_layers" else LARGEST
        if kind is not str and not (key not in ZERO) <= value <= most:
            raise DataError(f"{key} in {path / 'config.json'}", value, "a size that models have", OTHERWISE)
    if config["hidden_size"] % config["num_attention_heads"]:
        found, expected = config["num_attention_heads"], f"a divisor of hidden_size, {config['hidden_size']}"
        raise DataError(f"num_attention_heads in {path / 'config.json'}", found, expected, OTHERWISE)
    if config.get("is_decoder"):
        raise DataError(f"is_decoder in {path / 'config.json'}", True, "an encoder, which sees all tokens", OTHERWISE)
    return config


def _pooling(path: Path) -> str:
    """How token vectors become one, where that is all that comes after the transformer."""
    modules = _read(path, "modules.json", kind=list)
    try:
        kinds = {entry["type"].rsplit(".", 1)[-1]: entry["path"] for entry in modules}
    except (KeyError, TypeError, AttributeError):
        raise DataError(f"modules.json of {path}", modules, "a type and a path in each entry", OTHERWISE) from None
    if list(kinds) not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]):
        raise DataError(f"modules.json of {path}", list(kinds), "Transformer, Pooling and perhaps Normalize", OTHERWISE)
    if kinds["Transformer"]:
        expected = "the transformer in the folder itself"
        raise DataError(f"modules.json of {path}", kinds["Transformer"], expected, OTHERWISE)
    settings = _read(path, f"{kinds['Pooling']}/config.json")
    modes = settings.get("pooling_mode")  # newer folders name it, older ones have a switch for each
    if modes is None:
        switches = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls"}
        chosen = [key for key, on in settings.items() if key.startswith("pooling_mode_") and on is True]
        modes = [switches.get(key, key) for key in chosen]
    modes = modes if isinstance(modes, list) else [modes]
    if len(modes) != 1 or modes[0] not in POOLINGS:
        raise DataError(f"pooling of {path}", modes, f"one of {', '.join(POOLINGS)}", OTHERWISE)
    return modes[0]


def _max_length(path: Path, config: dict) -> int:
    """Tokens that the library cuts a text to: as the model says, or as many as have positions."""
    others = sorted(file.name for file in path.glob("sentence_*_config.json"))  # names of old versions
    if others and SETTINGS not in others:
        raise DataError(f"settings of {path}", others[0], SETTINGS, OTHERWISE)
    positions = config["max_position_embeddings"] - (2 if config["model_type"] == "mpnet" else 0)
    own = _read(path, SETTINGS, {}).get("max_seq_length")
    own = own or _read(path, "tokenizer_config.json", {}).get("model_max_length") or positions
    if not isinstance(own, (int, float)) or not 2 <= min(own, positions) <= WIDTHS[-1]:
        raise DataError(f"max_seq_length of {path}", own, f"a number from 2 to {WIDTHS[-1]}", OTHERWISE)
    return int(min(own, positions))


def _tokenizer(path: Path, config: dict, max_length: int) -> Tokenizer:
    file = path / "tokenizer.json"
    try:
        text = file.read_text(encoding="utf-8")
        tokenizer = Tokenizer.from_str(text)
    except Exception as error:  # the library raises bare Exception for what it cannot parse
        raise DataError("tokenizer", str(file), f"a saved tokenizer ({str(error)[:200]})", OTHERWISE) from error
    largest = max(tokenizer.get_vocab().values(), default=0)
    if largest >= config["vocab_size"]:
        raise DataError(f"largest token of {file}", largest, f"less than vocab_size, {config['vocab_size']}", OTHERWISE)
    normalizer = json.loads(text).get("normalizer") or {}  # as the library has parsed it: an object or null
    steps = [normalizer, *normalizer.get("normalizers", [])]
    lowers = any(step.get("type") == "Lowercase" or step.get("lowercase") for step in steps)
    said = _read(path, "tokenizer_config.json", {}).get("do_lower_case", lowers)
    if said != lowers:  # which of the two counts depends on the version of the library
        where = f"do_lower_case in {path / 'tokenizer_config.json'}"
        raise DataError(where, said, f"{lowers}, as {file.name} does", OTHERWISE)
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_length)
    return tokenizer


WIDTHS = (128, 256, 512)
