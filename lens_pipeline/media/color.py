"""HDR (PQ and HLG) and wide gamuts to sRGB for one picture; `ffmpeg.filters` does it for video."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lens_pipeline.media.ffmpeg.filters import WHITE_NITS

_Floats = NDArray[np.floating[Any]]

# Values of `AVColorTransferCharacteristic` (ITU-T H.273).
PQ, HLG = 16, 18
_LINEAR = 8
# Values of `AVColorPrimaries`, likewise.
_BT709, _BT2020, _P3 = 1, 9, 12

# The brightest highlight kept: ITU-R BT.2408.
_PEAK = 1000.0

# To BT.709, linear light: ITU-R BT.2087; SMPTE EG 432-1 (Display P3).
_TO_BT709 = {
    _BT709: np.eye(3, dtype=np.float32),
    _BT2020: np.array(
        [[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]],
        dtype=np.float32,
    ),
    _P3: np.array(
        [[1.2249, -0.2247, 0.0], [-0.0421, 1.0421, 0.0], [-0.0196, -0.0786, 1.0979]],
        dtype=np.float32,
    ),
}
_BT2020_LUMA = np.array([0.2627, 0.6780, 0.0593], dtype=np.float32)

# SMPTE ST 2084.
_M1, _M2 = 2610 / 16384, 2523 / 4096 * 128
_C1, _C2, _C3 = 3424 / 4096, 2413 / 4096 * 32, 2392 / 4096 * 32
_PQ_NITS = 10_000.0

# ARIB STD-B67.
_HLG_A, _HLG_B, _HLG_C = 0.17883277, 0.28466892, 0.55991073
_HLG_SYSTEM_GAMMA = 1.2


def is_srgb(primaries: int, transfer: int) -> bool:
    """Whether it is, or is shown as it; so are the curves of SDR video."""
    return transfer not in (PQ, HLG, _LINEAR) and primaries not in (_BT2020, _P3)


def to_srgb(rgb: NDArray[np.uint16], transfer: int, primaries: int = _BT2020) -> NDArray[np.uint8]:
    """Map 16-bit full-range pixels, coded with `transfer` (of HDR `PQ` or `HLG`), to 8 bits."""
    coded = rgb.astype(np.float32) / 65535
    if transfer in (PQ, HLG):
        nits = _pq_to_nits(coded) if transfer == PQ else _hlg_to_nits(coded)
        linear = _compress(np.minimum(nits, _PEAK)) / WHITE_NITS
    else:
        linear = coded if transfer == _LINEAR else _srgb_to_linear(coded)
    if primaries in _TO_BT709 or transfer in (PQ, HLG):
        linear = linear @ _TO_BT709.get(primaries, _TO_BT709[_BT2020]).T
    return np.rint(_srgb_code(np.clip(linear, 0, 1)) * 255).astype(np.uint8)


def ycgco_to_rgb(pixels: NDArray[np.uint16]) -> NDArray[np.uint16]:
    """16-bit full-range Y, Cg and Co to RGB (ITU-T H.273)."""
    y, green, orange = np.moveaxis(pixels.astype(np.int32) - (0, 32768, 32768), -1, 0)
    rgb = np.stack([y - green + orange, y + green, y - green - orange], axis=-1)
    return np.clip(rgb, 0, 65535).astype(np.uint16)


def _compress(nits: _Floats) -> _Floats:
    """Roll off highlights (ITU-R BT.2390), keep the hue and all below half of reference white."""
    peak, white = _nits_to_pq(np.array([_PEAK, WHITE_NITS])).tolist()
    top = white / peak
    knee = 1.5 * top - 0.5
    largest = np.maximum(nits.max(axis=-1, keepdims=True), 1e-4)
    e = _nits_to_pq(largest) / peak
    t = (e - knee) / (1 - knee)
    spline = (
        (2 * t**3 - 3 * t**2 + 1) * knee
        + (t**3 - 2 * t**2 + t) * (1 - knee)
        + (-2 * t**3 + 3 * t**2) * top
    )
    mapped = np.where(e < knee, largest, _pq_to_nits(np.clip(spline, 0, 1) * peak))
    return nits * (mapped / largest)


def _pq_to_nits(coded: _Floats) -> _Floats:
    root = coded ** np.float32(1 / _M2)
    return _PQ_NITS * (np.maximum(root - _C1, 0) / (_C2 - _C3 * root)) ** np.float32(1 / _M1)


def _nits_to_pq(nits: _Floats) -> _Floats:
    power = (nits / _PQ_NITS) ** np.float32(_M1)
    return ((_C1 + _C2 * power) / (1 + _C3 * power)) ** np.float32(_M2)


def _hlg_to_nits(coded: _Floats) -> _Floats:
    scene = np.where(coded <= 0.5, coded**2 / 3, (np.exp((coded - _HLG_C) / _HLG_A) + _HLG_B) / 12)
    luma = np.maximum(scene @ _BT2020_LUMA, 1e-6)[..., None]
    return _PEAK * luma ** np.float32(_HLG_SYSTEM_GAMMA - 1) * scene


def _srgb_code(linear: _Floats) -> _Floats:
    return np.where(
        linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** np.float32(1 / 2.4) - 0.055
    )


def _srgb_to_linear(coded: _Floats) -> _Floats:
    return np.where(coded <= 0.04045, coded / 12.92, ((coded + 0.055) / 1.055) ** np.float32(2.4))
