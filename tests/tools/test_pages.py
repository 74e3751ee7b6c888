"""What pages promise about their layout (faults D7), as far as it can be told without a browser."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from xsample_jax.reports.contact_sheet import gallery_sheet
from xsample_jax.reports.figures import named_colors
from xsample_jax.reports.style import COLORS, breakable, soft, unbroken

TEMPLATES = Path(__file__).parents[2] / "xsample_jax" / "reports" / "templates"


@pytest.mark.parametrize(
    "flag", ["--config.objective.target_temperature=0.05", "--sample", "--config.eval.baselines=()", "--a_b.c=x-y"]
)
def test_a_flag_is_never_broken_after_its_dashes(flag):
    html = str(unbroken(f"Set {flag}, or <b>."))
    assert re.sub(r"<wbr>|</?span[^>]*>", "", html) == f"Set {flag}, or &lt;b&gt;."
    inside = re.findall(r'<span class="piece">(.*?)</span>', html)
    assert "".join(inside) == flag.removesuffix(")") or "".join(inside) == flag
    assert inside[0].startswith("--")
    assert len(inside[0]) > 2  # never the dashes alone
    assert not (value := flag.partition("=")[2].removesuffix("()")) or inside[-1].startswith(value)
    assert (
        ".piece { display: inline-block; max-width: 100%; overflow-wrap: anywhere; }"
        in (TEMPLATES / "base.html").read_text()
    )


def test_a_name_breaks_after_signs_only():
    html = str(breakable("baselines/momentum_distillation,seed=0 <x>"))
    assert html.split("<wbr>") == ["baselines/", "momentum_", "distillation,", "seed=", "0 &lt;x&gt;"]
    assert str(breakable("_a__b-")) == "_<wbr>a__<wbr>b-"
    assert str(breakable("")) == ""
    assert soft("a_b<c-d").split("\u200b") == ["a_", "b<c-", "d"]


def narrow(name):
    """The rules for narrow windows of a template."""
    return re.search(r"@media \(max-width: 560px\) \{\n(.*?)\n\}", (TEMPLATES / name).read_text(), re.S)[1]


def test_every_column_is_on_a_narrow_page():
    """Cells wrap below their metric in place of going out of the window, and each says whose it is."""
    rules = narrow("base.html")
    assert re.search(r"\.runs-table tr \{ display: grid; grid-template-columns: repeat\(auto-fill", rules)
    assert "content: attr(data-run)" in rules
    report = (TEMPLATES / "report.html").read_text()
    tables = report.count("<table")
    assert tables == report.count('<table class="runs-table">') == 4
    assert report.count("<td") == report.count("<td data-run=") + report.count('<td class="config" data-run=')
    assert "td.bar { display: none; }" in narrow("evaluation.html")
    assert re.search(r"td\.interval \{ flex: none; width: max-content; \}", narrow("evaluation.html"))
    assert (
        "overflow-wrap: anywhere; }" not in re.search(r"^\.run \{.*$", (TEMPLATES / "base.html").read_text(), re.M)[0]
    )


@pytest.mark.parametrize("count", [3, 8, 9, 24])
def test_a_map_names_at_most_eight_colors_and_the_rest_is_gray(count):
    codes = np.repeat(np.arange(count), np.arange(count) + 1)
    words = [f"w{code}" for code in range(count)]
    drawn = named_colors(codes, words, "gray")
    colored = [(label, of) for label, color, of in drawn if color != "gray"]
    assert len(colored) == min(count, len(COLORS)) == len({color for _, color, _ in drawn if color != "gray"})
    assert [of for _, of in colored] == [[code] for code in range(max(0, count - 8), count)]  # the most common
    assert sorted(code for _, _, of in drawn for code in of) == list(range(count))
    if count > 8:
        assert drawn[0][:2] == (f"{count - 8} others" if count > 9 else "w0", "gray")


def test_what_is_no_value_has_no_color_of_its_own():
    drawn = named_colors(np.array([0, 0, 0, 1, 2]), ["none", "a", "b"], "gray")
    assert drawn[0] == ("none", "gray", [0])
    assert [label for label, *_ in drawn[1:]] == ["a", "b"]


def test_the_sheet_of_a_batch_is_mostly_images(tmp_path):
    images = [np.full((32, 32, 3), 90, np.uint8)] * 12
    captions = ["id 3 [cat] a caption of some length that goes on | and on for a third line"] * 12
    sheet = np.asarray(Image.open(gallery_sheet(images, captions, tmp_path / "s.png")))
    assert (sheet == 90).all(axis=-1).mean() > 0.7
    assert (sheet > 200).all(axis=-1).mean() < 0.25
    first = sheet[6 + 192 : 6 + 192 + 48, 6:198]
    assert [(first[start : start + 16] < 100).any() for start in (0, 16, 32)] == [True] * 3  # wrapped, not cut
