"""Where in its image every view was cropped: the boxes of the very draws that `views.make_views` makes."""

import jax
import jax.numpy as jnp

from xsample_jax.augment.views import config_of_view, crop_boxes, draw_numbers


def view_boxes(
    ids: jax.Array, seed: int, step: jax.Array, config, shape: tuple[int, int, int], copies: jax.Array | None = None
) -> jax.Array:
    """Boxes float32 [B * V, 4] of the views of make_views, row = image * V + view.

    Args:
      ids, seed, step, copies: as of make_views; config: the augment section.
      shape: (views V, height, width of the images).

    Returns:
      x0, y0, x1, y1 as shares of the sides of the image; x0 > x1 where the view is flipped.
    """
    views, height, width = shape
    numbers = draw_numbers(seed, step, ids, views, copies)
    found = []
    for view in range(views):
        of, draws = config_of_view(config, view), {name: value[:, view] for name, value in numbers.items()}
        top, left, high, wide = jnp.zeros(len(ids)), jnp.zeros(len(ids)), height, width
        if of.crop_scale:
            chosen = (draws["crop_area"], draws["crop_ratio"], draws["crop_corner"])
            top, left, high, wide = crop_boxes(*chosen, height, width, tuple(of.crop_scale), tuple(of.crop_ratio))
        ends, flip = (left / width, (left + wide) / width), draws["flip"][:, 0] < of.flip
        x0, x1 = jnp.where(flip, ends[1], ends[0]), jnp.where(flip, ends[0], ends[1])
        found.append(jnp.stack([x0, top / height, x1, (top + high) / height], axis=1))
    return jnp.stack(found, axis=1).reshape(-1, 4)
