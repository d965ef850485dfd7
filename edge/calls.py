"""What an edge answers the rules' functions that call out: its registry of devices, and secrets in files.

Everything is answered at once, from memory or from a small file; nothing waits for the cloud.
"""

import time
from collections.abc import Callable, Mapping
from typing import Any

from core.config import RulesSection
from core.secret_files import NoSecret, SecretFiles
from devices.registry import Thing
from devices.things import described
from rules.errors import CallFailed
from rules.sql.functions.calls import Unanswered

CALLS = frozenset({"get_registry_data", "get_secret"})  # what an edge can be asked


class EdgeCalls(Unanswered):
    """The answers of one edge; `things` gives those of its registry, `names` lacks get_secret without `secrets`.

    Raises ConfigurationError when there is no such directory.
    """

    def __init__(self, section: RulesSection, things: Callable[[], Mapping[str, Thing]]) -> None:
        self.names = CALLS if section.secrets is not None else CALLS - {"get_secret"}
        self._things = things
        self._secrets = SecretFiles(section.secrets) if section.secrets is not None else None

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
