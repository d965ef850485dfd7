"""Secrets that an operator put into files, one each: the file has the name that the secret has at AWS Secrets Manager.

A directory of systemd credentials is such a directory. What was read is remembered for `REMEMBERED_SECONDS`, so a
secret that was changed is in use after that time, or after `forget`. Values are never logged, nor part of an error.

Will not decrypt: systemd does (`LoadCredentialEncrypted=`), and modes and owners keep a directory to the daemon.
"""

import re
from base64 import b64encode
from pathlib import Path

from core.errors import ConfigurationError, TidegateError

REMEMBERED_SECONDS = 900.0  # what AWS IoT remembers a secret for
SECRET_BYTES_MAX = 65_536  # AWS Secrets Manager's limit
SECRETS_MAX = 1_000  # remembered at once: one for each rule that AWS allows

_NAME = re.compile(r"[A-Za-z0-9/_+=.@-]{1,512}", re.ASCII)  # AWS
_ARN = re.compile(r"arn:[a-z-]+:secretsmanager:[a-z0-9-]*:\d*:secret:(.+)", re.ASCII)
_ARN_SUFFIX = re.compile(r"-[A-Za-z0-9]{6}$", re.ASCII)  # AWS appends six random characters in ARNs


class NoSecret(TidegateError):
    """There is no such secret, or it cannot be read."""


class SecretFiles:
    """The secrets below `directory`. Raises ConfigurationError when there is no such directory."""

    def __init__(self, directory: Path) -> None:
        if not directory.is_dir():
            raise ConfigurationError(str(directory), ["is no directory of secrets"])
        self._directory = directory
        self._known: dict[str, tuple[float, dict[str, str]]] = {}  # secret → when it was read, value

    def get(self, secret_id: str, now: float) -> dict[str, str]:
        """A secret by its name or ARN: {"SecretString": text}, or {"SecretBinary": base64} where it is no UTF-8.

        One newline at the end of a text is not part of it. `now` is monotonic seconds. Raises NoSecret.
        """
        read_at, value = self._known.get(secret_id, (0.0, None))
        if value is not None and 0 <= now - read_at < REMEMBERED_SECONDS:
            return value
        value = self._read(secret_id)
        if len(self._known) >= SECRETS_MAX:
            self._known.clear()
        self._known[secret_id] = now, value
        return value

    def forget(self) -> None:
        """Read everything again when it is asked for."""
        self._known.clear()

    def _read(self, secret_id: str) -> dict[str, str]:
        arn = _ARN.fullmatch(secret_id)
        name = arn[1] if arn else secret_id
        # The dots keep a name from leading out of the directory, or to what editors and systemd put beside.
        if not _NAME.fullmatch(name) or any(not part or part.startswith(".") for part in name.split("/")):
            raise NoSecret(f"{secret_id[:80]!r} is no name of a secret")
        path = self._directory / name
        if arn and not path.is_file():
            path = self._directory / _ARN_SUFFIX.sub("", name)
        if path.exists() and not path.is_file():  # a pipe would be waited for
            raise NoSecret(f"secret {secret_id[:80]!r} is no file")
        try:
            with path.open("rb") as file:
                content = file.read(SECRET_BYTES_MAX + 1)
        except OSError as error:
            raise NoSecret(f"secret {secret_id[:80]!r}: {error.strerror}") from None
        if len(content) > SECRET_BYTES_MAX:
            raise NoSecret(f"secret {secret_id[:80]!r} has more than {SECRET_BYTES_MAX:,} bytes")
        try:
            return {"SecretString": content.decode().removesuffix("\n")}
        except UnicodeDecodeError:
            return {"SecretBinary": b64encode(content).decode()}
