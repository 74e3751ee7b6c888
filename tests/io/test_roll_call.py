"""The roll call before jax starts: all get the same answer, and what is missing or different is named."""

import concurrent.futures
import contextlib
import dataclasses
import json
import socket
import threading
import time

import pytest

from xsample_jax.config.saved import describe_difference
from xsample_jax.errors import BAD_INPUT, INCOMPLETE, ConfigError, ProcessError, show
from xsample_jax.io import rendezvous as io_rendezvous
from xsample_jax.io.code_version import differing_files
from xsample_jax.io.rendezvous import LONGEST_LINE, TAG, Hello, rendezvous, split_address


def free_address():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


def present(index, count=3, host=None, config="{}"):
    return Hello(index, count, host or f"host{index}", {"config": config})


@pytest.fixture
def settles_at_once(monkeypatch):
    """Process 0 does not listen on for others that differ; here none comes."""
    monkeypatch.setattr(io_rendezvous, "SETTLE", 0.2)


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
    (error,) = answers([present(1)], seconds=0.3)
    assert isinstance(error, ProcessError)
    assert error.exit_code == INCOMPLETE
    assert "missing: process 0" in str(error)


@pytest.mark.usefixtures("settles_at_once")
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


@pytest.mark.usefixtures("settles_at_once")
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
            killed.sendall(TAG + (json.dumps(dataclasses.asdict(present(1, host="before"))) + "\n").encode())
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


def junk():
    """[bytes] that are no hello, though some begin as one."""
    good = {"index": 1, "count": 3, "host": "b", "same": {"config": "{}"}}
    wrong = [
        {"index": "1"}, {"index": 1.0}, {"index": True}, {"index": -1}, {"index": 0}, {"index": 3}, {"index": [1]},
        {"index": None}, {"count": "3"}, {"count": 10**400}, {"host": 7}, {"host": ""}, {"host": "b" * 10**5},
        {"host": "\ud800"}, {"host": "a\nb"}, {"same": None}, {"same": []}, {"same": {"config": 1}}, {"more": 1},
    ]  # fmt: skip
    lines = [json.dumps(good | change).encode() for change in wrong]
    lines += [b"[]", b"1", b'"text"', b"null", b"{}", b"{", b"\xff\xfe\x00", b"[" * 10**5, b'{"a":' * 10**5]
    bare = [
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\x02\x00",
        b"\n",
        json.dumps(good).encode() + b"\n",
        b"\x00" * 10**5,
    ]
    return [TAG + line + b"\n" for line in lines] + bare + [TAG + json.dumps(good).encode()[:-1], TAG[:5]]


def bother(address, end):
    """All junk at the address, some of which stays silent or drips until `end` is set."""
    silent, drip, cut = (knock(address) for _ in range(3))
    cut.sendall(TAG + b'{"index"')
    with contextlib.suppress(OSError), knock(address) as huge:
        huge.sendall(TAG + b"1" * (LONGEST_LINE + 1))
    for payload in junk():
        with contextlib.suppress(OSError), knock(address) as stranger:
            stranger.sendall(payload)
    for letter in TAG + b"{" * 1000:
        with contextlib.suppress(OSError):
            drip.sendall(bytes([letter]))
        if end.wait(0.05):
            break
    for line in (silent, drip, cut):
        line.close()


def test_strangers_neither_stop_nor_delay_the_roll_call(capsys):
    """faults B8: junk of all kinds before and during the roll call; the processes meet all the same, at once."""
    address, end = free_address(), threading.Event()
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        found = [pool.submit(rendezvous, address, present(0), 30.0)]
        strangers = pool.submit(bother, address, end)
        time.sleep(1.0)
        started = time.monotonic()
        found += [pool.submit(rendezvous, address, present(index), 30.0) for index in (1, 2)]
        try:
            assert [future.result() for future in found] == [["host0", "host1", "host2"]] * 3
            assert time.monotonic() - started < 5
        finally:
            end.set()
        strangers.result()
    assert "warning: a caller from" in capsys.readouterr().err
    with socket.create_server(split_address(address)):  # the port is free for jax
        pass


def test_with_strangers_alone_the_limit_holds():
    """faults B8: nobody who drips, or is silent, makes process 0 wait beyond its limit."""
    address, end = free_address(), threading.Event()
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        strangers = pool.submit(bother, address, end)
        started = time.monotonic()
        with pytest.raises(ProcessError, match=r"1 of 3.*missing: process 1, 2\."):
            rendezvous(address, present(0), 1.0)
        assert time.monotonic() - started < 6
        end.set()
        strangers.result()


ANSWERS = [
    b"HTTP/1.1 400 Bad Request\r\n\r\n", b"[]\n", TAG + b"[]\n", TAG + b"{}\n", TAG + b'{"hosts": 1}\n',
    TAG + b'{"hosts": ["a"]}\n', TAG + b'{"hosts": ["a", "b", 1]}\n', TAG + b'{"problem": "OSError", "text": ["a"]}\n',
    TAG + b'{"problem": [], "text": []}\n', TAG + b'{"problem": "ConfigError", "text": [1, 2, 3, 4]}\n',
    TAG + b'{"problem": "ConfigError", "text": "abcd"}\n', TAG + b"[" * 10**5 + b"\n", b"\xff\n", b"",
]  # fmt: skip


@pytest.mark.parametrize("answer", ANSWERS, ids=lambda answer: repr(answer[:60]))
def test_an_answer_that_is_none_is_named(answer):
    """faults B8: what is not process 0, but has its address, ends in an error that names the address."""
    with socket.create_server(("127.0.0.1", 0)) as server, concurrent.futures.ThreadPoolExecutor(1) as pool:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        waiting = pool.submit(rendezvous, address, present(1), 0.3)
        server.settimeout(0.2)
        while not waiting.done():
            with contextlib.suppress(OSError), server.accept()[0] as line:
                line.recv(2**16)
                line.sendall(answer)
        with pytest.raises(ProcessError, match=rf"process 0 = .no answer at {address}"):
            waiting.result()


def test_all_that_differs_is_said_at_once():
    """faults B5: one message in every process names each process that differs, and in what."""
    common = {"config": "{}", "jax": "0.7.1", "code": "a.py 1\nb.py 2"}
    texts = [common, common | {"jax": "0.7.0"}, common, common | {"code": "a.py 1\nb.py 3", "jax": "0.6.0"}]
    processes = [Hello(index, 4, f"host{index}", same) for index, same in enumerate(texts)]
    found = answers(processes, describers={"code": differing_files})
    assert len({str(error) for error in found}) == 1
    assert isinstance(found[0], ConfigError)
    assert "2 of 4" in str(found[0])
    for words in (
        "process 1 (host host1): jax: 0.7.0, not 0.7.1",
        "process 3 (host host3)",
        "code: b.py",
        "jax: 0.6.0",
    ):
        assert words in str(found[0])
    assert "process 2" not in str(found[0])


def test_a_long_list_of_differences_stays_short_and_whole():
    """faults B5: at most 500 characters, in which each thing that differs has its name."""
    texts = [{name: f"{index}{name}" * 99 for name in ("config", "code", "jax")} for index in range(8)]
    found = answers([Hello(index, 8, f"host{index}", same) for index, same in enumerate(texts)])
    for error in found:
        assert len(str(error)) <= 500
        assert "7 of 8" in str(error)
        assert all(name in str(error) for name in ("config", "code", "jax", "process 1 (host host1)"))


def test_what_one_side_does_not_say_differs():
    """faults B5: a process whose release compares more, or less, is not taken for the same."""
    found = answers([Hello(0, 2, "a", {"jax": "1"}), Hello(1, 2, "b", {"jax": "1", "flax": "2"})])
    assert all("flax of process 1 (host b) = '2, not none'" in str(error) for error in found)


def test_a_config_that_is_none_differs_in_words():
    """faults B8: texts of strangers and of other releases are described, never resolved."""
    assert describe_difference('{"a": {"b": 1}}', '{"a": {"b": 2}, "c": 3}') == "a.b is 2, not 1; c is 3, not None"
    for other in ("", "[1]", "1", "[" * 10**5, '{"a":' * 500 + "1" + "}" * 500, "null", "\ud800"):
        assert len(show(describe_difference('{"a": 1}', other))) > 5
