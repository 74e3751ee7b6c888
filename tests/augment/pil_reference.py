"""What PIL makes of an image by each operation of AutoAugment, and images to try them on."""

import jax.numpy as jnp
import numpy as np
from PIL import Image, ImageEnhance, ImageOps

GRAY = (128, 128, 128)
AFFINE, NEAREST = Image.Transform.AFFINE, Image.Resampling.NEAREST


def shifted(image, by):
    return image.transform(image.size, AFFINE, by, NEAREST, fillcolor=GRAY)


PIL = {
    "shear_x": lambda im, v: shifted(im, (1, v, 0, 0, 1, 0)),
    "shear_y": lambda im, v: shifted(im, (1, 0, 0, v, 1, 0)),
    "translate_x": lambda im, v: shifted(im, (1, 0, int(v * im.size[0]), 0, 1, 0)),
    "translate_y": lambda im, v: shifted(im, (1, 0, 0, 0, 1, int(v * im.size[1]))),
    "rotate": lambda im, v: im.rotate(v, NEAREST, fillcolor=GRAY),
    "posterize": lambda im, v: ImageOps.posterize(im, int(v)),
    "solarize": lambda im, v: ImageOps.solarize(im, v),
    "invert": lambda im, v: ImageOps.invert(im),
    "autocontrast": lambda im, v: ImageOps.autocontrast(im),
    "equalize": lambda im, v: ImageOps.equalize(im),
    "brightness": lambda im, v: ImageEnhance.Brightness(im).enhance(v),
    "contrast": lambda im, v: ImageEnhance.Contrast(im).enhance(v),
    "color": lambda im, v: ImageEnhance.Color(im).enhance(v),
    "sharpness": lambda im, v: ImageEnhance.Sharpness(im).enhance(v),
}


def sample_images():
    """Smooth, noisy, low-contrast, two-valued and flat: uint8 [5, 36, 40, 3]."""
    rng = np.random.default_rng(0)
    smooth = Image.fromarray(rng.integers(0, 256, (7, 9, 3), dtype=np.uint8)).resize((40, 36), Image.BICUBIC)
    noise = rng.integers(0, 256, (36, 40, 3), dtype=np.uint8)
    dull = rng.integers(90, 140, (36, 40, 3), dtype=np.uint8)
    two = np.where(rng.random((36, 40, 1)) < 0.3, 10, 200) * np.ones(3, np.uint8)
    return np.stack([np.asarray(smooth), noise, dull, two.astype(np.uint8), np.full_like(noise, 77)])


def planes(images):
    return jnp.asarray(images.transpose(0, 3, 1, 2).astype(np.float32))
