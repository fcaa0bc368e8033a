"""What became of the metrics of a run, and the exit code that follows from it."""

from dataclasses import dataclass
from typing import Optional


@dataclass(frozen=True)
class Outcome:
    """The end of a run.

    received, delivered: numbers of metrics.
    rejected: the number of lines and metrics that were rejected for good.
    waiting: the number of metrics that are kept in the spool.
    spool: the path of the spool.
    kept: whether the spool is where the next daemon finds it.
    stored: whether everything in the pipe reached the spool.
    failure: why the delivery ended early, if it did.
    last_error: why the last attempt to deliver failed, if it did.
    command_code: the exit code of the command as a shell gives it; None if there was no command.
    """

    received: int
    delivered: int
    rejected: int
    waiting: int
    spool: str
    kept: bool = True
    stored: bool = True
    failure: Optional[str] = None
    last_error: Optional[str] = None
    command_code: Optional[int] = None

    @property
    def is_complete(self) -> bool:
        """Whether nothing is left to deliver and, with a command, nothing was rejected."""
        if self.waiting or not self.stored or self.failure is not None:
            return False
        return self.command_code is None or not self.rejected

    @property
    def exit_code(self) -> int:
        """The exit code of the command, or 1 if that is 0 and the outcome is not complete."""
        return self.command_code or int(not self.is_complete)
