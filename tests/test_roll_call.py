"""The roll call before jax starts: all get the same answer, and what is missing or different is named."""

import concurrent.futures
import dataclasses
import json
import socket
import time

import pytest

from xsample_jax.errors import BAD_INPUT, INCOMPLETE, ConfigError, ProcessError
from xsample_jax.rendezvous import Hello, rendezvous, split_address


def free_address():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


def present(index, count=3, host=None, config="{}"):
    return Hello(index, count, host or f"host{index}", {"config": config})


def answers(processes, seconds=20.0, **options):
    """What rendezvous returns or raises in each of the processes, which are threads here."""
    address = free_address()
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        waiting = [pool.submit(rendezvous, address, own, seconds, **options) for own in processes]
        return [future.exception() or future.result() for future in waiting]


def test_all_learn_the_hosts_in_the_order_of_the_processes_and_the_port_is_free_again():
    address = free_address()
    for _ in range(2):  # twice: nothing may keep the port
        with concurrent.futures.ThreadPoolExecutor(3) as pool:
            found = list(pool.map(lambda i: rendezvous(address, present(i), 20.0), (2, 0, 1)))
        assert found == [["host0", "host1", "host2"]] * 3


def test_who_never_starts_is_named_in_all_others():
    started = time.monotonic()
    for error in answers([present(0, 4), present(2, 4)], seconds=1.0):
        assert isinstance(error, ProcessError)
        assert error.exit_code == INCOMPLETE  # they may come next time
        assert "missing: process 1, 3." in str(error)
        assert "2 of 4" in str(error)
    assert time.monotonic() - started < 5


def test_a_missing_process_0_is_named():
    (error,) = answers([present(1)], seconds=1.0)
    assert isinstance(error, ProcessError)
    assert error.exit_code == INCOMPLETE
    assert "missing: process 0" in str(error)


@pytest.mark.parametrize(
    ("others", "words"),
    [
        ([present(1, config="other")], r"config of process 1 \(host host1\).*process 0 \(host host0\)"),
        ([present(1, count=4)], r"--num_processes of process 1 \(host host1\) = 4: expected 3"),
        ([present(1), present(1, host="twin")], r"--process_id on host (host1|twin) = 1.*host (host1|twin) has this"),
    ],
)
def test_what_does_not_agree_is_named(others, words):
    for error in answers([present(0), *others]):
        assert isinstance(error, ConfigError)
        assert error.exit_code == BAD_INPUT
        with pytest.raises(ConfigError, match=words):
            raise error


def test_the_difference_is_put_into_words():
    found = answers([present(0), present(1, config="other")], describers={"config": lambda a, b: f"it is {b}, not {a}"})
    assert all("'it is other, not {}'" in str(error) for error in found)


def knock(address):
    while True:
        try:
            return socket.create_connection(split_address(address))
        except ConnectionRefusedError:  # process 0 is not up yet
            time.sleep(0.05)


def test_a_process_that_was_restarted_while_it_waited_and_strangers_do_no_harm():
    address = free_address()
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        found = [pool.submit(rendezvous, address, present(0), 20.0)]
        with knock(address) as stranger:
            stranger.sendall(b"GET / HTTP/1.1\n")
        with knock(address) as killed:
            killed.sendall((json.dumps(dataclasses.asdict(present(1, host="before"))) + "\n").encode())
            time.sleep(0.1)
        found.append(pool.submit(rendezvous, address, present(2), 20.0))
        time.sleep(0.3)  # now three have called, one of which is no more
        found.append(pool.submit(rendezvous, address, present(1), 20.0))
        assert [future.result() for future in found] == [["host0", "host1", "host2"]] * 3


def test_addresses():
    assert split_address("a.b:12") == ("a.b", 12)
    assert split_address("[fe80::1]:80") == ("fe80::1", 80)
    for wrong in ("host", "host:", ":80", "host:0", "host:99999", "host:http"):
        with pytest.raises(ValueError):  # noqa: PT011
            split_address(wrong)
