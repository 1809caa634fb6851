"""Every error that paramscope raises on purpose.

    ParamscopeError
    ├── UsageError         an option or a combination of options that cannot work
    ├── SourceError        the place is not there, cannot be reached, or gives the wrong bytes
    │   └── NoCheckpointError   the place is there and holds nothing we can read
    ├── CheckpointError    the files are there, but are not what their format promises
    ├── RunError           the run's folder cannot be written, or belongs to another run
    └── DeviceError        the device asked for is not there

A message reads `where: expected X, found Y. Do Z.`: it names the file, the tensor and the
next step. The CLI prints it without a traceback and exits with 2.
"""

from __future__ import annotations


class ParamscopeError(Exception):
    """Base of all errors that a user can cause and mend."""


class UsageError(ParamscopeError):
    """An option, or a combination of options, that cannot work."""


class SourceError(ParamscopeError):
    """The place of a checkpoint is missing, unreachable, or gives the wrong bytes."""


class NoCheckpointError(SourceError):
    """The place exists and holds no weights in a format that is supported."""


class CheckpointError(ParamscopeError):
    """A file of the checkpoint breaks the rules of its format."""


class RunError(ParamscopeError):
    """The run's folder cannot be written, or holds another run."""


class DeviceError(ParamscopeError):
    """The device asked for does not exist on this machine."""


def nearest_first(unknown: str, known: list[str]) -> list[str]:
    """The known names, those most like the unknown one first; for messages."""
    import difflib

    close = difflib.get_close_matches(unknown, known, n=len(known), cutoff=0.6)
    return close + [name for name in known if name not in close]
