"""Are all processes up, and do they run the same thing? Asked over TCP before jax starts.

jax's own start ends a process that waits in vain with an abort that names nobody. Here process 0 listens on the
coordinator's address, every other process says who it is and what it runs, and all get the same answer: the names of
the hosts, or who is missing or different. Then the port is free again and jax's coordinator takes it.
"""

import contextlib
import dataclasses
import json
import socket
import time
from collections.abc import Iterable

from xsample_jax.errors import ConfigError, ProcessError

ANSWER_GRACE = (
    10.0  # seconds that a process waits for the answer beyond its own limit: process 0 may have started later
)
RETRY = 0.2


@dataclasses.dataclass(frozen=True)
class Present:
    """What a process says: its number, the number of processes it was told, its host, and the texts that must agree.

    same: {name: text}, as {"config": its JSON, "xsample_jax": version}.
    """

    index: int
    count: int
    host: str
    same: dict[str, str]

    def __str__(self) -> str:
        return f"process {self.index} (host {self.host})"


def roll_call(address: str, own: Present, seconds: float, difference=None) -> list[str]:
    """Waits until all processes have answered; returns their hosts in the order of the processes.

    Args:
      address: host:port of process 0, free again when this returns.
      own: this process.
      seconds: how long to wait.
      difference: difference(name, text of process 0, text of the other) -> words for how they differ.

    Raises:
      ProcessError: processes are missing after that time; the message names them, in every process.
      ConfigError: a process was told another number of processes, a number that is taken, or has another `same`.
    """
    if own.index == 0:
        return _listen(address, own, seconds, difference or (lambda name, a, b: name))
    return _report(address, own, seconds)


def _listen(address: str, own: Present, seconds: float, difference) -> list[str]:
    deadline = time.monotonic() + seconds
    present: dict[int, Present] = {0: own}
    lines: dict[int, socket.socket] = {}
    problem: ConfigError | ProcessError | None = None
    with _server(address) as server:
        while problem is None:
            for index in [index for index, line in lines.items() if _closed(line)]:
                del lines[index], present[index]  # it ended while it waited, perhaps to be started again
            if len(present) == own.count:
                break
            if time.monotonic() >= deadline:
                problem = missing(own.count, present, seconds)
                break
            server.settimeout(max(deadline - time.monotonic(), 0.001))
            try:
                line = server.accept()[0]
                line.settimeout(5.0)
                other = Present(**json.loads(_read(line)))
            except (OSError, ValueError, TypeError):
                continue  # nobody called; or it was not one of ours, or fell silent
            problem = _contradiction(present, other, difference)
            lines[other.index if problem is None else -1] = line
            present.setdefault(other.index, other)
        hosts = [present[index].host for index in sorted(present)]
        answer = {"hosts": hosts} if problem is None else {"problem": type(problem).__name__, "text": _parts(problem)}
        _answer(lines.values(), answer)
    if problem is not None:
        raise problem
    return hosts


def missing(count: int, present, seconds: float, where: str = "the start") -> ProcessError:
    """The error that names the processes that are not among `present` (numbers), of `count`."""
    absent = [str(index) for index in range(count) if index not in present]
    shown = ", ".join(absent[:16]) + (f" and {len(absent) - 16} more" if len(absent) > 16 else "")
    return ProcessError(
        f"processes at {where}",
        f"{len(present)} of {count}",
        f"all {count} within {seconds:g} s; missing: process {shown}",
        "Read the log of what is missing: it was not started, has failed, or cannot reach the address of process 0.",
    )


def _contradiction(present: dict[int, Present], other: Present, difference) -> ConfigError | None:
    first = present[0]
    if other.count != first.count:
        expected = f"{first.count}, which process 0 (host {first.host}) was given"
        return ConfigError(f"--num_processes of {other}", other.count, expected, "Start all with the same number.")
    if other.index in present:
        expected = f"a number of its own: host {present[other.index].host} has this one already"
        return ConfigError(f"--process_id on host {other.host}", other.index, expected)
    for name, text in first.same.items():
        theirs = other.same.get(name, "")
        if theirs != text:
            how = difference(name, text, theirs)
            expected = f"the {name} of process 0 (host {first.host})"
            return ConfigError(f"{name} of {other}", how, expected, "Start all processes with the same command.")
    return None


def _report(address: str, own: Present, seconds: float) -> list[str]:
    host, port = split_address(address)
    deadline = time.monotonic() + seconds
    while True:
        try:
            with socket.create_connection((host, port), timeout=max(deadline - time.monotonic(), 0.001)) as line:
                line.settimeout(seconds + ANSWER_GRACE)
                line.sendall((json.dumps(dataclasses.asdict(own)) + "\n").encode())
                answer = json.loads(_read(line))
            break
        except (OSError, ValueError) as error:  # not up yet, or it went away before it answered
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
            return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=backlog)
        except (OSError, ValueError):  # no IPv6 here
            return socket.create_server(("", port), backlog=backlog)
    except OSError as error:
        raise ConfigError(
            "--coordinator_address", address, f"a free port on the host of process 0 ({error})", "Use another port."
        ) from error


def _read(line: socket.socket) -> str:
    with line.makefile("r", encoding="utf-8") as file:
        text = file.readline()
    if not text.endswith("\n"):
        raise ConnectionError("the line ended early")
    return text


def _closed(line: socket.socket) -> bool:
    line.setblocking(False)
    try:
        return line.recv(1) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


def _answer(lines: Iterable[socket.socket], answer: dict) -> None:
    """Answers all, and waits until the other sides have closed: then the port is free of these connections at once."""
    text = (json.dumps(answer) + "\n").encode()
    for work in (lambda line: line.sendall(text), lambda line: line.recv(1), lambda line: line.close()):
        for line in lines:
            with contextlib.suppress(OSError):  # it has ended; jax's start will say so
                line.settimeout(5.0)
                work(line)


def _parts(error) -> list:
    return [error.field, error.value, error.expected, error.fix]
