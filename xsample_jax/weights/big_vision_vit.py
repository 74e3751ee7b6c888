"""ViTs of big_vision and vision_transformer (.npz): `Transformer/encoderblock_0/LayerNorm_0/scale`, ..."""

import re
from collections.abc import Mapping

import numpy as np

from xsample_jax.models.vit import ViT
from xsample_jax.weights.name_map import Family, Form, Rule
from xsample_jax.weights.vit_forms import PATCH_FLAX, POSITION, TOKEN

_BLOCK = "Transformer/encoderblock_{0}"
_ATTENTION = f"{_BLOCK}/MultiHeadDotProductAttention_0"
# Names of the same things before 2022, which the published weights of vision_transformer still have.
_OLD = {
    r"Transformer/posembed_input/pos_embedding|Transformer/pos_embedding": "pos_embedding",
    r"(.*/)LayerNorm_2/(.*)": r"\1LayerNorm_1/\2",
    r"(.*/)MultiHeadDotProductAttention_1/(.*)": r"\1MultiHeadDotProductAttention_0/\2",
    r"(.*/)MlpBlock_3/(.*)": r"\1MlpBlock_0/\2",
}


def prepare(theirs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The parameters of the image tower alone, under today's names, one array per block.

    A class token that has no position gets the position 0.
    """
    theirs = {name.removeprefix("params/"): value for name, value in theirs.items() if not name.startswith("opt/")}
    if any(name.startswith("img/") for name in theirs):  # two towers
        theirs = {name.removeprefix("img/"): value for name, value in theirs.items() if name.startswith("img/")}
    if any("/MlpBlock_3/" in name for name in theirs):
        theirs = {_renamed(name): value for name, value in theirs.items()}
    stacked = [name for name in theirs if name.startswith("Transformer/encoderblock/")]
    for name in stacked:  # written by nn.scan: [depth, ...]
        values = theirs.pop(name)
        rest = name.removeprefix("Transformer/encoderblock/")
        theirs |= {f"{_BLOCK.format(block)}/{rest}": value for block, value in enumerate(values)}
    positions = theirs.get("pos_embedding")
    if "cls" in theirs and positions is not None:
        count = positions.shape[1]
        if int(np.sqrt(count)) ** 2 == count:
            theirs["pos_embedding"] = np.concatenate([np.zeros_like(positions[:, :1]), positions], axis=1)
    return theirs


def _renamed(name: str) -> str:
    for pattern, today in _OLD.items():
        if re.fullmatch(pattern, name):
            return re.sub(pattern, today, name)
    return name


def _qkv_weight(width: int, heads: int) -> Form:
    """Theirs: query, key, value [width, heads, size] each."""

    def to_theirs(x):
        parts = x.reshape(width, heads, 3, -1)
        return tuple(parts[:, :, part] for part in range(3))

    return Form(lambda *parts: np.stack(parts, axis=2).reshape(width, -1), to_theirs)


def _qkv_bias(heads: int) -> Form:
    """Theirs: [heads, size] each."""

    def to_theirs(x):
        parts = x.reshape(heads, 3, -1)
        return tuple(parts[:, part] for part in range(3))

    return Form(lambda *parts: np.stack(parts, axis=1).reshape(-1), to_theirs)


def _out_weight(heads: int) -> Form:
    """Theirs: [heads, size, width]."""
    return Form(lambda x: x.reshape(-1, x.shape[-1]), lambda x: (x.reshape(heads, -1, x.shape[-1]),))


def rules(encoder: ViT) -> tuple[Rule, ...]:
    width, heads = encoder.features, encoder.blocks[0].attention.heads
    three = ("query", "key", "value")
    return (
        Rule("patch/kernel", "embedding/kernel", PATCH_FLAX),
        Rule("patch/bias", "embedding/bias"),
        Rule("token", "cls", TOKEN),
        Rule("position", "pos_embedding", POSITION),
        Rule(
            r"blocks/(\d+)/attention/qkv/kernel",
            tuple(f"{_ATTENTION}/{part}/kernel" for part in three),
            _qkv_weight(width, heads),
        ),
        Rule(
            r"blocks/(\d+)/attention/qkv/bias", tuple(f"{_ATTENTION}/{part}/bias" for part in three), _qkv_bias(heads)
        ),
        Rule(r"blocks/(\d+)/attention/out/kernel", f"{_ATTENTION}/out/kernel", _out_weight(heads)),
        Rule(r"blocks/(\d+)/attention/out/bias", f"{_ATTENTION}/out/bias"),
        Rule(r"blocks/(\d+)/mlp/expand/(kernel|bias)", f"{_BLOCK}/MlpBlock_0/Dense_0/{{1}}"),
        Rule(r"blocks/(\d+)/mlp/contract/(kernel|bias)", f"{_BLOCK}/MlpBlock_0/Dense_1/{{1}}"),
        Rule(r"blocks/(\d+)/norm1/(scale|bias)", f"{_BLOCK}/LayerNorm_0/{{1}}"),
        Rule(r"blocks/(\d+)/norm2/(scale|bias)", f"{_BLOCK}/LayerNorm_1/{{1}}"),
        Rule(r"norm/(scale|bias)", "Transformer/encoder_norm/{0}"),
    )


BIG_VISION_VIT = Family(
    "ViT of big_vision (.npz)",
    rules,
    layouts=("big_vision", "big_vision_sincos", "big_vision_token"),
    ignored=r"(head|pre_logits)/.*|txt/.*|t|b",
    refused={
        r"MAPHead_0/.*|probe": "the mean or a class token as features: attention pooling (as SigLIP has it) is not "
        "among our layouts",
    },
    prepare=prepare,
)
