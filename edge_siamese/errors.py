"""Exceptions of edge-siamese: each one is an `EdgeSiameseError` and the closest built-in exception."""

import unicodedata

# Control characters, surrogates, line and paragraph separators; and format characters, which can reverse or hide parts
# of a line, except for the two joiners that some scripts and emoji need.
_ESCAPED_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
_JOINERS = "\u200c\u200d"
MAX_MESSAGE = 1000
"""Characters of an error's message."""


class EdgeSiameseError(Exception):
    """Base class of all errors of edge-siamese. The message is one line for users."""

    def __str__(self) -> str:
        """Return the message in one line; control characters in it, such as those of a file's name, are escaped."""
        lines = (line.strip() for line in super().__str__().splitlines())
        text = printable(" ".join(line for line in lines if line))
        half = MAX_MESSAGE // 2 - 1  # the end often says what to do
        return text if len(text) <= MAX_MESSAGE else f"{text[:half]}…{text[-half:]}"


class ImageError(EdgeSiameseError, ValueError):
    """An array is not an image."""


class PictureError(ImageError):
    """A file is not a readable picture."""


class BundleError(EdgeSiameseError, ValueError):
    """A model bundle cannot be used."""


class BundleNotFound(BundleError, FileNotFoundError):
    """A bundle or one of its files does not exist."""


class ManifestError(BundleError):
    """The manifest of a bundle is not valid."""


class BundleVersionError(BundleError):
    """The bundle has a format version that this release does not support."""


class ChecksumError(BundleError):
    """The checksum of a bundle's file differs from the manifest."""


class TruncatedFileError(BundleError):
    """The size of a bundle's file differs from the manifest."""


class UnsafePathError(BundleError):
    """The manifest lists a path outside of the bundle's directory."""


class SignatureError(BundleError):
    """A bundle is not signed with a trusted key, or was changed after it was signed."""


class SignatureToolError(SignatureError):
    """A signature cannot be verified, because ssh-keygen cannot be run; it says nothing about the bundle."""


class RuntimeNotInstalled(EdgeSiameseError, ImportError):
    """The requested inference runtime, or any usable one, is not installed."""


class EncoderError(EdgeSiameseError, RuntimeError):
    """A runtime could not load or run an encoder."""


class SelfTestFailed(EdgeSiameseError, RuntimeError):
    """A runtime does not reproduce the golden vectors of a bundle."""


class SandboxError(EdgeSiameseError, RuntimeError):
    """A confined child process crashed or exceeded a limit."""

    def __init__(self, text: str, reason: str = "") -> None:
        super().__init__(text)
        self.reason = reason or text
        """Reason without the name of the part, such as `SIGSEGV`."""


class ModelCrashed(SelfTestFailed):
    """A model crashes its runtime, or exceeds a limit of its self-test."""


class SupportError(EdgeSiameseError, ValueError):
    """A support set rejects an object or a view, or does not contain it."""


class NoSuchObject(SupportError, LookupError):
    """An object, a view or a picture does not exist."""


class CameraError(EdgeSiameseError, OSError):
    """A camera cannot be opened or delivers no frame."""


class CameraStalled(CameraError, TimeoutError):
    """A camera delivered no frame within its timeout."""


class CameraEnded(CameraError, EOFError):
    """A camera that replays files has reached the end."""


class PanelError(EdgeSiameseError, OSError):
    """A button or an LED cannot be used."""


class StoreError(EdgeSiameseError, OSError):
    """The object store cannot be read or written."""


class StoreBusy(StoreError):
    """The object store is being changed by a long operation, such as an import."""


class ModelError(EdgeSiameseError, RuntimeError):
    """A model cannot be installed, or no model is installed."""


class ModelsInUse(ModelError, BlockingIOError):
    """Another process is changing the installed models."""


class ControlError(EdgeSiameseError, RuntimeError):
    """A request to the daemon failed."""


class NotReady(ControlError):
    """The daemon cannot serve the request now: it has no model, is stopping, or is too busy."""


class DaemonNotRunning(ControlError, ConnectionError):
    """No daemon answers at the control socket."""


class ClientGone(ControlError):
    """The client of the control socket has closed its connection, or the daemon is stopping."""


class Refused(ControlError):
    """A registration was refused; the message says why."""

    def __init__(self, text: str, *, reason: str = "", collides: str = "") -> None:
        super().__init__(text)
        self.reason = reason
        """Machine-readable reason: the `problem` of a `registration.Reason`, or "failed" or "ended"."""
        self.collides = collides
        """Name of the registered object that the new one resembles, or empty."""


class MqttError(EdgeSiameseError, OSError):
    """An MQTT broker cannot be reached with these settings."""


class DataError(EdgeSiameseError, ValueError):
    """A data set is missing, damaged or too small."""


class SettingsError(EdgeSiameseError, ValueError):
    """A setting or an option is not valid, or contradicts others."""


class ExportError(EdgeSiameseError, RuntimeError):
    """A network could not be exported or quantized."""


class VerificationFailed(EdgeSiameseError, RuntimeError):
    """A model file does not reproduce the trained network."""


def printable(text: str) -> str:
    """Escape control, bidirectional and other format characters, line breaks and surrogates: `\\x1b`, `\\n`, `\\u202e`.

    Untrusted text then stays on one line of a terminal or a log, in its original order.
    """
    if text.isprintable():
        return text
    return "".join(character if is_printable(character) else ascii(character)[1:-1] for character in text)


def is_printable(character: str) -> bool:
    """Return whether `printable` leaves a character as it is."""
    return unicodedata.category(character) not in _ESCAPED_CATEGORIES or character in _JOINERS


def error_of_kind(kind: object, text: str, otherwise: type[EdgeSiameseError]) -> EdgeSiameseError:
    """Recreate an error of another process: of the class named `kind`, or `otherwise` if this release has no such class."""
    known = globals().get(str(kind))
    if not (isinstance(known, type) and issubclass(known, EdgeSiameseError)):
        known = otherwise
    return known(text)


def describe_error(error: BaseException) -> str:
    """Describe any error in one line: its message if it is for users, else its type as well."""
    text = printable(" ".join(str(error).split()))
    if isinstance(error, EdgeSiameseError):
        return text
    return f"unexpected {type(error).__name__}{': ' if text else ''}{text}"


def first_line(error: BaseException) -> str:
    """Describe an error of another library in one line of at most 200 characters.

    For a chain of errors, describes the first one, which caused the others.
    """
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:200] if lines else type(error).__name__
