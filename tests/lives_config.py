"""The run of tests/lives.py: tiny, with a log line at every step and a checkpoint at every second one."""

from tests.tiny import tiny_config


def get_config():
    config = tiny_config(steps=12, checkpoint__every=2, log__every=1).copy_and_resolve_references()
    config.unlock()
    return config
