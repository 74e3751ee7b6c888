"""Families of weights, by the library whose names a file uses: `model.init_family`."""

import re
from collections.abc import Mapping

import numpy as np
from flax import nnx

from xsample_jax.distributed import log_info
from xsample_jax.models.layers import SWIGLU
from xsample_jax.models.towers import ENCODERS, TextTower
from xsample_jax.models.vit import ViT, sincos_positions
from xsample_jax.state import to_flat
from xsample_jax.weights.convolutional import CONVNEXT, RESNET
from xsample_jax.weights.files import read_weights
from xsample_jax.weights.hub import check_fits, find_published
from xsample_jax.weights.name_map import (
    DENSE,
    DENSE_HALVES,
    HALVES,
    PATCH,
    PATCH_FLAX,
    POSITION,
    ROWS,
    TOKEN,
    Family,
    Form,
    Rule,
    qkv_bias,
    qkv_weight,
    to_ours,
)

# timm's VisionTransformer: `blocks.0.attn.qkv.weight`, `blocks.0.norm1.weight`, ...; DeiT, DINO and MAE share them.


_TIMM_POOL = {"query": "q", "key_value": "kv", "out": "proj", "mlp/expand": "mlp.fc1", "mlp/contract": "mlp.fc2"}
_TIMM_LAYERS = {"attention/out": "attn.proj", "mlp/expand": "mlp.fc1", "mlp/contract": "mlp.fc2"}


def _timm_blocks(encoder: ViT) -> tuple[Rule, ...]:
    """What timm's VisionTransformer and its ViTs with rotary positions share."""
    return (
        Rule("patch/kernel", "patch_embed.proj.weight", PATCH),
        Rule("patch/bias", "patch_embed.proj.bias"),
        Rule("token", "cls_token", TOKEN),
        Rule("registers", "reg_token", POSITION),
        Rule(
            r"blocks/(\d+)/attention/qkv/kernel",
            "blocks.{0}.attn.qkv.weight",
            qkv_weight(encoder.blocks[0].attention.heads),
        ),
        Rule(r"blocks/(\d+)/norm(\d)/scale", "blocks.{0}.norm{1}.weight"),
        Rule(r"blocks/(\d+)/norm(\d)/bias", "blocks.{0}.norm{1}.bias"),
        Rule("norm/scale", "norm.weight"),
        Rule("norm/bias", "norm.bias"),
    )


def _timm_layers(layers: Mapping[str, str]) -> tuple[Rule, ...]:
    """The rules of linear maps in the blocks, {ours: timm's}."""
    return (
        *(Rule(rf"blocks/(\d+)/{ours}/kernel", f"blocks.{{0}}.{name}.weight", DENSE) for ours, name in layers.items()),
        *(Rule(rf"blocks/(\d+)/{ours}/bias", f"blocks.{{0}}.{name}.bias") for ours, name in layers.items()),
    )


def timm_vit_rules(encoder: ViT) -> tuple[Rule, ...]:
    return (
        *_timm_blocks(encoder),
        Rule("position", "pos_embed", POSITION),
        Rule(
            r"blocks/(\d+)/attention/qkv/bias", "blocks.{0}.attn.qkv.bias", qkv_bias(encoder.blocks[0].attention.heads)
        ),
        *_timm_layers(_TIMM_LAYERS),
        Rule(r"blocks/(\d+)/scale(\d)", "blocks.{0}.ls{1}.gamma"),
        Rule("pool/probe", "attn_pool.latent", POSITION),
        Rule("pool/norm/scale", "attn_pool.norm.weight"),
        Rule("pool/norm/bias", "attn_pool.norm.bias"),
        *(Rule(f"pool/{ours}/kernel", f"attn_pool.{name}.weight", DENSE) for ours, name in _TIMM_POOL.items()),
        *(Rule(f"pool/{ours}/bias", f"attn_pool.{name}.bias") for ours, name in _TIMM_POOL.items()),
    )


def timm_dinov3_rules(encoder: ViT) -> tuple[Rule, ...]:
    """SwiGLU is packed in timm's DINOv2 and in two maps in its DINOv3."""
    attention, mlp = ("blocks.{0}.attn.q_bias", "blocks.{0}.attn.v_bias"), "blocks.{0}.mlp"
    gated = encoder.blocks[0].mlp.activation == SWIGLU
    layers = {ours: name for ours, name in _TIMM_LAYERS.items() if not (gated and ours == "mlp/expand")}
    pair = (f"{mlp}.fc1_g", f"{mlp}.fc1_x")
    halves = (
        Rule(r"blocks/(\d+)/mlp/expand/kernel", tuple(f"{name}.weight" for name in pair), DENSE_HALVES),
        Rule(r"blocks/(\d+)/mlp/expand/bias", tuple(f"{name}.bias" for name in pair), HALVES),
    )
    return (
        *_timm_blocks(encoder),
        Rule(r"blocks/(\d+)/attention/query_value_bias", attention, ROWS),
        *_timm_layers(layers),
        *(halves if gated else ()),
        Rule(r"blocks/(\d+)/scale(\d)", "blocks.{0}.gamma_{1}"),
    )


def constants(encoder: ViT) -> dict:
    """The fixed table of positions, which timm keeps as a parameter."""
    if encoder.position is not None:
        return {}
    rows = encoder.image_size // encoder.patch_size
    return {"pos_embed": sincos_positions(rows, rows, encoder.features)[None]}


TIMM_VIT = Family(
    "ViT of timm",
    timm_vit_rules,
    layouts=(
        "big_vision",
        "big_vision_sincos",
        "big_vision_token",
        "deit3",
        "dinov2",
        "dinov2_reg",
        "plain",
        "siglip",
        "timm",
    ),
    ignored=r"head\.(weight|bias)|mask_token",
    constants=constants,
    position="pos_embed",
    refused={
        r"fc_norm\..*": "the norm before the pooling (timm's fc_norm=False): none of our layouts averages first",
        r"norm_pre\..*": "no norm before the blocks: weights of CLIP are of the family open_clip_vit",
        r"dist_token|head_dist\..*": "one class token, no distillation token",
        r"reg_token": "register tokens only in the layout dinov2_reg, and four of them",
        r"blocks\.\d+\.gamma_\d|blocks\.\d+\.attn\.[qv]_bias": "no rotary positions: these are weights of the family "
        "timm_dinov3",
        r"attn_pool\..*": "attention pooling only in the layout siglip",
        r"blocks\.\d+\.ls\d\.gamma": "LayerScale only in the layouts dinov2, dinov2_reg and deit3",
        r"blocks\.\d+\.attn\.[qk]_norm\..*": "plain attention, without norms of queries and keys",
        r"blocks\.\d+\.mlp\.w(12|3)\..*": "names of timm (mlp.fc1), not those of DINOv2's repository",
    },
)
TIMM_DINOV3 = Family(
    "DINOv3 ViT of timm",
    timm_dinov3_rules,
    layouts=("dinov3", "dinov3_qkvb"),
    ignored=r"head\.(weight|bias)",
    refused={
        r"blocks\.\d+\.attn\.[qv]_bias": "biases of queries and values only in the layout dinov3_qkvb",
        r"storage_tokens|mask_token|rope_embed\..*|blocks\.\d+\.(ls\d\.gamma|attn\.qkv\.bias(_mask)?)": "names of "
        "timm, not those of DINOv3's repository",
        r"blocks\.\d+\.mlp\.fc1_[gx]\..*": "an MLP with GELU: vit_splus and vit_hplus have SwiGLU",
        r"pos_embed": "rotary positions only",
    },
)


# The image tower of open_clip and of OpenAI's CLIP, `visual.transformer.resblocks.0.attn.in_proj_weight`, ...
#
# Our features are the normalized state of the class token: what CLIP's own linear probes use. `visual.proj`, which maps
# it into the space of the text tower, is left out, and so is the text tower.


_OPEN_CLIP_LAYERS = {"attention/out": "attn.out_proj", "mlp/expand": "mlp.c_fc", "mlp/contract": "mlp.c_proj"}


def _open_clip_blocks(heads: int, prefix: str) -> tuple[Rule, ...]:
    """The rules of the blocks of a tower whose names begin with `prefix`."""
    block = f"{prefix}transformer.resblocks.{{0}}"
    return (
        Rule(r"blocks/(\d+)/attention/qkv/kernel", f"{block}.attn.in_proj_weight", qkv_weight(heads)),
        Rule(r"blocks/(\d+)/attention/qkv/bias", f"{block}.attn.in_proj_bias", qkv_bias(heads)),
        *(
            Rule(rf"blocks/(\d+)/{ours}/kernel", f"{block}.{name}.weight", DENSE)
            for ours, name in _OPEN_CLIP_LAYERS.items()
        ),
        *(Rule(rf"blocks/(\d+)/{ours}/bias", f"{block}.{name}.bias") for ours, name in _OPEN_CLIP_LAYERS.items()),
        Rule(r"blocks/(\d+)/norm(\d)/scale", f"{block}.ln_{{1}}.weight"),
        Rule(r"blocks/(\d+)/norm(\d)/bias", f"{block}.ln_{{1}}.bias"),
    )


def open_clip_vit_rules(encoder: ViT) -> tuple[Rule, ...]:
    return (
        Rule("patch/kernel", "visual.conv1.weight", PATCH),
        Rule("token", "visual.class_embedding"),
        Rule("position", "visual.positional_embedding"),
        Rule("norm_first/scale", "visual.ln_pre.weight"),
        Rule("norm_first/bias", "visual.ln_pre.bias"),
        *_open_clip_blocks(encoder.blocks[0].attention.heads, "visual."),
        Rule("norm/scale", "visual.ln_post.weight"),
        Rule("norm/bias", "visual.ln_post.bias"),
    )


def open_clip_text_rules(text: TextTower) -> tuple[Rule, ...]:
    return (
        Rule("tokens/embedding", "token_embedding.weight"),
        Rule("position", "positional_embedding"),
        *_open_clip_blocks(text.blocks[0].attention.heads, ""),
        Rule("norm/scale", "ln_final.weight"),
        Rule("norm/bias", "ln_final.bias"),
        Rule("out/kernel", "text_projection"),  # they multiply from the right, too
    )


# Written only (export_open_clip): no run starts from a text tower alone.
OPEN_CLIP_TEXT = Family("text tower of open_clip", open_clip_text_rules, kind="text")
OPEN_CLIP_VIT = Family(
    "ViT image tower of open_clip or OpenAI's CLIP",
    open_clip_vit_rules,
    layouts=("open_clip", "openai_clip"),
    position="visual.positional_embedding",
    ignored=r"(?!visual\.).*|visual\.proj",
    refused={
        r"visual\.(attnpool|layer\d|conv[23]|bn\d)\b.*": "a ViT: CLIP's ResNets (three convolutions as stem, attention "
        "pooling) are not among our encoders",
        r"visual\.trunk\..*": "open_clip's own ViT, not a timm model inside it: export visual.trunk, family timm_vit",
        r"visual\.attn_pool.*|visual\.transformer\.resblocks\.\d+\.ls_\d\..*": "a plain ViT, without attention pooling "
        "or LayerScale",
    },
)


# ViTs of big_vision and vision_transformer (.npz): `Transformer/encoderblock_0/LayerNorm_0/scale`, ...


_BIG_VISION_BLOCK = "Transformer/encoderblock_{0}"
_ATTENTION = f"{_BIG_VISION_BLOCK}/MultiHeadDotProductAttention_0"
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
        theirs |= {f"{_BIG_VISION_BLOCK.format(block)}/{rest}": value for block, value in enumerate(values)}
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


def big_vision_vit_rules(encoder: ViT) -> tuple[Rule, ...]:
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
        Rule(r"blocks/(\d+)/mlp/expand/(kernel|bias)", f"{_BIG_VISION_BLOCK}/MlpBlock_0/Dense_0/{{1}}"),
        Rule(r"blocks/(\d+)/mlp/contract/(kernel|bias)", f"{_BIG_VISION_BLOCK}/MlpBlock_0/Dense_1/{{1}}"),
        Rule(r"blocks/(\d+)/norm1/(scale|bias)", f"{_BIG_VISION_BLOCK}/LayerNorm_0/{{1}}"),
        Rule(r"blocks/(\d+)/norm2/(scale|bias)", f"{_BIG_VISION_BLOCK}/LayerNorm_1/{{1}}"),
        Rule(r"norm/(scale|bias)", "Transformer/encoder_norm/{0}"),
    )


BIG_VISION_VIT = Family(
    "ViT of big_vision (.npz)",
    big_vision_vit_rules,
    layouts=("big_vision", "big_vision_sincos", "big_vision_token"),
    position="pos_embedding",
    ignored=r"(head|pre_logits)/.*|txt/.*|t|b",
    refused={
        r"MAPHead_0/.*|probe": "the mean or a class token as features: attention pooling (as SigLIP has it) is not "
        "among our layouts",
    },
    prepare=prepare,
)


FAMILIES = {
    "resnet": RESNET,
    "convnext": CONVNEXT,
    "timm_vit": TIMM_VIT,
    "timm_dinov3": TIMM_DINOV3,
    "open_clip_vit": OPEN_CLIP_VIT,
    "big_vision_vit": BIG_VISION_VIT,
}


# The weights that a run starts from: `model.init_from`, `model.init_family`. The head is always new.


ENCODER = "encoder/"


def read_pretrained(config) -> dict[str, np.ndarray]:
    """Returns {path: float32 array} of all parameters and running statistics of the encoder; {} without init_from.

    Raises DataError, or Problems with every name of the file that does not fit the encoder of the config.
    """
    path = config.model.init_from
    if path is None:
        return {}
    file, family = path, config.model.init_family
    if family is None:
        published = find_published(path)
        check_fits(config, published)
        file, family = published.file, published.family
    family = FAMILIES[family]
    arrays = import_encoder(config, family, read_weights(file), path)
    log_info(f"{config.name}: the encoder starts from {path} ({family.title}), with a new head")
    return {ENCODER + name: value for name, value in arrays.items()}


def import_encoder(config, family, theirs, where: str) -> dict[str, np.ndarray]:
    """Returns {path below encoder/: array} of the encoder of `config` out of `theirs` (weights/name_map.py)."""
    encoder = abstract_encoder(without_lora(config))
    return to_ours(family, encoder, encoder_shapes(encoder), theirs, where)


def abstract_encoder(config) -> nnx.Module:
    """The encoder of a config, its arrays being shapes only."""
    return nnx.eval_shape(lambda: ENCODERS[config.model.encoder](config, nnx.Rngs(0)))


def without_lora(config):
    """The config of the encoder with its low-rank factors merged into the maps: as weights elsewhere have it."""
    if not config.model.lora:
        return config
    config = config.copy_and_resolve_references().unlock()
    config.model.lora = 0
    return config


def encoder_shapes(encoder: nnx.Module) -> dict[str, tuple[int, ...]]:
    """{path below encoder/: shape} of all its parameters and running statistics."""
    return {path: leaf.shape for path, leaf in to_flat(nnx.state(encoder)).items()}
