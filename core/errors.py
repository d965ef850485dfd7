"""The root of every error that Tidegate raises on purpose, and what each tells the caller to do.

    TidegateError
    ├── ConfigurationError     the operator must change a file; a command exits with 78
    ├── StorageError           the disk refused; nothing was stored, try again later
    │   └── DamagedStore       the file cannot be read as what it was; it must be set aside
    ├── RequestRefused         a client's request changes nothing; it is told a code and why
    └── (each package adds its own leaves beside its code)
"""


class TidegateError(Exception):
    """Something went wrong that the message explains; no traceback is owed to the user."""


class ConfigurationError(TidegateError):
    """What the operator wrote cannot be used; `problems` lists every fault found, one line each, path first."""

    def __init__(self, source: str, problems: list[str]) -> None:
        super().__init__("\n".join(f"{source}: {problem}" for problem in problems))
        self.source = source
        self.problems = problems


class StorageError(TidegateError):
    """A write or a commit failed: disk full, I/O error. Nothing of it was stored."""


class DamagedStore(StorageError):
    """A database file that SQLite or our own checksums call malformed."""


class RequestRefused(TidegateError):
    """A client's request that changes nothing; `code` is that of HTTP, 400 to 599, and `message` is for the client."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
