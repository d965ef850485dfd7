"""What the shadow service refuses, with AWS's codes and words (Developer Guide, "Device Shadow error messages")."""


class ShadowError(Exception):
    """A request that changes nothing: `code` is that of HTTP and of the message on `rejected`."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
