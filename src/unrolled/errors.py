"""The error tree.

Every mistake a user can make raises an `UnrolledError` whose message is one line: what was asked,
why it cannot be, and what works instead. The command line prints that line and exits with status 2.

    UnrolledError
    ├── CellError         the equations of a cell are wrong, or no such cell exists
    ├── InputError        a tensor, a state or an argument of a layer does not fit
    │   └── BudgetError   an amount of memory is too small; the message says how much it takes
    ├── BackendError      a backend cannot run what it was asked to
    ├── DataError         a text, a data set or a download
    ├── CheckpointError   a run folder or a checkpoint
    └── DivergedError     training produced a value that is not finite
"""


class UnrolledError(Exception):
    """Base of every error this library raises on purpose."""


class CellError(UnrolledError):
    """The equations of a cell are wrong, or no cell of that name exists."""


class InputError(UnrolledError, ValueError, TypeError, RuntimeError):
    """An argument, a tensor or a state does not fit what it was given to.

    For the same mistake torch raises now the one and now the other of these kinds; whoever catches its errors
    catches this.
    """


class BudgetError(InputError):
    """An amount of memory is too small for what is to be done in it; the message says how much it takes."""


def check_sizes(**sizes: object) -> None:
    """
    Raises:
        InputError: one of them is not a whole number of at least 1.
    """
    for what, size in sizes.items():
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise InputError(f"{what} must be a whole number of at least 1, got {size!r}")


def no_such_token(token: int, words: int) -> InputError:
    """What to raise where a token is none of so many words."""
    return InputError(f"token numbers go from 0 to {words - 1}, but x has {token}")


class BackendError(UnrolledError):
    """The backend that was asked for cannot run this cell on this machine or these tensors."""


class DataError(UnrolledError):
    """A text or a data set is missing, unreadable, too short or not what was expected."""


class CheckpointError(UnrolledError):
    """A run folder or a checkpoint is missing, damaged, or belongs to something else."""


class DivergedError(UnrolledError):
    """Training produced a loss or a gradient that is not finite."""
