"""Who may use the dashboard from elsewhere: a password and tokens, kept in one file that no one else can read."""

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
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from edge_siamese.errors import SettingsError
from edge_siamese.events import utc_now
from edge_siamese.system.files import sync_directory
from edge_siamese.validation import SchemaError, nearest, parse_json, read_object

FILE = "dashboard.json"
"""In the state directory."""
SHORTEST, LONGEST = 8, 256
"""Characters of a password."""
MAX_TOKENS = 50
MAX_NAME = 40
MAX_BYTES = 100_000
TOKEN_PREFIX = "es_"
"""By which people, and programs that look for lost secrets, know one."""

# 16 MiB and some 60 ms on a laptop, 0.4 s on a small board: as much as a board can give for one attempt.
_COST, _BLOCK, _PARALLEL = 2**14, 8, 1
_MAX_MEMORY = 64 * 1024 * 1024
_WORDLIKE = ("bcdfghjklmnprstvz", "aeiou")


@dataclass(frozen=True)
class Password:
    """A password as it is kept: what scrypt makes of it, and with which numbers."""

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
        # Numbers beyond these would let a damaged file eat the memory of a board.
        fine = self.cost.bit_count() == 1 and 2 <= self.cost <= 2**17 and 1 <= self.block <= 16
        if not fine or not 1 <= self.parallel <= 4:
            raise SchemaError("cost", "numbers are needed that scrypt can do with")
        for name in ("salt", "hash"):
            try:
                base64.b64decode(getattr(self, name), validate=True)
            except ValueError:
                raise SchemaError(name, "base64 is needed") from None

    @classmethod
    def of(cls, password: str) -> Password:
        """Hash a password with a salt of its own."""
        made = cls(base64.b64encode(secrets.token_bytes(16)).decode("ascii"), "", changed=utc_now())
        return replace(made, hash=base64.b64encode(made._scrypt(password)).decode("ascii"))

    def matches(self, password: str) -> bool:
        """Whether it is this one; takes a while, on purpose."""
        return hmac.compare_digest(base64.b64decode(self.hash), self._scrypt(password))

    def _scrypt(self, password: str) -> bytes:
        # The same letters typed on another keyboard may be other code points.
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


@dataclass(frozen=True)
class Token:
    """A program's key: only its hash is kept, which for 256 random bits needs no scrypt."""

    name: str
    hash: str
    """SHA-256, hexadecimal."""
    created: str
    """UTC, ISO 8601."""


@dataclass(frozen=True)
class Credentials:
    """All of them, as the file has them."""

    version: int = 1
    password: Password | None = None
    tokens: tuple[Token, ...] = ()

    def __bool__(self) -> bool:
        return self.password is not None or bool(self.tokens)

    @property
    def mark(self) -> str:
        """Changes with the password: sessions of a former one end."""
        return "" if self.password is None else self.password.hash

    def token(self, given: str) -> Token | None:
        """The token that this is; None if it is none. All are compared, so that time tells nothing."""
        digest = _digest(given)
        found = None
        for token in self.tokens:
            if hmac.compare_digest(token.hash, digest):
                found = token
        return found


class CredentialsFile:
    """Reads and changes `dashboard.json`; any thread may."""

    def __init__(self, state: Path) -> None:
        """Nothing is read yet; `state` is the state directory."""
        self.path = state / FILE
        self._seen: tuple[int, int, int] | None = None
        self._read = Credentials()
        self._changing = threading.Lock()

    def current(self) -> Credentials:
        """What the file says now; it is read again only when it has changed.

        Raises:
            SettingsError: it cannot be read, or is damaged. Nobody is let in then.
        """
        with self._changing:
            try:
                state = self.path.stat()
            except FileNotFoundError:
                self._seen, self._read = None, Credentials()
                return self._read
            except OSError as error:
                raise SettingsError(f"{self.path} cannot be read: {_reason(error)}") from error
            seen = state.st_mtime_ns, state.st_ino, state.st_size
            if seen != self._seen:
                self._read = self._load()
                self._seen = seen
            return self._read

    def set_password(self, password: str) -> None:
        """Make this the password; whoever is logged in by a former one has to log in again.

        Raises:
            SettingsError: it is too short or too long, or the file cannot be written.
        """
        if not SHORTEST <= len(password) <= LONGEST:
            raise SettingsError(f"a password has {SHORTEST} to {LONGEST} characters, not {len(password)}")
        self._write(replace(self.current(), password=Password.of(password)))

    def add_token(self, name: str) -> str:
        """Make a token; it is told this once.

        Raises:
            SettingsError: the name is none or taken, there are too many, or the file cannot be written.
        """
        name = name.strip()
        if not 1 <= len(name) <= MAX_NAME or not name.isprintable():
            raise SettingsError(f"a token needs a name of 1 to {MAX_NAME} characters, such as grafana")
        known = self.current()
        if any(token.name == name for token in known.tokens):
            raise SettingsError(
                f'there is a token "{name}"; revoke it first: sudo edge-siamese dashboard revoke'
            )
        if len(known.tokens) >= MAX_TOKENS:
            raise SettingsError(
                f"there are {MAX_TOKENS} tokens; revoke some: sudo edge-siamese dashboard tokens"
            )
        secret = TOKEN_PREFIX + secrets.token_urlsafe(32)
        self._write(replace(known, tokens=(*known.tokens, Token(name, _digest(secret), utc_now()))))
        return secret

    def revoke(self, name: str) -> None:
        """Make a token worthless; raises `SettingsError` if there is none of this name."""
        known = self.current()
        left = tuple(token for token in known.tokens if token.name != name)
        if left == known.tokens:
            hint = nearest(name, [token.name for token in known.tokens])
            raise SettingsError(f'there is no token "{name}"{hint}')
        self._write(replace(known, tokens=left))

    def _load(self) -> Credentials:
        try:
            with self.path.open("rb") as file:
                text = file.read(MAX_BYTES).decode("utf-8")
            found = read_object(parse_json(text), Credentials, optional=True)
        except OSError as error:
            raise SettingsError(f"{self.path} cannot be read: {_reason(error)}") from error
        except (SchemaError, UnicodeDecodeError) as error:
            raise SettingsError(
                f"{self.path} is damaged ({error}); remove it, and say: sudo edge-siamese dashboard password"
            ) from error
        if found.version != 1:
            raise SettingsError(
                f"{self.path} is of version {found.version}, which this release does not read"
            )
        return found

    def _write(self, credentials: Credentials) -> None:
        """Put it in the place of the file at once; never readable for others, not even meanwhile."""
        text = json.dumps(asdict(credentials), indent=2, ensure_ascii=False) + "\n"
        temporary = self.path.with_name(f".{FILE}.{secrets.token_hex(4)}")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                if os.geteuid() == 0:  # the service has to read what root wrote
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
    """One that can be read aloud and typed on a phone: 74 bits in five groups of letters, and three digits."""
    groups = ["".join(secrets.choice(_WORDLIKE[place % 2]) for place in range(4)) for _ in range(5)]
    return "-".join(groups) + f"-{secrets.randbelow(1000):03d}"


def _reason(error: OSError) -> str:
    hint = "; use sudo" if isinstance(error, PermissionError) else ""
    return f"{error.strerror or error}{hint}"


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "replace")).hexdigest()
