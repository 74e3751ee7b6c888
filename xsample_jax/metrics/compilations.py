"""How many programs this process has compiled. After the first steps of a run the number should stand still."""

import jax

_EVENT = "/jax/core/compile/backend_compile_duration"
_seen = {"listening": False, "count": 0}


def count_compilations() -> int:
    """Programs compiled (or taken from the compilation cache) since the first call, which gives 0."""
    if not _seen["listening"]:
        _seen["listening"] = True
        jax.monitoring.register_event_duration_secs_listener(_listen)
    return _seen["count"]


def _listen(event: str, duration: float, **about) -> None:
    _seen["count"] += event == _EVENT
