"""Every error Overt raises on purpose.

::

    OvertError                    exit  wire
    ├── UsageError                2     400   what was asked for makes no sense
    │   ├── BadRef                          a name that does not follow the grammar of ref.py
    │   ├── BadSetting                      a setting, flag or environment variable out of range
    │   ├── BadRequest                      a request an engine cannot carry out as asked
    │   │   ├── ContextExceeded             a prompt longer than the context; never trimmed instead
    │   │   └── TooLarge          2     413   a request of more bytes than a server takes
    │   └── Unsupported           2     501   what this model, engine or version cannot do at all
    ├── NotFound                  3     404   the thing named is not there
    │   ├── ModelNotFound                   no such model in the store, catalogue or source
    │   └── WrongMethod           3     405   an address that takes other methods
    ├── DoesNotFit                4     507   more memory or disk than there is
    │   ├── OutOfMemory                     weights + KV cache + buffers exceed what is free
    │   └── OutOfDisk                       the store's disk is too full for the download
    ├── Refused                   5     403   could be done, but must not be
    │   ├── UnsafeFile                      content that runs code when loaded, or leaves its folder
    │   ├── NeedsAccess                     a gated model, or a missing or wrong token
    │   ├── NoEgress                        policy keeps the text of requests on this machine
    │   ├── NoKey                 5     401   a server was asked without a valid key
    │   ├── WrongHost             5     421   a server was asked by a name that is not its own
    │   └── NoIsolation                     the sandbox asked for cannot be had here
    ├── Failure                   1     500   tried, and it did not work
    │   ├── IntegrityError                  bytes differ from the digest that names them
    │   ├── SourceFailed          1     502   a hub, index or registry did not deliver
    │   ├── ProviderFailed        1     502   a model's provider did not answer, or not to the end
    │   │   └── TimedOut          1     504   it was silent for longer than the settings allow
    │   ├── Offline               1     503   the network was needed and is switched off
    │   ├── FormatError           1     422   a file that is not what its name says
    │   ├── EngineFailed                    the engine refused the model or the request
    │   │   └── WorkerDied        1     503   the sandboxed process ended; says how and why
    │   └── Busy                  1     503   somebody else holds the lock, or the queue is full
    │       └── TooMany           1     429   one key, or a provider's account, asked for too much
    └── Stopped                   130   499   the person (or a signal) stopped it

``str(error)`` is one sentence: what is wrong, with its numbers, and after a semicolon what to
type next. Foreign exceptions are turned into these where they enter (a source, the worker, the
store), so that nothing above needs to know whose library failed.
"""

from typing import ClassVar


class OvertError(Exception):
    """Base of all errors Overt raises on purpose.

    Attributes:
        message: what is wrong, with the numbers, no full stop.
        hint: what to do or type next, or None where nothing can be done.
        code: stable snake_case name for machines (the class's own).
        exit_code: the process exit status of the command line.
        status: the HTTP status a server answers with.
    """

    exit_code: ClassVar[int] = 1
    status: ClassVar[int] = 500

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}; {self.hint}" if self.hint else self.message

    @property
    def code(self) -> str:
        name = type(self).__name__
        return "".join(f"_{c.lower()}" if c.isupper() else c for c in name).lstrip("_")

    def as_json(self) -> dict[str, object]:
        """The shape `--json` prints and the native API answers with."""
        return {
            "error": {
                "code": self.code,
                "message": self.message,
                "hint": self.hint,
                "exit_code": self.exit_code,
            }
        }


class UsageError(OvertError):
    exit_code = 2
    status = 400


class BadRef(UsageError):
    pass


class BadSetting(UsageError):
    pass


class BadRequest(UsageError):
    pass


class ContextExceeded(BadRequest):
    """The prompt needs more tokens than the context holds.

    Attributes:
        tokens: tokens in the prompt; with `least` there are so many or more.
        context: tokens the context holds.
    """

    def __init__(
        self, tokens: int, context: int, hint: str | None = None, *, least: bool = False
    ) -> None:
        super().__init__(
            f"the prompt is {'at least ' if least else ''}{tokens} tokens "
            f"and the context holds {context}",
            hint or f"shorten it, or raise the context: --context {_round_up(tokens + 512)}",
        )
        self.tokens = tokens
        self.context = context


class TooLarge(BadRequest):
    status = 413


class Unsupported(UsageError):
    status = 501


class NotFound(OvertError):
    exit_code = 3
    status = 404


class ModelNotFound(NotFound):
    pass


class WrongMethod(NotFound):
    status = 405


class DoesNotFit(OvertError):
    exit_code = 4
    status = 507


class OutOfMemory(DoesNotFit):
    pass


class OutOfDisk(DoesNotFit):
    pass


class Refused(OvertError):
    exit_code = 5
    status = 403


class UnsafeFile(Refused):
    pass


class NeedsAccess(Refused):
    pass


class NoEgress(Refused):
    pass


class NoKey(Refused):
    status = 401


class WrongHost(Refused):
    status = 421


class NoIsolation(Refused):
    pass


class Failure(OvertError):
    pass


class IntegrityError(Failure):
    pass


class SourceFailed(Failure):
    status = 502


class ProviderFailed(Failure):
    """A provider failed, or could not be reached.

    Attributes:
        billed: whether it may bill what was asked; False where it surely does not.
    """

    status = 502

    def __init__(self, message: str, hint: str | None = None, *, billed: bool = False) -> None:
        super().__init__(message, hint)
        self.billed = billed


class TimedOut(ProviderFailed):
    status = 504


class Offline(Failure):
    status = 503


class FormatError(Failure):
    status = 422


class EngineFailed(Failure):
    pass


class WorkerDied(EngineFailed):
    status = 503


class Busy(Failure):
    """What was asked for takes nobody more just now.

    Attributes:
        retry_after: seconds after which asking again makes sense; None where nobody knows.
        asked_again: this program did so already, and gave up.
    """

    status = 503
    asked_again = False

    def __init__(
        self, message: str, hint: str | None = None, retry_after: float | None = None
    ) -> None:
        super().__init__(message, hint)
        self.retry_after = retry_after


class TooMany(Busy):
    status = 429


class Stopped(OvertError):
    exit_code = 130
    status = 499


def _round_up(tokens: int, step: int = 1024) -> int:
    return -(-tokens // step) * step


INSTALL_LAB = "type `pip install 'overt[lab]'`, or `make lab` in a checkout of Overt"
"""What to type where something of the extra `lab` is missing."""


def lacking(what: str, package: str) -> Unsupported:
    """What is raised where `what` needs a package of the lab that is not installed."""
    return Unsupported(f"{what} needs the package {package}", INSTALL_LAB)
