"""Named objectives, as data. To add one, write one entry in the file of its family and one golden (CONTRIBUTING.md)."""

from xsample_jax.objectives.presets_image_text import IMAGE_TEXT
from xsample_jax.objectives.presets_images import IMAGES
from xsample_jax.objectives.presets_memory import MEMORY

PRESETS = IMAGES | IMAGE_TEXT | MEMORY
