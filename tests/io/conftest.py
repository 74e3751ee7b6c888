"""Buckets of a store that stands in for Cloud Storage (tests/object_store.py)."""

import itertools
import os

import pytest

from tests.object_store import object_store

NUMBERS = itertools.count(1)


@pytest.fixture(scope="session")
def store():
    """One for all tests of a process: the libraries keep the address that they have seen first."""
    with object_store() as running:
        before = {name: os.environ.get(name) for name in running.environment}
        os.environ.update(running.environment)
        yield running
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


@pytest.fixture
def bucket(store):
    """gs://BUCKET, empty and for this test alone."""
    store.failing.clear()
    store.failing_bucket = f"bucket-{next(NUMBERS)}"
    return f"gs://{store.failing_bucket}"
