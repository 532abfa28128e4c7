"""Content credentials of C2PA: finds them, hashes and completes MP4 files, checks certificates.

What parses them runs in the sandbox: `sandbox/credentials`.
"""

import datetime as dt
import hashlib
import mmap
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from lens_pipeline.media.errors import SignerUnusable, explain_disk_full
from lens_pipeline.media.formats import file_extension, mp4_boxes_with_end, read_head
from lens_pipeline.media.models import Signer

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
    from cryptography.x509 import Certificate

# How each manifest store begins: ISO 19566-5, with C2PA's own id.
_STORE = b"jumdc2pa" + bytes.fromhex("00110010800000aa00389b71")
_CHUNK_BYTES = 1 << 20
_WITHOUT_CREDENTIALS = (".webm", ".mkv", ".ogv", ".ts", ".mpg", ".flv", ".wmv")
# C2PA's id of its box in MP4, and what is hashed of no MP4.
C2PA_BOX = bytes.fromhex("d8fec3d61b0e483c92975828877ec481")
# Of a draft: it is as long as the manifest with the true one.
NO_HASH = bytes(32).hex()
UNHASHED_BOXES = ("ftyp", "mfra", "free", "skip")
# Of an MP4's index: where samples lie, and what these tables are in.
_PLACES = {b"stco": "I", b"co64": "Q"}
_ABOVE_PLACES = (b"trak", b"mdia", b"minf", b"stbl")
# What COSE has signed. A key for credentials signs nothing else.
_SIGNED_STRUCTURE = b"\x84\x6aSignature1"
_FIX = "LENS_C2PA_CERT and LENS_C2PA_KEY: "
INSTALL = "c2pa-python is not installed: pip install 'lens-pipeline[c2pa]'"


def has_credentials(file: Path) -> bool:
    """Whether a manifest of C2PA lies in it, in any format that may have one."""
    head = read_head(file)
    if file_extension(head) in _WITHOUT_CREDENTIALS:
        return False
    with file.open("rb") as stream:
        if head[4:8] == b"ftyp":
            return any(
                kind == b"uuid" and _is_ours(stream, start) for kind, start, _ in _boxes(file)
            )
        end = b""
        while chunk := stream.read(_CHUNK_BYTES):
            if _STORE in end + chunk:
                return True
            end = chunk[-len(_STORE) :]
    return False


def _is_ours(stream: BinaryIO, start: int) -> bool:
    stream.seek(start + 8)
    return stream.read(len(C2PA_BOX)) == C2PA_BOX


def _boxes(file: Path) -> Iterator[tuple[bytes, int, int]]:
    """Kind, begin and end of each at the top level."""
    start = 0
    for kind, end in mp4_boxes_with_end(file):
        yield kind, start, end
        start = end


def mp4_box(manifest: bytes) -> bytes:
    content = C2PA_BOX + bytes(4) + b"manifest\0" + bytes(8) + manifest
    return struct.pack(">I4s", 8 + len(content), b"uuid") + content


def sign_mp4(file: Path, size: int, sign: Callable[[str], bytes]) -> None:
    """Add the manifest of `size` bytes that `sign` makes of the file's hash.

    Raises SignerUnusable: it has another size. DiskFull. What `sign` raises.
    """
    place = _insert_room(file, len(mp4_box(bytes(size))))
    manifest = sign(_mp4_hash(file))
    if len(manifest) != size:
        raise SignerUnusable(f"credentials of {len(manifest)} bytes instead of {size}")
    with explain_disk_full(), file.open("r+b") as stream:
        stream.seek(place)
        stream.write(mp4_box(manifest))


def _insert_room(file: Path, size: int) -> int:
    """Put an empty box of `size` bytes behind the first of an MP4, where C2PA wants its own.

    Samples are found as before. Returns the place. Raises DiskFull.
    """
    first, *others = _boxes(file)
    moved = file.with_name(f"{file.name}.moved")
    with explain_disk_full(), file.open("rb") as old, moved.open("wb") as new:
        new.write(old.read(first[-1]))
        new.write(struct.pack(">I4s", size, b"free") + bytes(size - 8))
        for kind, start, end in others:
            old.seek(start)
            if kind == b"moov":
                new.write(_with_places_moved(old.read(end - start), size))
                continue
            for place in range(start, end, _CHUNK_BYTES):
                new.write(old.read(min(_CHUNK_BYTES, end - place)))
    moved.replace(file)
    return first[-1]


def _mp4_hash(file: Path) -> str:
    """SHA-256, in hex, of an MP4 as C2PA's assertion for BMFF has it: of each box its place and its
    bytes, but for its own one, or the one that keeps its place.
    """
    digest = hashlib.sha256()
    with (
        file.open("rb") as stream,
        mmap.mmap(stream.fileno(), 0, prot=mmap.PROT_READ) as data,
        memoryview(data) as view,
    ):
        for kind, start, end in _boxes(file):
            if kind.decode("latin-1") not in UNHASHED_BOXES:
                digest.update(struct.pack(">Q", start))
                digest.update(view[start:end])
    return digest.hexdigest()


def _with_places_moved(moov: bytes, by: int) -> bytes:
    moved = bytearray(moov)
    for table, code in _place_tables(moov, 8, len(moov)):
        (count,) = struct.unpack_from(">I", moved, table + 4)
        places = struct.unpack_from(f">{count}{code}", moved, table + 8)
        struct.pack_into(f">{count}{code}", moved, table + 8, *(place + by for place in places))
    return bytes(moved)


def _place_tables(moov: bytes, start: int, end: int) -> Iterator[tuple[int, str]]:
    """Where the content of each `stco` and `co64` begins, and the format of its places."""
    while start < end:
        size, kind = struct.unpack_from(">I4s", moov, start)
        if kind in _PLACES:
            yield start + 8, _PLACES[kind]
        elif kind in _ABOVE_PLACES:
            yield from _place_tables(moov, start + 8, start + size)
        start += size


def load_signer(cert: Path, key: Path) -> Signer:
    """Of a PEM file with the signer's certificate and its issuers, and of its private key.

    Raises SignerUnusable: they cannot be read, do not fit, or are not valid now.
    """
    # Few processes need it, and it comes with c2pa-python.
    try:
        from cryptography import x509
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.serialization import load_pem_private_key
    except ImportError:
        raise SignerUnusable(f"{_FIX}{INSTALL}") from None
    chain = _contents(cert)
    try:
        certificates = x509.load_pem_x509_certificates(chain)
    except ValueError:
        raise SignerUnusable(f"{_FIX}{cert} has no certificate in PEM") from None
    try:
        private = load_pem_private_key(_contents(key), None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        # The cause may quote the key.
        raise SignerUnusable(f"{_FIX}{key} has no private key in PEM without password") from None
    for certificate in certificates:
        _require_valid_now(certificate, cert)
    if certificates[0].public_key() != private.public_key():
        raise SignerUnusable(f"{_FIX}{key} is not the key of the first certificate in {cert}")
    algorithm, sign = _algorithm(private, key)

    def sign_claim(data: bytes) -> bytes:
        if not data.startswith(_SIGNED_STRUCTURE):
            raise SignerUnusable("what is to be signed is no claim of C2PA")
        return sign(data)

    return Signer(chain.decode("ascii", "replace"), algorithm, sign_claim)


def _contents(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise SignerUnusable(f"{_FIX}{file} cannot be read: {error.strerror}") from None


def _require_valid_now(certificate: "Certificate", file: Path) -> None:
    begins, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if begins <= dt.datetime.now(dt.UTC) <= ends:
        return
    name = certificate.subject.rfc4514_string()
    raise SignerUnusable(f"{_FIX}{name} in {file} is valid from {begins:%F} to {ends:%F}, not now")


def _algorithm(private: "PrivateKeyTypes", file: Path) -> tuple[str, Callable[[bytes], bytes]]:
    """C2PA's name of it, and what signs."""
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa

    match private:
        case ed25519.Ed25519PrivateKey():
            return "ed25519", private.sign
        case ec.EllipticCurvePrivateKey(key_size=256 | 384 | 521 as bits):
            digest = {256: hashes.SHA256(), 384: hashes.SHA384(), 521: hashes.SHA512()}[bits]
            name = f"es{digest.digest_size * 8}"
            return name, lambda data: private.sign(data, ec.ECDSA(digest))
        case rsa.RSAPrivateKey():
            pss = padding.PSS(padding.MGF1(hashes.SHA256()), 32)
            return "ps256", lambda data: private.sign(data, pss, hashes.SHA256())
        case _:
            raise SignerUnusable(f"{_FIX}{file} is no key of ECDSA, RSA or Ed25519")
