"""The signing key, and signers by purpose."""

import contextlib
import hashlib
import os
import secrets
from pathlib import Path

from itsdangerous import URLSafeSerializer
from itsdangerous.signer import Signer

from lens_pipeline.core.files import private_home
from lens_pipeline.settings import Settings, SettingsError

_FILE = "signing-key"
_BYTES = 32
# RFC 7914's parameters for interactive use: each guess at the token costs 50 ms and 16 MiB.
_COST, _BLOCK, _LANES = 2**14, 8, 1


def signing_key(settings: Settings) -> bytes:
    """Derived from LENS_API_TOKEN, or random in a file. Raises SettingsError: that is damaged."""
    home = private_home(settings.resolved_home)
    if settings.api_token is None:
        return _kept(home / _FILE)
    return hashlib.scrypt(
        settings.api_token.encode(), salt=b"lens-pipeline", n=_COST, r=_BLOCK, p=_LANES
    )


def serializer(key: bytes, purpose: str) -> URLSafeSerializer:
    """Signs JSON for one purpose alone."""
    options = {"key_derivation": "hmac", "digest_method": hashlib.sha256}
    return URLSafeSerializer(key, salt=purpose, signer_kwargs=options)


def signer(key: bytes, purpose: str) -> Signer:
    """Signs text for one purpose alone."""
    return Signer(key, salt=purpose, key_derivation="hmac", digest_method=hashlib.sha256)


def _kept(path: Path) -> bytes:
    if not path.exists():
        _keep(path, secrets.token_bytes(_BYTES))
    key = path.read_bytes()
    if len(key) != _BYTES:
        raise SettingsError(f"{path} is no signing key: remove it, a new one is made")
    return key


def _keep(path: Path, key: bytes) -> None:
    """Write the file whole, unless another process was faster."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(key)
        # Unlike a rename, this replaces nothing.
        with contextlib.suppress(FileExistsError):
            path.hardlink_to(temporary)
    finally:
        temporary.unlink()
