"""The image tower of open_clip and of OpenAI's CLIP, `visual.transformer.resblocks.0.attn.in_proj_weight`, ...

Our features are the normalised state of the class token: what CLIP's own linear probes use. `visual.proj`, which maps
it into the space of the text tower, is left out, and so is the text tower.
"""

from xsample_jax.models.vit import ViT
from xsample_jax.weights.name_map import DENSE, Family, Rule
from xsample_jax.weights.vit_forms import PATCH, qkv_bias, qkv_weight

_LAYERS = {"attention/out": "attn.out_proj", "mlp/expand": "mlp.c_fc", "mlp/contract": "mlp.c_proj"}
_BLOCK = "visual.transformer.resblocks.{0}"


def rules(encoder: ViT) -> tuple[Rule, ...]:
    heads = encoder.blocks[0].attention.heads
    return (
        Rule("patch/kernel", "visual.conv1.weight", PATCH),
        Rule("token", "visual.class_embedding"),
        Rule("position", "visual.positional_embedding"),
        Rule("norm_first/scale", "visual.ln_pre.weight"),
        Rule("norm_first/bias", "visual.ln_pre.bias"),
        Rule(r"blocks/(\d+)/attention/qkv/kernel", f"{_BLOCK}.attn.in_proj_weight", qkv_weight(heads)),
        Rule(r"blocks/(\d+)/attention/qkv/bias", f"{_BLOCK}.attn.in_proj_bias", qkv_bias(heads)),
        *(Rule(rf"blocks/(\d+)/{ours}/kernel", f"{_BLOCK}.{name}.weight", DENSE) for ours, name in _LAYERS.items()),
        *(Rule(rf"blocks/(\d+)/{ours}/bias", f"{_BLOCK}.{name}.bias") for ours, name in _LAYERS.items()),
        Rule(r"blocks/(\d+)/norm(\d)/scale", f"{_BLOCK}.ln_{{1}}.weight"),
        Rule(r"blocks/(\d+)/norm(\d)/bias", f"{_BLOCK}.ln_{{1}}.bias"),
        Rule("norm/scale", "visual.ln_post.weight"),
        Rule("norm/bias", "visual.ln_post.bias"),
    )


OPEN_CLIP_VIT = Family(
    "ViT image tower of open_clip or OpenAI's CLIP",
    rules,
    layouts=("open_clip", "openai_clip"),
    ignored=r"(?!visual\.).*|visual\.proj",
    refused={
        r"visual\.(attnpool|layer\d|conv[23]|bn\d)\b.*": "a ViT: CLIP's ResNets (three convolutions as stem, attention "
        "pooling) are not among our encoders",
        r"visual\.trunk\..*": "open_clip's own ViT, not a timm model inside it: export visual.trunk, family timm_vit",
        r"visual\.attn_pool.*|visual\.transformer\.resblocks\.\d+\.ls_\d\..*": "a plain ViT, without attention pooling "
        "or LayerScale",
    },
)
