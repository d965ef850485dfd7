"""What goes wrong with identities, beside what goes wrong with disks (`core.errors.StorageError`)."""

from core.errors import TidegateError


class RegistryError(TidegateError):
    """A change that the registry refuses: an unknown or invalid name, something that is there already, a bound."""


class CertificateError(TidegateError):
    """A key, a signing request or a certificate that is refused, or an authority that cannot sign."""
