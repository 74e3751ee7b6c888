"""Where the input shards are worked on: processes of this machine, or Apache Beam. Both run the same function."""

import concurrent.futures
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from functools import partial

from xsample_jax.errors import DataError
from xsample_jax.prepare.job import Job
from xsample_jax.prepare.shards import prepare_shard
from xsample_jax.storage.paths import absolute

# Takes the job, the numbers of the input shards that are not done, and the folder; yields the count of each one done.
Runner = Callable[[Job, Sequence[int], str], Iterator[int]]


def local_runner(processes: int) -> Runner:
    """Processes of this machine; 1 works in this one. The first error ends the work, finished shards stay."""
    if processes < 1:
        raise DataError("--processes", processes, "at least 1")
    return partial(_run_locally, processes)


def _run_locally(processes: int, job: Job, numbers: Sequence[int], out: str) -> Iterator[int]:
    if min(processes, len(numbers)) <= 1:
        for number in numbers:
            yield prepare_shard(job, number, out)
        return
    # Not forked: the libraries have threads, and a fork copies their locks as they are.
    context = multiprocessing.get_context("spawn")
    pool = concurrent.futures.ProcessPoolExecutor(
        min(processes, len(numbers)), context, initializer=_start_worker, initargs=(job, out)
    )
    try:
        for future in concurrent.futures.as_completed([pool.submit(_work, number) for number in numbers]):
            yield future.result()
    except BrokenProcessPool as error:
        fix = "Was it killed for want of memory? Use fewer --processes, and give the same command again."
        raise DataError("worker process", "ended", "a process that lives until its work is done", fix) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


_worker: tuple[Job, str] | None = None


def _start_worker(job: Job, out: str) -> None:
    """The job travels once per process, not once per shard: the list of a folder's pictures is long."""
    global _worker
    _worker = (job, out)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A worker whose parent was killed would wait for more work for ever."""
    multiprocessing.parent_process().join()
    os._exit(1)


def _work(number: int) -> int:
    job, out = _worker
    return prepare_shard(job, number, out)


def beam_runner(name: str, options: Sequence[str] = ()) -> Runner:
    """Apache Beam (extra `beam`): DirectRunner, DataflowRunner, FlinkRunner, SparkRunner.

    Args:
      name: of the runner.
      options: its own flags, passed on to Beam.
    """
    try:
        import apache_beam  # noqa: F401
    except ImportError as error:
        fix = "pip install 'xsample_jax[beam]', or leave --runner out to use the processes of this machine."
        raise DataError("--runner", name, "Apache Beam installed", fix) from error
    return partial(_run_on_beam, name, tuple(options))


def _run_on_beam(name: str, options: tuple[str, ...], job: Job, numbers: Sequence[int], out: str) -> Iterator[int]:
    import apache_beam as beam
    from apache_beam.options.pipeline_options import PipelineOptions

    place = str(absolute(out, "--out"))  # workers have other working directories
    try:
        with beam.Pipeline(options=PipelineOptions([f"--runner={name}", *options])) as pipeline:
            # Reshuffle: without it one worker would get all shards, fused with the step that lists them.
            shards = pipeline | "shards" >> beam.Create(list(numbers)) | beam.Reshuffle()
            shards | "prepare" >> beam.Map(_beam_work, beam.pvalue.AsSingleton(pipeline | beam.Create([job])), place)
    except (RuntimeError, ValueError) as error:  # Beam keeps the text of what its workers raise, not the type
        text = str(error).strip().splitlines()[-1]
        raise DataError("--runner", name, "a pipeline that runs to its end", text) from error
    yield from (0 for _ in numbers)  # Beam ends when all is done; counts are in the parts


def _beam_work(number: int, job: Job, out: str) -> int:
    return prepare_shard(job, number, out)
