"""The exceptions and warnings of the package."""

from __future__ import annotations


class SeqstreamError(Exception):
    """Any failure of seqstream.

    Attributes:
        message: What is wrong and where.
        hint: What helps, in the words of this package; None if nothing is known.
        exit_code: The code with which the program `seqstream` would have ended.
    """

    message: str
    hint: str | None
    exit_code: int

    def __init__(self, message: str, hint: str | None = None, exit_code: int = 1) -> None:
        super().__init__(message, hint, exit_code)
        self.message = message
        self.hint = hint
        self.exit_code = exit_code

    def __str__(self) -> str:
        return self.message if self.hint is None else f"{self.message}\nhint: {self.hint}"


class UsageError(SeqstreamError, ValueError):
    """Arguments that contradict each other or name something that does not exist (exit code 2)."""


class InputError(SeqstreamError, ValueError):
    """A sequence or an input file that cannot be embedded (exit code 3)."""


class ModelError(SeqstreamError):
    """A model that cannot be used (exit code 4)."""


class OutputError(SeqstreamError):
    """An output that could not be written or read (exit code 5)."""


class ResumeError(SeqstreamError):
    """A directory that holds another job, or that another job writes to (exit code 6)."""


class DeviceError(SeqstreamError):
    """A device that is not available (exit code 7), that failed, or whose memory is too small for the model (8)."""


class DownloadError(SeqstreamError):
    """A model that could not be downloaded (exit code 9)."""


class InputWarning(UserWarning):
    """Sequences that were embedded, but are probably not what was meant."""


class ModelWarning(UserWarning):
    """A model or a cache that can be used, but has a fault."""
