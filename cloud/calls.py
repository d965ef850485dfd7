"""What a cloud answers the rules' functions that call out: its registry of devices, secrets in files, embedded tables.

Everything is answered at once, from memory, a small file or the cloud's own database, as of its last commit: what rules
put into a table in the same step is not seen yet.
"""

import sqlite3
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from cloud.targets import UnknownTarget
from cloud.targets.tables import InvalidItem, Tables
from core.config import RulesSection
from core.errors import StorageError
from core.reader import reading
from core.secret_files import NoSecret, SecretFiles
from core.store import translate
from devices.registry import Thing
from devices.things import described
from rules.errors import CallFailed
from rules.sql.functions.calls import Unanswered
from rules.sql.payloads import read
from rules.sql.values import UNDEFINED

CALLS = frozenset({"get_dynamodb", "get_registry_data", "get_secret"})  # what a cloud can be asked


class CloudCalls(Unanswered):
    """The answers of one cloud; `things` gives those of its registry, `names` lacks get_secret without `secrets`.

    Raises ConfigurationError when there is no such directory. `close` it after the last rule has run.
    """

    def __init__(
        self, section: RulesSection, things: Callable[[], Mapping[str, Thing]], tables: Tables, database: Path
    ) -> None:
        self.names = CALLS if section.secrets is not None else CALLS - {"get_secret"}
        self._things = things
        self._secrets = SecretFiles(section.secrets) if section.secrets is not None else None
        self._tables = tables
        self._database = database
        self._open = ExitStack()
        self._connection: sqlite3.Connection | None = None

    def close(self) -> None:
        """Close the database."""
        self._connection = None
        self._open.close()

    def forget(self) -> None:
        """Read what may have changed again."""
        if self._secrets is not None:
            self._secrets.forget()

    def get_registry_data(self, api: str, thing: str) -> Any:
        """What the registry says of a thing."""
        answer = described(self._things(), api, thing)
        if answer is None:
            raise CallFailed(f"{api}: there is no thing {thing[:80]!r}")
        return answer

    def get_secret(self, secret_id: str) -> dict[str, str]:
        """The secret in the file of that name."""
        if self._secrets is None:
            raise CallFailed("get_secret(): [rules] names no directory of secrets")
        try:
            return self._secrets.get(secret_id, time.monotonic())
        except NoSecret as error:
            raise CallFailed(f"get_secret(): {error}") from None

    def get_dynamodb(self, table: str, key: dict[str, Any]) -> Any:
        """The item of an embedded table, UNDEFINED when there is none."""
        try:
            if self._connection is None:
                self._connection = self._open.enter_context(reading(self._database))
            found = self._tables.find(self._connection, table, key)
        except (InvalidItem, UnknownTarget, StorageError) as error:
            raise CallFailed(f"get_dynamodb(): {error}") from None
        except sqlite3.Error as error:
            raise CallFailed(f"get_dynamodb(): {translate(error, self._database)}") from None
        return UNDEFINED if found is None else read(found.json)
