"""The dashboard's password and API tokens, as hashes in a file that only the service can read."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import json
import os
import secrets
import threading
import unicodedata
from pathlib import Path

import msgspec
from msgspec.structs import replace

from edge_siamese.errors import SettingsError
from edge_siamese.system.files import sync_directory
from edge_siamese.system.wall_clock import utc_now
from edge_siamese.validation import Record, SchemaError, convert, nearest, parse_json

FILE = "dashboard.json"
"""In the state directory."""
MIN_PASSWORD_LENGTH, MAX_PASSWORD_LENGTH = 8, 256
MAX_TOKENS = 50
MAX_TOKEN_NAME_LENGTH = 40
MAX_FILE_BYTES = 100_000
TOKEN_PREFIX = "es_"
"""Makes tokens recognizable, also for secret scanners."""

# 16 MiB, and about 60 ms on a laptop, 0.4 s on a small board: what a board can spare for one attempt.
_COST, _BLOCK, _PARALLEL = 2**14, 8, 1
_MAX_MEMORY = 64 * 1024 * 1024
_PASSWORD_LETTERS = ("bcdfghjklmnprstvz", "aeiou")


class DamagedCredentials(SettingsError):
    """The file is damaged or was not written by this program."""


class Password(Record):
    """A password hash by scrypt, with its parameters."""

    salt: str
    """Base64."""
    hash: str
    """Base64."""
    cost: int = _COST
    block: int = _BLOCK
    parallel: int = _PARALLEL
    changed: str = ""
    """UTC, ISO 8601."""

    def __post_init__(self) -> None:
        # Larger parameters would let a damaged file exhaust the memory of a board.
        valid = self.cost.bit_count() == 1 and 2 <= self.cost <= 2**17 and 1 <= self.block <= 16
        if not valid or not 1 <= self.parallel <= 4:
            raise SchemaError("cost", "must be valid scrypt parameters")
        for name in ("salt", "hash"):
            try:
                base64.b64decode(getattr(self, name), validate=True)
            except ValueError:
                raise SchemaError(name, "must be base64") from None

    @classmethod
    def of(cls, password: str) -> Password:
        """Hash a password with a random salt."""
        unhashed = cls(base64.b64encode(secrets.token_bytes(16)).decode("ascii"), "", changed=utc_now())
        return replace(unhashed, hash=base64.b64encode(unhashed._scrypt(password)).decode("ascii"))

    def matches(self, password: str) -> bool:
        """Return whether this is the password; deliberately slow."""
        return hmac.compare_digest(base64.b64decode(self.hash), self._scrypt(password))

    def _scrypt(self, password: str) -> bytes:
        # Keyboards differ in the code points that they send for the same letters.
        text = unicodedata.normalize("NFKC", password).encode("utf-8", "replace")
        return hashlib.scrypt(
            text,
            salt=base64.b64decode(self.salt),
            n=self.cost,
            r=self.block,
            p=self.parallel,
            maxmem=_MAX_MEMORY * self.parallel * 4,
            dklen=32,
        )


class Token(Record):
    """An API token. 256 random bits need no scrypt: a plain hash is kept."""

    name: str
    hash: str
    """SHA-256, hexadecimal."""
    created: str
    """UTC, ISO 8601."""


class Credentials(Record):
    """The contents of the file."""

    version: int = 1
    password: Password | None = None
    tokens: tuple[Token, ...] = ()

    def __bool__(self) -> bool:
        return self.password is not None or bool(self.tokens)

    @property
    def fingerprint(self) -> str:
        """Changes with the password, which ends the sessions of the previous one."""
        return "" if self.password is None else self.password.hash

    def token(self, secret: str) -> Token | None:
        """Return the token with this secret, or None. All are compared, so that timing reveals nothing."""
        digest = _digest(secret)
        match = None
        for token in self.tokens:
            if hmac.compare_digest(token.hash, digest):
                match = token
        return match


class CredentialsFile:
    """Reads and changes `dashboard.json`. Thread-safe."""

    def __init__(self, state_directory: Path) -> None:
        """Set the path of the file, in `state_directory`; it is read on demand."""
        self.path = state_directory / FILE
        self._version: tuple[int, int, int] | None = None
        self._credentials = Credentials()
        self._lock = threading.Lock()

    def current(self) -> Credentials:
        """Return the credentials; the file is read again only when it has changed.

        Raises:
            SettingsError: the file cannot be read or is damaged.
        """
        with self._lock:
            try:
                state = self.path.stat()
            except FileNotFoundError:
                self._version, self._credentials = None, Credentials()
                return self._credentials
            except OSError as error:
                raise SettingsError(f"{self.path} cannot be read: {_reason(error)}") from error
            version = state.st_mtime_ns, state.st_ino, state.st_size
            if version != self._version:
                self._credentials = self._load()
                self._version = version
            return self._credentials

    def set_password(self, password: str) -> None:
        """Set the password, which ends all sessions.

        Raises:
            SettingsError: the password is too short or too long, or the file cannot be written. A damaged file is
                replaced, so that a new password can always be set.
        """
        if not MIN_PASSWORD_LENGTH <= len(password) <= MAX_PASSWORD_LENGTH:
            raise SettingsError(
                f"a password has {MIN_PASSWORD_LENGTH} to {MAX_PASSWORD_LENGTH} characters, not {len(password)}"
            )
        try:
            credentials = self.current()
        except DamagedCredentials:
            credentials = Credentials()
        self._write(replace(credentials, password=Password.of(password)))

    def add_token(self, name: str) -> str:
        """Create a token and return its secret, which cannot be read again.

        Raises:
            SettingsError: the name is invalid or taken, there are too many, or the file cannot be written.
        """
        name = name.strip()
        if not 1 <= len(name) <= MAX_TOKEN_NAME_LENGTH or not name.isprintable():
            raise SettingsError(
                f"a token needs a name of 1 to {MAX_TOKEN_NAME_LENGTH} characters, such as grafana"
            )
        credentials = self.current()
        if any(token.name == name for token in credentials.tokens):
            raise SettingsError(
                f'a token "{name}" exists; revoke it first: sudo edge-siamese dashboard revoke'
            )
        if len(credentials.tokens) >= MAX_TOKENS:
            raise SettingsError(
                f"there are {MAX_TOKENS} tokens; revoke some: sudo edge-siamese dashboard tokens"
            )
        secret = TOKEN_PREFIX + secrets.token_urlsafe(32)
        self._write(
            replace(credentials, tokens=(*credentials.tokens, Token(name, _digest(secret), utc_now())))
        )
        return secret

    def revoke(self, name: str) -> None:
        """Revoke a token; raises `SettingsError` if there is none of this name."""
        credentials = self.current()
        remaining = tuple(token for token in credentials.tokens if token.name != name)
        if remaining == credentials.tokens:
            hint = nearest(name, [token.name for token in credentials.tokens])
            raise SettingsError(f'there is no token "{name}"{hint}')
        self._write(replace(credentials, tokens=remaining))

    def _load(self) -> Credentials:
        try:
            with self.path.open("rb") as file:
                data = file.read(MAX_FILE_BYTES)
            value = parse_json(data)
            if not isinstance(value, dict) or "version" not in value:
                raise SchemaError("version", "missing")
            credentials = convert(value, Credentials)
        except OSError as error:
            raise SettingsError(f"{self.path} cannot be read: {_reason(error)}") from error
        except SchemaError as error:
            raise DamagedCredentials(
                f"{self.path} is damaged ({error}); set a new password, which replaces it and its tokens: "
                "sudo edge-siamese dashboard password"
            ) from error
        if credentials.version != 1:
            raise SettingsError(
                f"{self.path} has version {credentials.version}, which this release cannot read"
            )
        return credentials

    def _write(self, credentials: Credentials) -> None:
        """Replace the file atomically. It is never readable for others, not even briefly."""
        text = json.dumps(msgspec.to_builtins(credentials), indent=2, ensure_ascii=False) + "\n"
        temporary = self.path.with_name(f".{FILE}.{secrets.token_hex(4)}")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                if os.geteuid() == 0:  # the service has to read what root writes
                    owner = self.path.parent.stat()
                    os.fchown(file.fileno(), owner.st_uid, owner.st_gid)
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, self.path)
            sync_directory(self.path.parent)
        except OSError as error:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise SettingsError(f"{self.path} cannot be written: {_reason(error)}") from error


def generated_password() -> str:
    """Return a password to read aloud and type on a phone: 74 bits in five groups of letters and three digits."""
    groups = ["".join(secrets.choice(_PASSWORD_LETTERS[place % 2]) for place in range(4)) for _ in range(5)]
    return "-".join(groups) + f"-{secrets.randbelow(1000):03d}"


def _reason(error: OSError) -> str:
    hint = "; use sudo" if isinstance(error, PermissionError) else ""
    return f"{error.strerror or error}{hint}"


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "replace")).hexdigest()
