"""How often the host waits for the value of an array on a device."""

import contextlib

from jax._src.array import ArrayImpl


class HostReads:
    """Counts arrays whose values the host reads, but for those read inside `allowed`. `monkeypatch`: pytest's."""

    def __init__(self, monkeypatch):
        self.count, self._allowed = 0, False
        read = ArrayImpl._value.fget

        def counted(array):
            self.count += not self._allowed
            return read(array)

        monkeypatch.setattr(ArrayImpl, "_value", property(counted))

    @contextlib.contextmanager
    def allowed(self):
        self._allowed = True
        try:
            yield
        finally:
            self._allowed = False

    def allow_in(self, function):
        def wrapped(*args, **kwargs):
            with self.allowed():
                return function(*args, **kwargs)

        return wrapped
