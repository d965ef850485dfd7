"""What a side answers rules about its own site: the things of its registry, and secrets in files.

Both sides answer these alike; what only one of them can be asked is its own (`edge.calls`, `cloud.calls`). It is
answered at once, from memory or a small file.
"""

import time
from collections.abc import Callable, Mapping
from typing import Any

from core.config import RulesSection
from core.errors import TidegateError
from core.secret_files import NoSecret, SecretFiles
from devices.registry import Thing
from devices.things import described

ANSWERED = frozenset({"get_registry_data", "get_secret"})  # what a site can be asked


class NoAnswer(TidegateError):
    """There is no such thing or secret."""


class SiteAnswers:
    """`things` gives those of the registry; `names` lacks get_secret when `section` has no directory of secrets.

    Raises ConfigurationError when there is no such directory.
    """

    def __init__(self, section: RulesSection, things: Callable[[], Mapping[str, Thing]]) -> None:
        self.names = ANSWERED if section.secrets is not None else ANSWERED - {"get_secret"}
        self._things = things
        self._secrets = SecretFiles(section.secrets) if section.secrets is not None else None

    def forget(self) -> None:
        """Read what may have changed again."""
        if self._secrets is not None:
            self._secrets.forget()

    def get_registry_data(self, api: str, thing: str) -> Any:
        """What the registry says of a thing. Raises NoAnswer."""
        answer = described(self._things(), api, thing)
        if answer is None:
            raise NoAnswer(f"{api}: there is no thing {thing[:80]!r}")
        return answer

    def get_secret(self, secret_id: str) -> dict[str, str]:
        """The secret in the file of that name. Raises NoAnswer."""
        if self._secrets is None:
            raise NoAnswer("get_secret(): [rules] names no directory of secrets")
        try:
            return self._secrets.get(secret_id, time.monotonic())
        except NoSecret as error:
            raise NoAnswer(f"get_secret(): {error}") from None
