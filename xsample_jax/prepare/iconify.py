"""An icon of an iconify package to pixels: SVG, drawing without the fonts of the machine, WebP without loss."""

import io

from PIL import Image


def compose_svg(icons: dict, name: str) -> str:
    """Returns the complete SVG of an iconify icon or alias."""
    alias = icons.get("aliases", {}).get(name, {})
    icon = {**icons["icons"][alias.get("parent", name)], **alias}
    left, top = icon.get("left", icons.get("left", 0)), icon.get("top", icons.get("top", 0))
    width, height = icon.get("width", icons.get("width", 16)), icon.get("height", icons.get("height", 16))
    body = icon["body"]
    if icon.get("hFlip"):
        body = f'<g transform="translate({2 * left + width} 0) scale(-1 1)">{body}</g>'
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" color="#333" '
        f'width="{width}" height="{height}" viewBox="{left} {top} {width} {height}">{body}</svg>'
    )


def rasterise(svg: str, size: int) -> Image.Image:
    """Draws an SVG on a transparent square, without the fonts of the machine. Returns an RGBA picture."""
    import resvg_py

    png = resvg_py.svg_to_bytes(svg_string=svg, width=size, height=size, skip_system_fonts=True)
    picture = Image.open(io.BytesIO(bytes(png))).convert("RGBA")
    if picture.size == (size, size):
        return picture
    square = Image.new("RGBA", (size, size))  # a drawing that is not square keeps its proportions
    square.paste(picture, ((size - picture.width) // 2, (size - picture.height) // 2))
    return square


def encode_webp(picture: Image.Image) -> bytes:
    """Encodes without loss, the colour under full transparency included; the same picture gives the same bytes."""
    buffer = io.BytesIO()
    picture.save(buffer, "WEBP", lossless=True, quality=80, method=4, exact=True)
    return buffer.getvalue()
