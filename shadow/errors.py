"""What the shadow service refuses, with AWS's codes and words (Developer Guide, "Device Shadow error messages")."""

from core.errors import RequestRefused


class ShadowError(RequestRefused):
    """A request that changes nothing: `code` is that of HTTP and of the message on `rejected`."""
