"""What can go wrong around a function, by the names that Lambda's API has for it.

`code` is the error type of the Lambda API and `status` its HTTP status, so whoever answers over HTTP needs no table.
"""

from core.errors import TidegateError


class FunctionsError(TidegateError):
    """The root of this package's errors."""

    code = "ServiceException"
    status = 500


class InvalidParameter(FunctionsError):
    """A name, a qualifier or an option that Lambda would not take."""

    code = "InvalidParameterValueException"
    status = 400


class InvalidContent(FunctionsError):
    """The event of a synchronous invocation is no JSON."""

    code = "InvalidRequestContentException"
    status = 400


class FunctionNotFound(FunctionsError):
    """There is no function, version or alias of that name."""

    code = "ResourceNotFoundException"
    status = 404


class TooLarge(FunctionsError):
    """An event beyond the limit of its kind of invocation."""

    code = "RequestTooLargeException"
    status = 413


class Throttled(FunctionsError):
    """All workers are busy, or the queue is full; later it may work."""

    code = "TooManyRequestsException"
    status = 429


class RecursiveInvocation(FunctionsError):
    """Functions call each other in a loop; stopped."""

    code = "RecursiveInvocationException"
    status = 400


class SandboxUnavailable(FunctionsError):
    """A worker may not be started, because the layers that the operator requires are not there."""

    code = "ServiceException"
    status = 502
