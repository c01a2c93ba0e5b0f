"""Every error that edge-siamese raises: one base class, and each error is also the builtin it resembles."""


class EdgeSiameseError(Exception):
    """Base of all errors raised on purpose by edge-siamese; its message is one line for people."""


class ImageError(EdgeSiameseError, ValueError):
    """An array is not an image that can be prepared for an encoder."""


class PictureError(ImageError):
    """A file cannot be read as a picture."""


class BundleError(EdgeSiameseError, ValueError):
    """A model bundle cannot be used."""


class BundleNotFound(BundleError, FileNotFoundError):
    """There is no bundle, or no such file of a bundle, at the given place."""


class ManifestError(BundleError):
    """The manifest of a bundle breaks its schema."""


class BundleVersionError(BundleError):
    """The bundle is of a format version that this release does not read."""


class ChecksumError(BundleError):
    """A file of a bundle is not the one that the manifest describes."""


class TruncatedFileError(BundleError):
    """A file of a bundle is shorter or longer than the manifest says."""


class UnsafePathError(BundleError):
    """The manifest names a path that leaves the bundle's directory."""


class RuntimeNotInstalled(EdgeSiameseError, ImportError):
    """No usable inference runtime is installed, or not the one that was asked for."""


class EncoderError(EdgeSiameseError, RuntimeError):
    """A runtime failed to load or to run an encoder."""


class SelfTestFailed(EdgeSiameseError, RuntimeError):
    """A runtime does not reproduce the golden vectors of a bundle."""


class SupportError(EdgeSiameseError, ValueError):
    """A support set cannot take or lacks what was asked for."""


class NoSuchObject(SupportError, LookupError):
    """There is no object of this name or uid, no such view of it, or no such picture."""


class CameraError(EdgeSiameseError, OSError):
    """A camera cannot be opened, or gives no frame."""


class CameraStalled(CameraError, TimeoutError):
    """A camera gives no frame in its time."""


class CameraEnded(CameraError, EOFError):
    """A camera that replays files has shown them all."""


class PanelError(EdgeSiameseError, OSError):
    """A button or an LED cannot be used."""


class StoreError(EdgeSiameseError, OSError):
    """The support store cannot be read or written."""


class ModelError(EdgeSiameseError, RuntimeError):
    """A model cannot be installed, or none is."""


class ModelsInUse(ModelError, BlockingIOError):
    """Another process is changing the installed models just now."""


class ControlError(EdgeSiameseError, RuntimeError):
    """The daemon refused a request, or the request cannot be sent."""


class NotReady(ControlError):
    """The daemon cannot do it now: it cannot recognize, is stopping, or does not come to it."""


class DaemonNotRunning(ControlError, ConnectionError):
    """Nothing answers at the daemon's socket."""


class ClientGone(ControlError):
    """The client of the control socket has closed its connection, or the daemon is stopping."""


class Refused(ControlError):
    """A registration was refused; the message says why."""

    def __init__(self, text: str, *, reason: str = "", collides: str = "") -> None:
        super().__init__(text)
        self.reason = reason
        """For programs: the name of a `registration.Reason`, or "failed" or "ended"."""
        self.collides = collides
        """The registered object that it looks like."""


class MqttError(EdgeSiameseError, OSError):
    """There can be no connection to an MQTT broker, or not with these settings."""


class DataError(EdgeSiameseError, ValueError):
    """A data set is missing, damaged, or too small for what was asked."""


class SettingsError(EdgeSiameseError, ValueError):
    """Options contradict each other, or the run that they are meant to continue."""


class ExportError(EdgeSiameseError, RuntimeError):
    """A network could not be converted or quantized."""


class VerificationFailed(EdgeSiameseError, RuntimeError):
    """A file of a bundle does not behave like the trained network."""


def first_line(error: BaseException) -> str:
    """Describe an error of another library in one line of at most 200 characters.

    Of a chain of errors, the first one is described: it is the one that explains the others.
    """
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:200] if lines else type(error).__name__
