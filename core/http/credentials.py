"""Files of who may come in over HTTP: access keys as AWS's tools keep them, and bearer tokens beside a name.

    [operator]                              [grafana]
    aws_access_key_id = AKIDEXAMPLE1        token = 3f6b0c1e9d…
    aws_secret_access_key = wJalrXUt…

A section's name is who that is, in logs and as the principal of messages. Files are read at start and at a reload.
"""

import configparser
import re
import stat
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

from core.errors import ConfigurationError

FILE_BYTES_MAX = 256 << 10  # a thousand sections
ENTRIES_MAX = 1_000
SECRET_CHARS_MIN = 16  # shorter ones can be guessed over a network
OPEN_TO_OTHERS = stat.S_IWGRP | stat.S_IRWXO  # a group may read: `root:tidegate 0640` is how secrets are kept

_KEY_ID = re.compile(r"[A-Za-z0-9_+=,.@-]{3,128}", re.ASCII)


@dataclass(frozen=True, slots=True)
class AccessKey:
    """Who has a key, and its secret half."""

    name: str
    secret: str = field(repr=False)


def read_access_keys(path: Path) -> dict[str, AccessKey]:
    """By access key id. Raises ConfigurationError with every fault, and for a file that anybody may read."""
    keys: dict[str, AccessKey] = {}
    problems: list[str] = []
    for name, section in _sections(path).items():
        key_id, secret = section.get("aws_access_key_id", ""), section.get("aws_secret_access_key", "")
        if not _KEY_ID.fullmatch(key_id):
            problems.append(f"[{name}]: aws_access_key_id is missing, or has characters that are in no key id")
        elif key_id in keys:
            problems.append(f"[{name}]: aws_access_key_id is that of [{keys[key_id].name}] too")
        elif len(secret) < SECRET_CHARS_MIN:
            problems.append(f"[{name}]: aws_secret_access_key is missing or shorter than {SECRET_CHARS_MIN} characters")
        else:
            keys[key_id] = AccessKey(name, secret)
    if problems:
        raise ConfigurationError(str(path), problems)
    return keys


def read_tokens(path: Path) -> dict[bytes, str]:
    """Whose token it is, by the SHA-256 of the token: looking one up tells nobody how much of it was right."""
    tokens: dict[bytes, str] = {}
    problems: list[str] = []
    for name, section in _sections(path).items():
        token = section.get("token", "")
        if len(token) < SECRET_CHARS_MIN or not token.isascii() or any(map(str.isspace, token)):
            problems.append(f"[{name}]: token is missing, or no {SECRET_CHARS_MIN} characters of ASCII without spaces")
        elif token_hash(token) in tokens:
            problems.append(f"[{name}]: token is that of [{tokens[token_hash(token)]}] too")
        else:
            tokens[token_hash(token)] = name
    if problems:
        raise ConfigurationError(str(path), problems)
    return tokens


def token_hash(token: str) -> bytes:
    """What `read_tokens` keeps of a token."""
    return sha256(token.encode()).digest()


def _sections(path: Path) -> dict[str, dict[str, str]]:
    parser = configparser.RawConfigParser(default_section="", inline_comment_prefixes=None)
    try:
        with path.open("rb") as file:
            mode = path.stat().st_mode
            raw = file.read(FILE_BYTES_MAX + 1)
        parser.read_string(raw.decode())
        problem = ""
    except OSError as error:
        problem = f"cannot be read: {error.strerror}"
    except UnicodeDecodeError:
        problem = "is not UTF-8 text"
    except configparser.Error:  # its message may show a secret
        problem = "is no file of [sections] with `name = value` lines"
    else:
        if mode & OPEN_TO_OTHERS:
            problem = f"has secrets, and its mode {stat.S_IMODE(mode):04o} is open to others; chmod 0640 or less"
        elif len(raw) > FILE_BYTES_MAX or len(parser.sections()) > ENTRIES_MAX:
            problem = f"is larger than {FILE_BYTES_MAX:,} bytes, or has more than {ENTRIES_MAX:,} sections"
        elif not parser.sections():
            problem = "has no section: nobody could connect with it"
    if problem:
        raise ConfigurationError(str(path), [problem])
    return {name: dict(parser[name]) for name in parser.sections()}
