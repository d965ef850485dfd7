"""What a cloud answers the rules' functions that call out: what a site can be asked, and its embedded tables.

A table is seen as of the last commit: what rules put into it in the same step is not there yet.
"""

import sqlite3
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from cloud.targets import UnknownTarget
from cloud.targets.tables import InvalidItem, Tables
from core.config import RulesSection
from core.errors import StorageError
from core.reader import reading
from core.store import translate
from devices.answers import ANSWERED, SiteAnswers
from devices.registry import Thing
from rules.errors import CallFailed
from rules.sql.functions.calls import Unanswered
from rules.sql.payloads import read
from rules.sql.values import UNDEFINED

CALLS = ANSWERED | {"get_dynamodb"}  # what a cloud can be asked


class CloudCalls(SiteAnswers, Unanswered):
    """The answers of one cloud; `close` it after the last rule has run."""

    def __init__(
        self, section: RulesSection, things: Callable[[], Mapping[str, Thing]], tables: Tables, database: Path
    ) -> None:
        super().__init__(section, things)
        self.names |= {"get_dynamodb"}
        self._tables = tables
        self._database = database
        self._open = ExitStack()
        self._connection: sqlite3.Connection | None = None

    def close(self) -> None:
        """Close the database."""
        self._connection = None
        self._open.close()

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
