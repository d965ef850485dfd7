"""What can be wrong with a package, by the names that Lambda's API has for it."""

from functions.errors import FunctionsError


class BadPackage(FunctionsError):
    """A directory, a zip or a requirement that cannot become a version; whoever packed it must change it."""

    code = "InvalidParameterValueException"
    status = 400


class DamagedPackage(FunctionsError):
    """A file of the library is not what was written there; the message names it. Deploying again mends it."""


class InUse(FunctionsError):
    """A version that an alias names cannot be removed."""

    code = "ResourceConflictException"
    status = 409
