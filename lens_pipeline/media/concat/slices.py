"""Headers of pictures: what a player does with those before."""

from lens_pipeline.media.concat.bits import Bits

# H.264: profiles whose SPS has chroma_format_idc (7.3.2.1.1).
_CHROMA_PROFILES = frozenset({44, 83, 86, 100, 110, 118, 122, 128, 134, 135, 138, 139, 244})
_444 = 3
_SMALL_LISTS, _SMALL_SIZE, _LARGE_SIZE = 6, 16, 64
_SPS, _MOST_SPS_ID = 7, 31
_PPS, _MOST_PPS_ID = 8, 255
_MOST_ORDER_CYCLE = 255


def hevc_drops_prior(slice_header: bytes) -> bool:
    """Of the NAL unit of an IRAP picture (H.265, 7.3.6.1), with its two bytes of header."""
    return bool(slice_header[2] & 0x40)


class H264Sets:
    """Parameter sets of H.264; of two with one id the later counts."""

    def __init__(self) -> None:
        self.sps: dict[int, _Sps] = {}
        self.pps: dict[int, _Pps] = {}

    def add(self, unit: bytes) -> None:
        """Raises ValueError: damaged."""
        if unit[0] & 0x1F == _SPS:
            sps = _Sps(Bits(unit[1:]))
            self.sps[sps.id] = sps
        elif unit[0] & 0x1F == _PPS:
            pps = _Pps(Bits(unit[1:]))
            self.pps[pps.id] = pps


def h264_drops_prior(slice_header: bytes, sets: H264Sets) -> bool:
    """Of the NAL unit of an IDR picture (H.264, 7.3.3).

    Raises ValueError or KeyError: damaged, or a set is missing.
    """
    bits = Bits(slice_header[1:])
    bits.unsigned()  # first_mb_in_slice
    bits.unsigned()  # slice_type: I or SI
    picture = sets.pps[bits.unsigned()]
    sequence = sets.sps[picture.sps_id]
    bits.take(2 if sequence.separate_planes else 0)
    bits.take(sequence.frame_number_bits)
    is_field = sequence.has_fields and bits.take(1) == 1
    bits.take(1 if is_field else 0)  # bottom_field_flag
    bits.unsigned()  # idr_pic_id
    has_deltas = picture.has_deltas and not is_field
    if sequence.order_type == 0:
        bits.take(sequence.order_bits)
        if has_deltas:
            bits.signed()
    elif sequence.order_type == 1 and sequence.writes_deltas:
        bits.signed()
        if has_deltas:
            bits.signed()
    if picture.has_redundant:
        bits.unsigned()
    return bits.take(1) == 1


class _Sps:
    """What the header of a slice depends on."""

    def __init__(self, bits: Bits) -> None:
        profile = bits.take(8)
        bits.take(16)  # constraints, level
        self.id = bits.unsigned(_MOST_SPS_ID)
        self.separate_planes = False
        if profile in _CHROMA_PROFILES:
            chroma = bits.unsigned()
            self.separate_planes = chroma == _444 and bits.take(1) == 1
            bits.unsigned()  # bit depths
            bits.unsigned()
            bits.take(1)  # qpprime_y_zero_transform_bypass_flag
            if bits.take(1):
                for number in range(12 if chroma == _444 else 8):
                    if bits.take(1):
                        _skip_list(bits, _SMALL_SIZE if number < _SMALL_LISTS else _LARGE_SIZE)
        self.frame_number_bits = bits.unsigned() + 4
        self.order_type = bits.unsigned()
        self.order_bits = bits.unsigned() + 4 if self.order_type == 0 else 0
        self.writes_deltas = False
        if self.order_type == 1:
            self.writes_deltas = bits.take(1) == 0
            bits.signed()
            bits.signed()
            for _ in range(bits.unsigned(_MOST_ORDER_CYCLE)):
                bits.signed()
        bits.unsigned()  # max_num_ref_frames
        bits.take(1)  # gaps_in_frame_num_value_allowed_flag
        bits.unsigned()  # width, height
        bits.unsigned()
        self.has_fields = bits.take(1) == 0


class _Pps:
    """The same."""

    def __init__(self, bits: Bits) -> None:
        self.id = bits.unsigned(_MOST_PPS_ID)
        self.sps_id = bits.unsigned()
        bits.take(1)  # entropy_coding_mode_flag
        self.has_deltas = bits.take(1) == 1
        if bits.unsigned():
            raise ValueError("slice groups, which no player knows")
        bits.unsigned()  # numbers of references
        bits.unsigned()
        bits.take(3)  # weighted prediction
        bits.signed()  # quantisers
        bits.signed()
        bits.signed()
        bits.take(2)  # deblocking, constrained intra prediction
        self.has_redundant = bits.take(1) == 1


def _skip_list(bits: Bits, size: int) -> None:
    """A scaling list (7.3.2.1.1.1)."""
    last = following = 8
    for _ in range(size):
        if following:
            following = (last + bits.signed()) % 256
        last = following or last
