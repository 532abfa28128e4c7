"""Content credentials: what files tell of them, and what is signed."""

import datetime as dt
import hashlib
import json
import subprocess
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path

import av
import c2pa
import pytest
from av.container import InputContainer
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from PIL import Image

from lens_pipeline.media import credentials
from lens_pipeline.media.errors import MediaError, SignerUnusable
from lens_pipeline.media.ffmpeg.tools import find_ffmpeg
from lens_pipeline.media.models import Ingredient, Manifest, Signer
from lens_pipeline.media.provenance import mark_mp4, marked_webp
from lens_pipeline.media.sandbox.pool import CREDENTIALS, Sandbox
from lens_pipeline_tests.support import sources
from lens_pipeline_tests.support.certificates import issue

pytestmark = pytest.mark.slow

TRAINED = "trainedAlgorithmicMedia"


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    with Sandbox(1, 60, 2048, tmp_path_factory.mktemp("sandbox"), CREDENTIALS) as opened:
        yield opened


@pytest.fixture
def signer(tmp_path: Path) -> Signer:
    return credentials.load_signer(*issue(tmp_path / "pair"))


def _manifest(media_type: str = "image/webp", *ingredients: Ingredient, **more: str) -> Manifest:
    actions = () if more.get("source_type") else ("c2pa.transcoded",)
    return Manifest("a", media_type, "1", actions, ingredients, **more)


def _ingredient(file: Path, media_type: str, keep: bool = True) -> Ingredient:
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
    return Ingredient(file.name, media_type, sha256, TRAINED, file if keep else None)


def _read(file: Path) -> dict:
    """As anybody reads it, with the library's defaults."""
    with c2pa.Reader(file) as reader:
        return json.loads(reader.json())


def _webp() -> bytes:
    webp = BytesIO()
    Image.effect_noise((301, 200), 60).convert("RGB").save(webp, "WEBP", quality=80)
    return marked_webp(webp.getvalue(), TRAINED)


def _signed_mp4(file: Path, sandbox: Sandbox, signer: Signer, *shots: Ingredient) -> None:
    mark_mp4(file, TRAINED)

    def sign(digest: str) -> bytes:
        manifest = _manifest("video/mp4", *shots, mp4_hash=digest, source_type=TRAINED)
        return sandbox.signed(manifest, b"", signer)

    credentials.sign_mp4(file, len(sign(credentials.NO_HASH)), sign)


@pytest.mark.parametrize(
    "key",
    [
        lambda: ec.generate_private_key(ec.SECP256R1()),
        lambda: ec.generate_private_key(ec.SECP384R1()),
        lambda: rsa.generate_private_key(65537, 2048),
        ed25519.Ed25519PrivateKey.generate,
    ],
    ids=["es256", "es384", "ps256", "ed25519"],
)
def test_a_signed_picture_is_valid_and_the_same_picture(
    sandbox: Sandbox, tmp_path: Path, key: Callable[[], ec.EllipticCurvePrivateKey]
) -> None:
    """Credentials that readers refuse, or a picture that decoders do."""
    signer = credentials.load_signer(*issue(tmp_path, key()))
    photo, plain, file = tmp_path / "photo.jpg", _webp(), tmp_path / "a.webp"
    photo.write_bytes(sources.jpeg())
    parent = _ingredient(photo, "image/jpeg", keep=False)

    file.write_bytes(sandbox.signed(_manifest("image/webp", parent), plain, signer))

    told = _read(file)
    assert told["validation_state"] == "Valid"
    (ingredient,) = told["manifests"][told["active_manifest"]]["ingredients"]
    assert ingredient["relationship"] == "parentOf"
    assert parent.sha256 in ingredient["instance_id"]
    assert file.stat().st_size - len(plain) < 16 * 1024
    with Image.open(BytesIO(plain)) as before, Image.open(file) as after:
        assert after.tobytes() == before.tobytes()
        assert TRAINED in after.info["xmp"].decode()


def test_a_signed_video_is_valid_and_the_same_video(
    sandbox: Sandbox, signer: Signer, tmp_path: Path
) -> None:
    """A master whose proof no longer counts, or that players stumble on; a shot not named."""
    shot, odd, file = tmp_path / "shot.mp4", tmp_path / "odd.webm", tmp_path / "master.mp4"
    for one in (shot, file):
        one.write_bytes(sources.mp4())
    odd.write_bytes(b"\x1aE\xdf\xa3")
    _signed_mp4(shot, sandbox, signer)

    shots = _ingredient(shot, "video/mp4"), _ingredient(odd, "video/webm", keep=False)
    _signed_mp4(file, sandbox, signer, *shots)

    told = _read(file)
    assert told["validation_state"] == "Valid"
    active = told["manifests"][told["active_manifest"]]
    assert {one["title"] for one in active["ingredients"]} == {"shot.mp4", "odd.webm"}
    assert {one["relationship"] for one in active["ingredients"]} == {"componentOf"}
    # The shot's own manifest is in it.
    assert len(told["manifests"]) == 2
    found = sandbox.credentials(file)
    assert (found.state, found.source_types, found.signer) == ("valid", (TRAINED,), "Tests")
    with av.open(str(file), "r") as signed, av.open(BytesIO(sources.mp4()), "r") as plain:
        assert _packets(signed) == _packets(plain)
    command = [find_ffmpeg(), "-v", "warning", "-xerror", "-i", file, "-f", "null", "-"]
    assert subprocess.run(command, check=True, capture_output=True).stderr == b""

    with file.open("r+b") as stream:
        stream.seek(file.stat().st_size - 3000)
        stream.write(b"falsified")
    assert sandbox.credentials(file).state == "invalid"


def _packets(video: InputContainer) -> list[bytes]:
    return [bytes(packet) for packet in video.demux() if packet.size]


def test_credentials_are_found_in_every_format(
    sandbox: Sandbox, signer: Signer, tmp_path: Path
) -> None:
    """An original whose credentials nobody looks for; a library loaded for one without any."""
    for suffix, kind in (("jpg", "JPEG"), ("png", "PNG"), ("webp", "WEBP"), ("gif", "GIF")):
        file, media_type = tmp_path / f"a.{suffix}", f"image/{kind.lower()}"
        Image.effect_noise((64, 48), 60).convert("RGB").save(file, kind)
        assert not credentials.has_credentials(file)
        manifest = _manifest(media_type, source_type=TRAINED)
        file.write_bytes(sandbox.signed(manifest, file.read_bytes(), signer))
        assert credentials.has_credentials(file)
        found = sandbox.credentials(file)
        assert (found.state, found.generator) == ("valid", "Lens Pipeline 1")
        assert (found.issuer, found.title) == ("Example", "a")
        assert found.signed_at is None


def test_broken_credentials_fail_their_file_alone(sandbox: Sandbox, tmp_path: Path) -> None:
    """A hostile manifest that takes the worker with it."""
    file = tmp_path / "a.webp"
    store = b"\0\0\0\x30jumb\0\0\0\x28jumdc2pa" + bytes.fromhex("00110010800000aa00389b71")
    chunk = b"C2PA\x40\0\0\0" + store.ljust(64, b"\xff")
    body = b"WEBP" + _webp()[12:] + chunk
    file.write_bytes(b"RIFF" + len(body).to_bytes(4, "little") + body)
    assert credentials.has_credentials(file)
    with pytest.raises(MediaError, match="content credentials"):
        sandbox.credentials(file)


def test_a_key_signs_claims_alone(signer: Signer) -> None:
    """A taken-over process that has a login or a contract signed."""
    with pytest.raises(SignerUnusable, match="no claim"):
        signer.sign(b"transfer everything")


def test_a_pair_that_cannot_sign_is_refused_with_its_reason(tmp_path: Path) -> None:
    """A site that finds out by files without credentials."""
    good, other = issue(tmp_path / "good"), issue(tmp_path / "other")
    expired = issue(tmp_path / "expired", ends=-dt.timedelta(hours=1))
    empty = tmp_path / "empty.pem"
    empty.write_text("")
    for cert, key, reason in (
        (good.cert, other.key, "is not the key of the first certificate"),
        (*expired, "not now"),
        (empty, good.key, "has no certificate"),
        (good.cert, empty, "has no private key"),
        (good.cert, tmp_path / "absent.pem", "cannot be read: No such file"),
    ):
        with pytest.raises(SignerUnusable, match=reason) as refused:
            credentials.load_signer(cert, key)
        assert "LENS_C2PA_KEY" in str(refused.value)
