"""The parts of a function's ARN, by the names that Greengrass V1's SDK uses."""

from __future__ import annotations

import re

_ARN = re.compile(
    r"arn:(?P<partition>aws[a-zA-Z-]*):lambda:(?P<region>[a-z0-9-]*):(?P<account>\d{12}|):function:"
    r"(?P<name>[a-zA-Z0-9_-]{1,64})(?::(?P<qualifier>\$LATEST|[a-zA-Z0-9_-]{1,128}))?",
    re.ASCII,
)
_NAME = re.compile(r"(?P<name>[a-zA-Z0-9_-]{1,64})(?::(?P<qualifier>\$LATEST|[a-zA-Z0-9_-]{1,128}))?", re.ASCII)


class FunctionArnFields:
    """The fields of an ARN, with or without a qualifier (None). A bare name is taken too, as if it were an ARN.

    Raises ValueError for anything else.
    """

    def __init__(self, function_arn_string: str) -> None:
        found = _ARN.fullmatch(function_arn_string) or _NAME.fullmatch(function_arn_string)
        if found is None:
            raise ValueError(f"{function_arn_string!r} is no ARN of a function")
        fields = found.groupdict()
        self.region = fields.get("region", "")
        self.account_id = fields.get("account", "")
        self.name = fields["name"]
        self.qualifier = fields["qualifier"]
        self.unqualified_arn = function_arn_string[: found.end("name")]

    @staticmethod
    def build_arn_string(region: str, account_id: str, name: str, qualifier: str | None = None) -> str:
        """An ARN of its parts."""
        return FunctionArnFields.build_function_arn(f"arn:aws:lambda:{region}:{account_id}:function:{name}", qualifier)

    @staticmethod
    def build_function_arn(unqualified_arn: str, qualifier: str | None = None) -> str:
        """An ARN with a qualifier, or without when that is empty."""
        return f"{unqualified_arn}:{qualifier}" if qualifier else unqualified_arn
