"""Whether all processes are up and run the same thing, checked over TCP before jax starts.

jax's own start ends a process that waits in vain with an abort that names no other. Here process 0 listens on the
coordinator's address, every other process says who it is and what it runs, and all get the same answer: the names of
the hosts, or who is missing or different. Then the port is free again and jax's coordinator takes it.

The port is open to anyone. A line of ours begins with TAG; a caller that sends anything else is a stranger, whose
connection is closed, and process 0 reads all its callers at the same time, so that none of them can hold up the others.
"""

import contextlib
import dataclasses
import json
import selectors
import socket
import struct
import time
from collections.abc import Callable, Iterable, Mapping, Sequence

from xsample_jax.errors import ConfigError, ProcessError, shorten
from xsample_jax.io.console import say

TAG = b"xsample_jax roll call 2 "  # the number is that of the format
LONGEST_LINE = 4 * 2**20  # bytes
LONGEST_NAME = 255  # characters of a host name, or of the name of a text
HELLO_LIMIT = 30.0  # seconds that a caller has to say who it is
ANSWER_GRACE = (
    10.0  # seconds that a process waits for the answer beyond its own limit: process 0 may have started later
)
ANSWER_LIMIT = 10.0  # seconds that process 0 takes to answer all
SETTLE = 2.0  # seconds that process 0 still listens once a process differs, to name all that do
RETRY = 0.2
MOST_WARNINGS = 10
MOST_GROUPS = 4  # of processes that differ in the same way, in one message

Describers = Mapping[str, Callable[[str, str], str]]


@dataclasses.dataclass(frozen=True)
class Hello:
    """What a process says: its number, the number of processes it was told, its host, and the texts that must agree.

    same: {name: text}, as {"config": its JSON, "jax": version}.
    """

    index: int
    count: int
    host: str
    same: dict[str, str]

    def __str__(self) -> str:
        return f"process {self.index} (host {self.host})"


@dataclasses.dataclass(eq=False)
class Caller:
    """A connection to process 0: where it comes from, when its hello is due, what it has sent, its hello when read."""

    line: socket.socket
    where: str
    due: float
    text: bytearray = dataclasses.field(default_factory=bytearray)
    hello: Hello | None = None


def rendezvous(address: str, own: Hello, seconds: float, describers: Describers | None = None) -> list[str]:
    """Waits until all processes have answered; returns their hosts in the order of the processes.

    Args:
      address: host:port of process 0, free again when this returns.
      own: this process.
      seconds: how long to wait.
      describers: {name in `same`: function (text of process 0, text of the other) -> words for how they differ}.

    Raises:
      ProcessError: processes are missing after that time; the message names them, in every process.
      ConfigError: a process was told another number of processes, a number that is taken, or has another `same`.
    """
    if own.index == 0:
        return _listen(address, own, seconds, describers or {})
    return _report(address, own, seconds)


def _listen(address: str, own: Hello, seconds: float, describers: Describers) -> list[str]:
    callers: list[Caller] = []
    with _server(address) as server:
        try:
            present, problem = _gather(server, own, seconds, callers)
            different = {index: hello for index, hello in present.items() if hello.same != own.same}
            if problem is None and different:
                problem = _disagreement(own, different, describers)
            elif problem is None and len(present) < own.count:
                problem = missing(own.count, present, seconds)
            hosts = [present[index].host for index in sorted(present)]
            kind = type(problem).__name__
            _answer(callers, {"hosts": hosts} if problem is None else {"problem": kind, "text": _parts(problem)})
        finally:
            for caller in callers:
                _hang_up(caller)
    if problem is not None:
        raise problem
    return hosts


def _gather(
    server: socket.socket, own: Hello, seconds: float, callers: list[Caller]
) -> tuple[dict[int, Hello], ConfigError | None]:
    """Listens until all are there, or time is up: the processes that came, by number, and what forbids to wait on."""
    deadline = time.monotonic() + seconds
    settled = None
    warned: set[str] = set()
    with selectors.DefaultSelector() as selector:
        selector.register(server, selectors.EVENT_READ)
        while True:
            present = {0: own} | {caller.hello.index: caller.hello for caller in callers if caller.hello}
            at = time.monotonic()
            differs = any(hello.same != own.same for hello in present.values())
            settled = (settled or at + SETTLE) if differs else None  # one that differed may have gone away again
            end = min(deadline, settled or deadline)
            if len(present) == own.count or at >= end:
                return present, None
            for caller in [caller for caller in callers if caller.hello is None and caller.due <= at]:
                _dismiss(caller, callers, selector, "it has not said who it is", warned)
            for key, _ in selector.select(min(end - at, 1.0)):
                if key.fileobj is server:
                    _accept(server, callers, selector)
                    continue
                caller, known = key.data, key.data.hello
                if caller not in callers:  # dismissed a moment ago
                    continue
                try:
                    _hear(caller)
                except BlockingIOError:
                    continue
                except OSError:  # it ended while it waited, perhaps to be started again
                    _dismiss(caller, callers, selector)
                except ValueError as error:
                    _dismiss(caller, callers, selector, str(error), warned)
                if caller.hello is not None and known is None:
                    problem = _misnumbered(own, [other.hello for other in callers if other is not caller], caller.hello)
                    if problem is not None:
                        return present, problem


def _accept(server: socket.socket, callers: list[Caller], selector: selectors.BaseSelector) -> None:
    try:
        line, where = server.accept()
        line.setblocking(False)
    except BlockingIOError:
        return
    except OSError:  # too many connections: those that are silent make room
        for caller in [caller for caller in callers if caller.hello is None]:
            _dismiss(caller, callers, selector)
        time.sleep(0.01)
        return
    caller = Caller(line, str(where[0]), time.monotonic() + HELLO_LIMIT)
    callers.append(caller)
    selector.register(line, selectors.EVENT_READ, caller)


def _hear(caller: Caller) -> None:
    """Reads what has come. Raises OSError when the caller has ended, ValueError when it is not one of ours."""
    news = caller.line.recv(2**16)
    if not news:
        raise ConnectionError("the line ended")
    if caller.hello is None:
        caller.text += news
        message = _message(caller.text, whole=b"\n" in news)
        if message is not None:
            caller.hello = _hello(message)
            caller.text.clear()


def _dismiss(caller: Caller, callers: list[Caller], selector, reason: str = "", warned: set[str] | None = None) -> None:
    selector.unregister(caller.line)
    callers.remove(caller)
    _hang_up(caller)
    if reason and caller.where not in warned and len(warned) < MOST_WARNINGS:
        warned.add(caller.where)
        say(f"warning: a caller from {caller.where} is not a process of this run: {reason}", error=True)


def _hang_up(caller: Caller) -> None:
    """Closes a connection without waiting for the other side, which would keep the port."""
    with contextlib.suppress(OSError):
        caller.line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    caller.line.close()


def _encode(message: dict) -> bytes:
    return TAG + json.dumps(message).encode() + b"\n"


def _message(text: bytearray, whole: bool) -> dict | None:
    """The object in a line, None while the line has no end. Raises ValueError when none of ours wrote it."""
    if text[: len(TAG)] != TAG[: len(text)]:
        raise ValueError(f"it says {shorten(repr(bytes(text[:40])), 80)}")
    if len(text) > LONGEST_LINE:
        raise ValueError(f"its line is longer than {LONGEST_LINE} bytes")
    if not whole:
        return None
    try:
        message = json.loads(text[len(TAG) : text.index(b"\n")].decode())
    except RecursionError:
        raise ValueError("its line is nested too deeply") from None
    except ValueError as error:
        raise ValueError(f"its line is not JSON ({type(error).__name__})") from None
    if not isinstance(message, dict):
        raise ValueError(f"its line is a {type(message).__name__}, not an object")
    return message


def _hello(message: dict) -> Hello:
    """The hello in a message; ValueError when a field is missing, or has the wrong type, length or range."""
    if message.keys() != {"index", "count", "host", "same"}:
        raise ValueError("its line has other fields")
    index, count, host, same = (message[name] for name in ("index", "count", "host", "same"))
    if type(index) is not int or type(count) is not int or not 0 < index < count < 2**31:
        raise ValueError("it has no number among the processes")
    if not _is_name(host):
        raise ValueError("it names no host")
    if not isinstance(same, dict) or not all(_is_name(name) and isinstance(same[name], str) for name in same):
        raise ValueError("it does not say what it runs")
    return Hello(index, count, host, same)


def _is_name(text: object) -> bool:
    return isinstance(text, str) and 0 < len(text) <= LONGEST_NAME and text.isprintable()


def missing(count: int, present, seconds: float, where: str = "the start") -> ProcessError:
    """The error that names the processes that are not among `present` (numbers), of `count`."""
    absent = [str(index) for index in range(count) if index not in present]
    shown = ", ".join(absent[:16]) + (f" and {len(absent) - 16} more" if len(absent) > 16 else "")
    return ProcessError(
        f"processes at {where}",
        f"{len(present)} of {count}",
        f"all {count} within {seconds:g} s; missing: process {shown}",
        "Read its log: it was not started, has failed, or cannot reach the address of process 0.",
    )


def _misnumbered(first: Hello, others: Iterable[Hello | None], new: Hello) -> ConfigError | None:
    if new.count != first.count:
        expected = f"{first.count}, which process 0 (host {first.host}) was given"
        return ConfigError(f"--num_processes of {new}", new.count, expected, "Start all with the same number.")
    for other in others:
        if other is not None and other.index == new.index:
            expected = f"a number of its own: host {other.host} has this one already"
            return ConfigError(f"--process_id on host {new.host}", new.index, expected)
    return None


def _disagreement(first: Hello, different: dict[int, Hello], describers: Describers) -> ConfigError:
    """The error that names the processes that do not run what `first` runs, and in what each differs."""
    groups: dict[tuple[tuple[str, str], ...], list[Hello]] = {}
    for _, other in sorted(different.items()):
        groups.setdefault(_differences(first.same, other.same, describers), []).append(other)
    names = shorten(", ".join(dict.fromkeys(name for differences in groups for name, _ in differences)), 120)
    fix = "Start all processes with the same command, code and environment."
    if len(groups) == 1:
        (differences, others), *_ = groups.items()
        words = differences[0][1] if len(differences) == 1 else _in_words(differences, 300)
        if len(words) <= 150:
            return ConfigError(f"{names} of {_who(others)}", words, f"the {names} of {first}", fix)
    each = 260 // min(len(groups), MOST_GROUPS)
    lines = [f"{_who(others)}: {_in_words(differences, each)}" for differences, others in groups.items()]
    if len(lines) > MOST_GROUPS:
        rest = [str(other.index) for others in list(groups.values())[MOST_GROUPS:] for other in others]
        lines[MOST_GROUPS:] = [f"others in process {shorten(', '.join(rest), 40)}"]
    expected = f"the {names} of {first}; {'; '.join(lines)}"
    return ConfigError("processes that run something else", f"{len(different)} of {first.count}", expected, fix)


def _differences(ours: dict[str, str], theirs: dict[str, str], describers: Describers) -> tuple[tuple[str, str], ...]:
    """(name, words) of each text that differs."""
    found = []
    for name in ours | theirs:
        here, there = ours.get(name, ""), theirs.get(name, "")
        if here != there:
            describe = describers.get(name, lambda here, there: f"{there or 'none'}, not {here or 'none'}")
            found.append((name, shorten(describe(here, there), 300)))
    return tuple(found)


def _in_words(differences: Sequence[tuple[str, str]], room: int) -> str:
    """Words for all differences, of which each has its share of `room` characters."""
    share = max(room // len(differences), 20)
    return shorten("; ".join(shorten(f"{name}: {words}", share) for name, words in differences), room)


def _who(others: list[Hello]) -> str:
    """Words for processes, with their hosts while these are few."""
    if len(others) <= 2:
        return ", ".join(map(str, others))
    return f"process {shorten(', '.join(str(other.index) for other in others), 60)} (host {others[0].host} and others)"


def _report(address: str, own: Hello, seconds: float) -> list[str]:
    deadline = time.monotonic() + seconds
    while True:
        try:
            answer = _ask(address, own, deadline, seconds + ANSWER_GRACE)
            break
        except (OSError, ValueError) as error:  # not up yet, not process 0, or it went away before it answered
            if time.monotonic() >= deadline:
                raise ProcessError(
                    "process 0",
                    f"no answer at {address} ({error})",
                    f"its roll call within {seconds:g} s; missing: process 0",
                    "Is it started, is the address its own, and is the port open between the hosts?",
                ) from error
            time.sleep(RETRY)
    if "problem" in answer:
        raise {"ConfigError": ConfigError, "ProcessError": ProcessError}[answer["problem"]](*answer["text"])
    return answer["hosts"]


def _ask(address: str, own: Hello, deadline: float, patience: float) -> dict:
    """The answer of process 0, which has `patience` seconds for it. Raises OSError, or ValueError for another form."""
    with socket.create_connection(split_address(address), timeout=max(deadline - time.monotonic(), 0.001)) as line:
        end = time.monotonic() + patience
        line.settimeout(patience)
        line.sendall(_encode(dataclasses.asdict(own)))
        text, answer = bytearray(), None
        while answer is None:
            line.settimeout(max(end - time.monotonic(), 0.001))
            news = line.recv(2**16)
            if not news:
                raise ConnectionError("the line ended early")
            text += news
            answer = _message(text, whole=b"\n" in news)
            if answer is None and time.monotonic() >= end:
                raise TimeoutError("timed out")
    hosts, problem, parts = answer.get("hosts"), answer.get("problem"), answer.get("text")
    if problem is None:
        fine = isinstance(hosts, list) and len(hosts) == own.count and all(map(_is_name, hosts))
    else:
        fine = problem in ("ConfigError", "ProcessError") and isinstance(parts, list) and len(parts) == 4
        fine = fine and isinstance(parts[1], str | int | None) and all(isinstance(parts[n], str) for n in (0, 2, 3))
    if not fine:
        raise ValueError("its answer has another form")
    return answer


def split_address(address: str) -> tuple[str, int]:
    """("host", port) of "host:port" or "[v6 address]:port". Raises ValueError."""
    host, _, port = address.rpartition(":")
    if not host or not 0 < int(port) < 65536:
        raise ValueError(address)
    return host.strip("[]"), int(port)


def _server(address: str) -> socket.socket:
    port = split_address(address)[1]
    backlog = 4096
    try:
        try:
            server = socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=backlog)
        except (OSError, ValueError):  # no IPv6 here
            server = socket.create_server(("", port), backlog=backlog)
    except OSError as error:
        raise ConfigError(
            "--coordinator_address", address, f"a free port on the host of process 0 ({error})", "Use another port."
        ) from error
    server.setblocking(False)
    return server


def _answer(callers: list[Caller], answer: dict) -> None:
    """Answers all, and waits until the other sides have closed: then the port is free of these connections at once."""
    text = _encode(answer)
    end = time.monotonic() + ANSWER_LIMIT
    known = [caller.line for caller in callers if caller.hello is not None]
    for work in (lambda line: line.sendall(text), lambda line: line.recv(1)):
        for line in known:
            with contextlib.suppress(OSError):  # it has ended; jax's start will say so
                line.settimeout(max(end - time.monotonic(), 0.001))
                work(line)


def _parts(error) -> list:
    return [error.field, error.value, error.expected, error.fix]
