"""What a check says: one line, and what to do about it."""

import contextlib
import dataclasses
from collections.abc import Iterable, Iterator

from xsample_jax.errors import Problems, UserError

OK, NOTE, PROBLEM = "ok", "note", "problem"


@dataclasses.dataclass(frozen=True)
class Finding:
    """One line of the doctor.

    Attributes:
      level: ok, note (a run would work) or problem (it would not, or not as meant).
      about: config, data, records, embeddings, devices, disk or host.
      text: what was found, and the fix.
    """

    level: str
    about: str
    text: str

    def __str__(self) -> str:
        return f"{self.level:8}{self.about:12}{' '.join(self.text.split())}"


def problems(about: str, error: UserError) -> Iterator[Finding]:
    """The findings that an error stands for."""
    for single in error.problems if isinstance(error, Problems) else [error]:
        yield Finding(PROBLEM, about, str(single))


def once(findings: Iterable[Finding]) -> list[Finding]:
    """The findings without those that an earlier one says, alone or among more: several checks meet one broken file."""
    kept: list[Finding] = []
    for finding in findings:
        if not any(finding.text in earlier.text for earlier in kept):
            kept.append(finding)
    return kept


@contextlib.contextmanager
def reported(about: str, findings: list[Finding]):
    """Turns a UserError inside into findings."""
    try:
        yield
    except UserError as error:
        findings.extend(problems(about, error))
