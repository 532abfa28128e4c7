"""Reads and makes manifests of C2PA for `worker`: from strangers' files, so without a key."""

import json
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import c2pa

from lens_pipeline.media.credentials import C2PA_BOX, UNHASHED_BOXES
from lens_pipeline.media.errors import MediaError
from lens_pipeline.media.provenance import SOURCE_TYPES
from lens_pipeline.media.sandbox import protocol

_SETTINGS = {
    "verify": {"remote_manifest_fetch": False, "ocsp_fetch": False},
    "core": {"allowed_network_hosts": []},
    "builder": {"thumbnail": {"enabled": False}},
}
_ALGORITHMS = {one.name.lower(): one for one in c2pa.C2paSigningAlg}
# `ftyp` of an MP4 that is hashed elsewhere: the library wants to see a file.
_FTYP = bytes.fromhex("00000014667479706d703432000000006d703432")


def answer(
    request: protocol.Header, body: bytes, sign: Callable[[bytes], bytes]
) -> tuple[protocol.Header, bytes]:
    """Raises MediaError."""
    paths = [Path(path) for path in request["paths"]]
    try:
        if request["kind"] == "read":
            return {"credentials": _read(*paths)}, b""
        return {}, _signed(request["spec"], paths, body, sign)
    except c2pa.C2paError as error:
        raise MediaError(f"content credentials: {error}") from error


def _context() -> c2pa.Context:
    return c2pa.Context.from_dict(_SETTINGS)


def _read(source: Path) -> dict[str, Any]:
    with source.open("rb") as stream, c2pa.Reader(None, stream, context=_context()) as reader:
        told = json.loads(reader.json())
    manifests: dict[str, Any] = told["manifests"]
    active = manifests[told["active_manifest"]]
    signature = active.get("signature_info") or {}
    generators = active.get("claim_generator_info") or [{}]
    name = generators[0].get("name"), generators[0].get("version")
    types = {one for manifest in manifests.values() for one in _source_types(manifest)}
    failures = (told.get("validation_results") or {}).get("activeManifest", {}).get("failure", [])
    state = told["validation_state"].lower()
    return {
        "state": state,
        "generator": " ".join(filter(None, name)) or active.get("claim_generator"),
        "title": active.get("title"),
        "source_types": sorted(types),
        "signer": signature.get("common_name"),
        "issuer": signature.get("issuer"),
        "signed_at": signature.get("time"),
        # A valid one may be signed by a certificate that no list has.
        "problems": [one["code"] for one in failures] if state == "invalid" else [],
    }


def _source_types(manifest: dict[str, Any]) -> Iterator[str]:
    for assertion in manifest.get("assertions", []):
        if assertion["label"].startswith("c2pa.actions"):
            for action in assertion["data"]["actions"]:
                if "digitalSourceType" in action:
                    yield action["digitalSourceType"].removeprefix(SOURCE_TYPES)


def _signed(
    manifest: dict[str, Any], files: list[Path], picture: bytes, sign: Callable[[bytes], bytes]
) -> bytes:
    signer = c2pa.Signer.from_callback(sign, _ALGORITHMS[manifest["algorithm"]], manifest["chain"])
    signed, rest = BytesIO(), iter(files)
    with signer, c2pa.Builder.from_json(_definition(manifest), context=_context()) as builder:
        for one in manifest["ingredients"]:
            if one["file"]:
                with next(rest).open("rb") as stream:
                    builder.add_ingredient(_ingredient(one, manifest), one["media_type"], stream)
        if manifest["mp4_hash"]:
            builder.set_no_embed()
            return builder.sign(signer, manifest["media_type"], BytesIO(_FTYP), signed)
        builder.sign(signer, manifest["media_type"], BytesIO(picture), signed)
    return signed.getvalue()


def _definition(manifest: dict[str, Any]) -> dict[str, Any]:
    assertions = [{"label": "c2pa.actions.v2", "data": {"actions": list(_actions(manifest))}}]
    if manifest["mp4_hash"]:
        assertions.append({"label": "c2pa.hash.bmff.v3", "data": _mp4_hash(manifest["mp4_hash"])})
    return {
        "claim_generator_info": [
            {"name": "Lens Pipeline", "version": manifest["generator_version"]}
        ],
        "title": manifest["title"],
        "format": manifest["media_type"],
        "assertions": assertions,
        "ingredients": [
            _ingredient(one, manifest) for one in manifest["ingredients"] if not one["file"]
        ],
    }


def _ingredient(one: dict[str, Any], manifest: dict[str, Any]) -> dict[str, Any]:
    return {
        "title": one["title"],
        "format": one["media_type"],
        "instance_id": _id(one),
        "relationship": "componentOf" if manifest["source_type"] else "parentOf",
    }


def _id(ingredient: dict[str, Any]) -> str:
    return f"urn:sha256:{ingredient['sha256']}"


def _actions(manifest: dict[str, Any]) -> Iterator[dict[str, Any]]:
    composed = manifest["source_type"]
    if composed:
        yield {"action": "c2pa.created", "digitalSourceType": SOURCE_TYPES + composed}
    for one in manifest["ingredients"]:
        source_type = one["source_type"]
        yield {
            "action": "c2pa.placed" if composed else "c2pa.opened",
            "parameters": {"ingredientIds": [_id(one)]},
            **({"digitalSourceType": SOURCE_TYPES + source_type} if source_type else {}),
        }
    for action in manifest["actions"]:
        yield {"action": action}


def _mp4_hash(digest: str) -> dict[str, Any]:
    """As `credentials.sign_mp4` made it."""
    left_out = [{"xpath": f"/{box}"} for box in UNHASHED_BOXES]
    ours = {"xpath": "/uuid", "data": [{"offset": 8, "value": list(C2PA_BOX)}]}
    return {
        "name": "jumbf manifest",
        "alg": "sha256",
        "hash": list(bytes.fromhex(digest)),
        "exclusions": [ours, *left_out],
    }
