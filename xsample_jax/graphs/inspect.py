"""Looking at a similarity graph: its entropy and mass against tau_s, and pictures of target beside student."""

from collections.abc import Mapping

import numpy as np

from xsample_jax.errors import DataError


def fold_views(graph: np.ndarray, views: int) -> np.ndarray:
    """Folds a row-stochastic graph over rows to one over images.

    Args:
      graph: float [V*B, V*B], row = image * V + view.

    Returns:
      float32 [B, B]: mean over the views of the row's image, sum over the views of the column's image. Rows still sum
      to 1 and the diagonal is the mass on an image's own other views.
    """
    graph = np.asarray(graph, np.float64)
    count, rest = divmod(len(graph), views)
    if rest or graph.shape != (len(graph), len(graph)):
        raise DataError("graph", graph.shape, f"a square whose side is a multiple of the {views} views")
    return graph.reshape(count, views, count, views).sum(axis=3).mean(axis=1).astype(np.float32)


def target_against_temperature(
    similarity: np.ndarray,
    temperatures: np.ndarray,
    views: int = 2,
    own: np.ndarray | None = None,
    kinds: Mapping[str, np.ndarray] | None = None,
) -> dict[str, np.ndarray]:
    """Describes T = softmax(similarity / tau_s), self left out, for each tau_s; V views of an image share its row.

    Args:
      similarity: float [A, B], e.g. cosines of captions, anchors against the images of a batch.
      temperatures: float [t].
      views: V.
      own: int [A], the column that is the anchor itself; None: A = B and the diagonal.
      kinds: name -> bool [A, B], pairs whose part in the target is wanted.

    Returns:
      float64 [t] each, means over anchors: "entropy" H(s) in nats, "effective_neighbours" exp(H(s)), "own_view_mass",
      and the mass on each of the kinds (an anchor's own other views count where its own pair is in the kind).
    """
    similarity = np.asarray(similarity, np.float64)
    anchors = np.arange(len(similarity))
    own = anchors if own is None else own
    # How many of the N - 1 columns of a row belong to image k: V, or V - 1 for the image itself.
    copies = np.full(similarity.shape, float(views))
    copies[anchors, own] = views - 1
    kinds = kinds or {}
    result = {name: [] for name in ("entropy", "effective_neighbours", "own_view_mass", *kinds)}
    for tau in temperatures:
        logits = similarity / tau
        logits = logits - np.where(copies > 0, logits, -np.inf).max(axis=1, keepdims=True)
        weights = np.where(copies > 0, np.exp(np.minimum(logits, 0)), 0)
        total = np.sum(copies * weights, axis=1)
        entropy = np.log(total) - np.sum(copies * weights * logits, axis=1) / total
        target = copies * weights / total[:, None]
        result["entropy"].append(entropy.mean())
        result["effective_neighbours"].append(np.exp(entropy).mean())
        result["own_view_mass"].append(target[anchors, own].mean())
        for name, pairs in kinds.items():
            result[name].append(np.sum(target * pairs, axis=1).mean())
    return {name: np.asarray(values) for name, values in result.items()}


def by_group(groups: np.ndarray) -> tuple[np.ndarray, list[tuple[str, int, int]]]:
    """Returns (order int [n] that brings equal groups together, list of (group, first place, end place))."""
    groups = np.asarray(groups)
    order = np.argsort(groups, kind="stable")
    names, start, count = np.unique(groups[order], return_index=True, return_counts=True)
    return order, [(str(name), int(s), int(s + c)) for name, s, c in zip(names, start, count, strict=True)]


def draw_graph(axes, graph: np.ndarray, groups: np.ndarray, *, signed: bool = False, floor: float = 1e-4, ink="black"):
    """Draws a graph [n, n] as a heat map, rows and columns sorted by group; returns the image for a colour bar.

    Colour is logarithmic (a target spreads over four decades), symmetric about zero where `signed` (a difference).
    Groups with room for it are named along the left edge; thin lines part them.
    """
    from matplotlib import colors

    order, spans = by_group(groups)
    shown = np.asarray(graph)[np.ix_(order, order)]
    if signed:
        norm, palette = colors.SymLogNorm(linthresh=10 * floor, vmin=-1, vmax=1), "RdBu_r"
    else:
        norm, palette, shown = colors.LogNorm(floor, 1), "magma", np.maximum(shown, floor)
    image = axes.imshow(shown, cmap=palette, norm=norm, interpolation="nearest")
    for _, _, end in spans[:-1]:
        axes.axhline(end - 0.5, color=ink, linewidth=0.5, alpha=0.35)
        axes.axvline(end - 0.5, color=ink, linewidth=0.5, alpha=0.35)
    named = [span for span in spans if span[2] - span[1] >= len(order) / 24]
    axes.set_yticks([(start + end - 1) / 2 for _, start, end in named], [name for name, _, _ in named])
    axes.set_xticks([])
    axes.tick_params(length=0)
    return image
