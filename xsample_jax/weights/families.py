"""Whose names a file of weights can have: `model.init_family`."""

from xsample_jax.weights.big_vision_vit import BIG_VISION_VIT
from xsample_jax.weights.open_clip_vit import OPEN_CLIP_VIT
from xsample_jax.weights.resnet import RESNET
from xsample_jax.weights.timm_vit import TIMM_VIT

FAMILIES = {
    "resnet": RESNET,
    "timm_vit": TIMM_VIT,
    "open_clip_vit": OPEN_CLIP_VIT,
    "big_vision_vit": BIG_VISION_VIT,
}
