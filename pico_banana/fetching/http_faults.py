"""Say what an exception of the HTTP client means: which of its classes pass, and which do not."""

from __future__ import annotations

import errno
import ssl

import aiohttp

from pico_banana.errors import bare_text
from pico_banana.hosts.guard import PrivateAddressError
from pico_banana.missing import AskError, MissingReason, RefusedError

__all__ = ["REASONS", "ask_error"]

_PASSES, _NO_ADDRESS = MissingReason.CONNECTION, MissingReason.FORBIDDEN_ADDRESS

REASONS = {
    # The client's own classes, each: one may derive from several others, as a certificate's error
    # does from ValueError, which is also yarl's word for what is no URL.
    "ClientConnectionError": _PASSES,
    "ClientConnectionResetError": _PASSES,
    "ClientConnectorCertificateError": _PASSES,
    "ClientConnectorDNSError": _PASSES,
    "ClientConnectorError": _PASSES,
    "ClientConnectorSSLError": _PASSES,
    "ClientError": _PASSES,
    "ClientHttpProxyError": _PASSES,
    "ClientOSError": _PASSES,
    "ClientPayloadError": MissingReason.TRUNCATED,
    "ClientProxyConnectionError": _PASSES,
    "ClientResponseError": _PASSES,
    "ClientSSLError": _PASSES,
    "ConnectionTimeoutError": MissingReason.TIMEOUT,
    "ContentTypeError": _PASSES,
    "InvalidURL": _NO_ADDRESS,
    "InvalidUrlClientError": _NO_ADDRESS,
    "InvalidUrlRedirectClientError": _NO_ADDRESS,
    "NonHttpUrlClientError": _NO_ADDRESS,
    "NonHttpUrlRedirectClientError": _NO_ADDRESS,
    "RedirectClientError": _NO_ADDRESS,
    "ServerConnectionError": _PASSES,
    "ServerDisconnectedError": _PASSES,
    "ServerFingerprintMismatch": _PASSES,
    "ServerTimeoutError": MissingReason.TIMEOUT,
    "SocketTimeoutError": MissingReason.TIMEOUT,
    "TooManyRedirects": _PASSES,
    "UnixClientConnectorError": _PASSES,
    "UploadAbortedError": _PASSES,
    "WSMessageTypeError": _PASSES,
    "WSServerHandshakeError": _PASSES,
    # Of others, what tells more than that something failed.
    "TimeoutError": MissingReason.TIMEOUT,
    "SSLError": _PASSES,
    "OSError": _PASSES,
    "ValueError": _NO_ADDRESS,
}
"""What each class means, by its name, as not every version has all; the nearest parent counts."""

_CERTIFICATE = (
    "its certificate is not trusted here: where a proxy looks into traffic, name its certificates "
    "in SSL_CERT_FILE; else look at this machine's clock"
)


_REFUSALS = {errno.ECONNREFUSED, errno.ECONNRESET, errno.ECONNABORTED, errno.EPIPE}


def ask_error(error: BaseException, *, is_fresh: bool = False) -> AskError:
    """Return the `AskError` of an exception of the client; one that is not known may pass.

    Args:
        error: what was raised.
        is_fresh: whether it came over a connection that has never answered.
    """
    said = bare_text(f"{type(error).__name__}: {error}".rstrip(": "))
    behind = getattr(error, "os_error", None)  # of what could not be connected to
    if isinstance(behind, PrivateAddressError):
        # Of all names in this release none does: whoever answers for them looks into the traffic.
        return AskError(_NO_ADDRESS, str(behind))
    names = [kind.__name__ for kind in type(error).__mro__]
    reason = next((REASONS[name] for name in names if name in REASONS), _PASSES)
    cause = getattr(error, "certificate_error", error)
    is_untrusted = isinstance(cause, ssl.SSLCertVerificationError)
    hint = _CERTIFICATE if is_untrusted else ""
    kind = RefusedError if is_fresh and _is_refusal(error) else AskError
    return kind(reason, said, hint=hint)


def _is_refusal(error: BaseException) -> bool:
    """Whether the connection was refused, or closed with nothing said."""
    behind = getattr(error, "os_error", error)
    if isinstance(error, aiohttp.ServerDisconnectedError) or isinstance(behind, ssl.SSLEOFError):
        return True
    is_of_system = isinstance(behind, OSError) and behind.errno in _REFUSALS
    return is_of_system or isinstance(behind, ConnectionError)
