"""What the settings name for a broker: a file with a password, and certificates."""

from __future__ import annotations

import ssl
from pathlib import Path

from edge_siamese.errors import MqttError
from edge_siamese.settings import MqttSettings

MAX_PASSWORD_BYTES = 4096


def read_password(settings: MqttSettings) -> str | None:
    """The first line of the password's file; None if there is none to read. Raises `MqttError` if it cannot be read."""
    if not settings.password_file:
        return None
    path = Path(settings.password_file)
    try:
        with path.open("rb") as file:
            lines = file.read(MAX_PASSWORD_BYTES).decode("utf-8").splitlines()
    except OSError as error:
        raise MqttError(f"{path}: the password cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise MqttError(f"{path}: the password is not UTF-8 text") from error
    if not lines or not lines[0]:
        raise MqttError(f"{path}: the password is the first line of this file, and that is empty")
    return lines[0]


def tls_context(settings: MqttSettings) -> ssl.SSLContext | None:
    """What TLS is spoken with; None without TLS. Raises `MqttError` if a certificate or key cannot be used."""
    if not settings.tls:
        return None
    files = f"ca_file {settings.ca_file}"
    try:
        context = ssl.create_default_context(cafile=settings.ca_file or None)
        if settings.certificate:
            # OpenSSL does not say which of the two it is.
            files = f"certificate {settings.certificate} and key {settings.key}"
            # An encrypted key would ask for its password at the terminal, where nobody sits.
            context.load_cert_chain(settings.certificate, settings.key, password=_no_password)
    except (OSError, ValueError) as error:  # also ssl.SSLError
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or str(error)
        raise MqttError(f"{files} cannot be used: {reason}") from error
    return context


def _no_password() -> str:
    raise ValueError("the key is encrypted; one without a password is needed")
