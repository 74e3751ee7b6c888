"""timm's VisionTransformer: `blocks.0.attn.qkv.weight`, `blocks.0.norm1.weight`, ...; DeiT, DINO and MAE share them."""

from xsample_jax.models.vit import ViT, sincos_positions
from xsample_jax.weights.name_map import DENSE, SAME, Family, Rule
from xsample_jax.weights.vit_forms import PATCH, POSITION, TOKEN, qkv_bias, qkv_weight

_LAYERS = {"attention/out": "attn.proj", "mlp/expand": "mlp.fc1", "mlp/contract": "mlp.fc2"}


def rules(encoder: ViT) -> tuple[Rule, ...]:
    heads = encoder.blocks[0].attention.heads
    return (
        Rule("patch/kernel", "patch_embed.proj.weight", PATCH),
        Rule("patch/bias", "patch_embed.proj.bias"),
        Rule("token", "cls_token", TOKEN),
        Rule("position", "pos_embed", POSITION),
        Rule(r"blocks/(\d+)/attention/qkv/kernel", "blocks.{0}.attn.qkv.weight", qkv_weight(heads)),
        Rule(r"blocks/(\d+)/attention/qkv/bias", "blocks.{0}.attn.qkv.bias", qkv_bias(heads)),
        *(Rule(rf"blocks/(\d+)/{ours}/kernel", f"blocks.{{0}}.{name}.weight", DENSE) for ours, name in _LAYERS.items()),
        *(Rule(rf"blocks/(\d+)/{ours}/bias", f"blocks.{{0}}.{name}.bias", SAME) for ours, name in _LAYERS.items()),
        Rule(r"blocks/(\d+)/norm(\d)/scale", "blocks.{0}.norm{1}.weight"),
        Rule(r"blocks/(\d+)/norm(\d)/bias", "blocks.{0}.norm{1}.bias"),
        Rule("norm/scale", "norm.weight"),
        Rule("norm/bias", "norm.bias"),
    )


def constants(encoder: ViT) -> dict:
    """The fixed table of positions, which timm keeps as a parameter."""
    if encoder.position is not None:
        return {}
    rows = encoder.image_size // encoder.patch_size
    return {"pos_embed": sincos_positions(rows, rows, encoder.features)[None]}


TIMM_VIT = Family(
    "ViT of timm",
    rules,
    layouts=("big_vision", "big_vision_sincos", "big_vision_token", "plain", "timm"),
    ignored=r"head\.(weight|bias)",
    constants=constants,
    refused={
        r"fc_norm\..*": "the norm before the pooling (timm's fc_norm=False): none of our layouts averages first",
        r"norm_pre\..*": "no norm before the blocks: weights of CLIP are of the family open_clip_vit",
        r"dist_token|reg_token|head_dist\..*": "one class token, no distillation or register tokens",
        r"blocks\.\d+\.(ls\d|attn\.[qk]_norm)\..*": "plain blocks, without LayerScale or norms of queries and keys",
    },
)
