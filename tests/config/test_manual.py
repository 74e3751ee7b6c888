import pathlib

from xsample_jax.config import flat_keys
from xsample_jax.config.manual import render

DOCS = pathlib.Path(__file__).parent.parent.parent / "docs" / "config.md"


def test_docs_are_current():
    assert DOCS.read_text() == render(), "the schema changed: run `make docs`"


def test_every_key_is_in_the_manual_once():
    text = render()
    for name, key in flat_keys().items():
        assert text.count(f"| `{name}` |") == 1
        assert key.help in text
