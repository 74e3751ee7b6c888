"""TensorBoard's event files, written without its packages: they import torch or TensorFlow where it is installed.

A file is a row of TFRecords (length, checksum of the length, data, checksum of the data), each holding one protocol
buffer of type Event. Formats: tensorflow/core/lib/io/record_writer.h, core/util/event.proto, core/framework/
summary.proto; the checksum is CRC-32C (RFC 3720, appendix B.4).
"""

import contextlib
import struct
import time
from collections.abc import Mapping
from pathlib import Path

from xsample_jax.io.files import append_whole
from xsample_jax.metrics.jsonl import plain_number


class TensorBoardWriter:
    """Writes TensorBoard scalars; TensorBoard itself hides what earlier event files hold after `resume_step`."""

    def __init__(self, folder: str | Path, resume_step: int = 0):
        self._events = EventFile(folder, purge_step=resume_step + 1)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        plain = {name: plain_number(value) for name, value in values.items()}
        self._events.write(step, {name: value for name, value in plain.items() if isinstance(value, int | float)})

    def close(self) -> None:
        self._events.close()


_LARGEST = float.fromhex("0x1.fffffep+127")  # float32
_START = b"\x08\x01"  # SessionLog.status


class EventFile:
    """A new event file in `folder`; every event is with the operating system when `write` returns.

    Args:
      folder: made if missing. Files in it that are older stay.
      purge_step: TensorBoard forgets what the older files hold of this step and of later ones.
    """

    def __init__(self, folder: str | Path, purge_step: int):
        Path(folder).mkdir(parents=True, exist_ok=True)
        # TensorBoard reads the files of a folder in the order of their names, also where the clock was set back.
        before = [0.0]
        for path in Path(folder).glob("events.out.tfevents.*"):
            with contextlib.suppress(ValueError):  # a file of another writer has more in its name
                before.append(float(".".join(path.name.split(".")[3:5])))
        path = Path(folder) / f"events.out.tfevents.{max(time.time(), max(before) + 1):.6f}"
        self._file = path.open("xb", buffering=0)
        self._append(0, _field(3, b"brain.Event:2"))
        self._append(purge_step, _field(7, _START))

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Appends one event with all `values`, which TensorBoard keeps as float32."""
        self._append(step, _field(5, b"".join(_scalar(name, value) for name, value in values.items())))

    def close(self) -> None:
        self._file.close()

    def _append(self, step: int, what: bytes) -> None:
        event = b"\x09" + struct.pack("<d", time.time()) + (b"\x10" + _varint(int(step)) if step else b"") + what
        length = struct.pack("<Q", len(event))
        append_whole(self._file, length + _masked_checksum(length) + event + _masked_checksum(event))


def _scalar(name: str, value: float) -> bytes:
    """A Summary with one Value: its tag, and its number as float32."""
    number = struct.pack("<f", min(max(float(value), -_LARGEST), _LARGEST))
    return _field(1, _field(1, name.encode()) + b"\x15" + number)


def _field(number: int, data: bytes) -> bytes:
    """A field of a protocol buffer that holds a text or another buffer."""
    return bytes([number << 3 | 2]) + _varint(len(data)) + data


def _varint(number: int) -> bytes:
    """A number >= 0, seven bits in a byte, the lowest first; the eighth bit says that more follow."""
    coded = bytearray()
    while number > 127:
        coded.append(number & 127 | 128)
        number >>= 7
    return bytes([*coded, number])


def _divide(byte: int) -> int:
    for _ in range(8):
        byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
    return byte


_REMAINDERS = tuple(map(_divide, range(256)))


def checksum(data: bytes) -> int:
    """Returns the CRC-32C of `data`."""
    state = 0xFFFFFFFF
    for byte in data:
        state = state >> 8 ^ _REMAINDERS[(state ^ byte) & 255]
    return state ^ 0xFFFFFFFF


def _masked_checksum(data: bytes) -> bytes:
    """The checksum as TFRecords store it: turned by 15 bits and moved, since data may hold checksums itself."""
    crc = checksum(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)
