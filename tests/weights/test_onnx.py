"""Encoders as ONNX files, run by ONNX Runtime."""

from importlib.util import find_spec

import numpy as np
import pytest

from tests.weights.made import made_encoder, made_images
from xsample_jax.errors import DataError

# Not imported here: every worker would import them, for the tests of one.
pytestmark = [
    pytest.mark.skipif(
        not (find_spec("onnxruntime") and find_spec("jax2onnx")), reason="the extra onnx is not installed"
    ),
    pytest.mark.usefixtures("shallow_resnet18", "shallow_vit"),
]

# A max-pool of an even and of an odd number of rows, and transformers, of which one attends to pool.
CASES = {
    "resnet18 at 32": (32, {"encoder": "resnet18", "width": 8}),
    "resnet18 at 34": (34, {"encoder": "resnet18", "width": 8}),
    "vit_ti at 16": (16, {"encoder": "vit_ti", "patch_size": 8}),
    "vit_ti of siglip": (16, {"encoder": "vit_ti", "patch_size": 8, "layout": "siglip"}),
}


@pytest.mark.parametrize("case", CASES)
def test_onnx_gives_the_features_of_the_encoder(case, tmp_path, caplog, capsys):
    """faults D4: the export of every ResNet failed at the padding of its max-pool."""
    import onnxruntime

    from xsample_jax.export import export_onnx

    size, model = CASES[case]
    encoder = made_encoder(model, size)
    with caplog.at_level("WARNING"):
        assert f"float32 [n, {size}, {size}, 3]" in export_onnx(encoder, tmp_path / "e.onnx")
    assert "converting to ONNX" in capsys.readouterr().out
    assert not [record for record in caplog.records if record.name.startswith("jax2onnx")]  # tracebacks of its plugins
    session = onnxruntime.InferenceSession(str(tmp_path / "e.onnx"), providers=["CPUExecutionProvider"])
    images = made_images(size, 2)
    expected = np.asarray(encoder.module(images))
    for count in (1, 2):  # any number of images
        (features,) = session.run(None, {"images": images[:count]})
        np.testing.assert_allclose(features, expected[:count], atol=1e-4 * np.abs(expected).max())


def test_an_encoder_that_cannot_be_converted_is_one_error(tmp_path, monkeypatch):
    """faults D4."""
    import jax2onnx

    from xsample_jax.export import export_onnx

    def fail(*arguments, **options):
        raise KeyError("no converter for erf_inv")

    monkeypatch.setattr(jax2onnx, "to_onnx", fail)
    with pytest.raises(DataError, match=r"erf_inv.*--format=jax_export"):
        export_onnx(made_encoder(*reversed(CASES["resnet18 at 32"])), tmp_path / "e.onnx")
    assert list(tmp_path.iterdir()) == []


def test_two_exports_at_once_are_two_files(tmp_path, monkeypatch):
    """faults B4: both wrote NAME.partial, so one compared, and named, the half file of the other."""
    import jax2onnx

    from xsample_jax.export import export_onnx

    encoder, convert, written = made_encoder(*reversed(CASES["resnet18 at 32"])), jax2onnx.to_onnx, []

    def slow(*arguments, output_path, **options):
        written.append(output_path)
        if len(written) == 1:
            export_onnx(encoder, tmp_path / "e.onnx")  # while the first is at work
        return convert(*arguments, output_path=output_path, **options)

    monkeypatch.setattr(jax2onnx, "to_onnx", slow)
    export_onnx(encoder, tmp_path / "e.onnx")
    assert len(set(written)) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["e.onnx"]
