"""Password and TLS context of the connection to a broker."""

from __future__ import annotations

import ssl
from pathlib import Path

from edge_siamese.errors import MqttError
from edge_siamese.settings import MqttSettings

MAX_PASSWORD_BYTES = 4096


def read_password(settings: MqttSettings) -> str | None:
    """Return the password: the first line of the password file, or that of the broker's URL; None if there is neither.

    Raises:
        MqttError: the file cannot be read, or has no password.
    """
    if not settings.password_file:
        return settings.server.password or None
    path = Path(settings.password_file)
    try:
        with path.open("rb") as file:
            lines = file.read(MAX_PASSWORD_BYTES).decode("utf-8").splitlines()
    except OSError as error:
        raise MqttError(f"{path}: the password cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise MqttError(f"{path}: the password is not UTF-8 text") from error
    if not lines or not lines[0]:
        raise MqttError(f"{path}: the first line must be the password, and is empty")
    return lines[0]


def tls_context(settings: MqttSettings) -> ssl.SSLContext | None:
    """Return the TLS context of the settings; None without TLS.

    Raises:
        MqttError: a certificate or key cannot be used.
    """
    if not settings.server.tls:
        return None
    files = f"ca_file {settings.ca_file}"
    try:
        context = ssl.create_default_context(cafile=settings.ca_file or None)
        if settings.certificate:
            files = f"certificate {settings.certificate} and key {settings.key}"  # OpenSSL does not say which
            context.load_cert_chain(settings.certificate, settings.key, password=_refuse_encrypted_key)
    except (OSError, ValueError) as error:  # includes ssl.SSLError
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or str(error)
        raise MqttError(f"{files} cannot be used: {reason}") from error
    return context


def _refuse_encrypted_key() -> str:
    """Refuse an encrypted key, for which OpenSSL would ask at the terminal."""
    raise ValueError("the key is encrypted; use one without a password")
