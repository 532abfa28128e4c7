"""HDR (PQ and HLG) to SDR for one frame; `ffmpeg.filters` does it for video."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lens_pipeline.media.ffmpeg.filters import WHITE_NITS

_Floats = NDArray[np.floating[Any]]

# Values of `AVColorTransferCharacteristic` (ITU-T H.273).
PQ, HLG = 16, 18

# The brightest highlight kept: ITU-R BT.2408.
_PEAK = 1000.0

# ITU-R BT.2087, linear light.
_BT2020_TO_BT709 = np.array(
    [[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]],
    dtype=np.float32,
)
_BT2020_LUMA = np.array([0.2627, 0.6780, 0.0593], dtype=np.float32)

# SMPTE ST 2084.
_M1, _M2 = 2610 / 16384, 2523 / 4096 * 128
_C1, _C2, _C3 = 3424 / 4096, 2413 / 4096 * 32, 2392 / 4096 * 32
_PQ_NITS = 10_000.0

# ARIB STD-B67.
_HLG_A, _HLG_B, _HLG_C = 0.17883277, 0.28466892, 0.55991073
_HLG_SYSTEM_GAMMA = 1.2


def to_srgb(rgb: NDArray[np.uint16], transfer: int) -> NDArray[np.uint8]:
    """Map 16-bit full-range BT.2020, coded with `transfer` (`PQ` or `HLG`), to 8-bit sRGB."""
    coded = rgb.astype(np.float32) / 65535
    nits = _pq_to_nits(coded) if transfer == PQ else _hlg_to_nits(coded)
    mapped = _compress(np.minimum(nits, _PEAK)) / WHITE_NITS
    linear = np.clip(mapped @ _BT2020_TO_BT709.T, 0, 1)
    return np.rint(_srgb_code(linear) * 255).astype(np.uint8)


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
