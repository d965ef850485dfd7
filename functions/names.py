"""What a function is called: a name, a qualified name, or an ARN, as Lambda's API takes them in every place.

    press-alarm · press-alarm:live · 000000000000:function:press-alarm
    arn:aws:lambda:eu-west-1:000000000000:function:press-alarm:7

The region and the account of an ARN are read and mean nothing here: every function is this machine's.
"""

import re
from dataclasses import dataclass

from functions.errors import InvalidParameter

LATEST = "$LATEST"  # the newest version, or the one that was rolled back to; what no qualifier means too
REGION = "us-east-1"
ACCOUNT_ID = "000000000000"

_NAME = re.compile(
    r"(?:(?:arn:aws[a-zA-Z-]*:lambda:[a-z0-9-]*:)?(?:\d{12}:)?function:|(?:\d{12}:)function:)?"
    r"([a-zA-Z0-9_-]{1,64})(?::(\$LATEST|[a-zA-Z0-9_-]{1,128}))?",
    re.ASCII,
)
_VERSION = re.compile(r"[1-9][0-9]{0,8}", re.ASCII)
_ALIAS = re.compile(r"(?![0-9]+$)[a-zA-Z0-9_-]{1,128}", re.ASCII)  # botocore's pattern of Alias


@dataclass(frozen=True, slots=True)
class FunctionName:
    """A function, and which version of it: a number, an alias, or $LATEST."""

    name: str
    qualifier: str = LATEST

    def __str__(self) -> str:
        return self.name if self.qualifier == LATEST else f"{self.name}:{self.qualifier}"

    def arn(self, region: str = REGION, account_id: str = ACCOUNT_ID) -> str:
        """The ARN, with the qualifier unless that is $LATEST."""
        return f"arn:aws:lambda:{region}:{account_id}:function:{self}"

    @classmethod
    def parse(cls, text: str, qualifier: str = "") -> "FunctionName":
        """Read any of the forms; `qualifier` is one that was given beside it. Raises InvalidParameter."""
        found = _NAME.fullmatch(text)
        if found is None:
            raise InvalidParameter(f"{text[:200]!r} is no name or ARN of a function")
        name, written = found.groups()
        if written and qualifier and written != qualifier:
            raise InvalidParameter(
                "The derived qualifier from the function name does not match the specified qualifier."
            )
        if qualifier and qualifier != LATEST and not is_alias(qualifier) and not is_version(qualifier):
            raise InvalidParameter(f"{qualifier[:200]!r} is no version and no alias")
        return cls(name, written or qualifier or LATEST)


def is_alias(text: str) -> bool:
    """Whether a text can be the name of an alias."""
    return _ALIAS.fullmatch(text) is not None


def is_version(text: str) -> bool:
    """Whether a text is the number of a version."""
    return _VERSION.fullmatch(text) is not None
