"""Pieces of an order."""

import pytest

from lens_pipeline.derivatives.orders import Film, InvalidOrder, Order, plan

FILM = Film(30.0, 1920, 1080, [10.0, 20.0])


@pytest.mark.parametrize("length", [None, (1.0, 1.0), (2.5, 4.0), (29.0, 29.0)])
@pytest.mark.parametrize("seed", range(5))
def test_no_fragment_is_cut_twice(length: tuple[float, float] | None, seed: int) -> None:
    pieces = plan(Order(["1:1"], count=100, length=length, seed=seed), FILM)
    assert len({(piece.start, piece.end) for piece in pieces}) == 100
    for piece in pieces:
        assert piece.start is not None
        assert piece.end is not None
        shortest, longest = length or (15.0, 30.0)
        assert 0 <= piece.start < piece.end <= 30
        assert shortest - 0.02 <= piece.end - piece.start <= longest + 0.02


def test_fragments_that_cannot_differ_are_refused() -> None:
    with pytest.raises(InvalidOrder, match=r"30\.000 s of film have no room") as refused:
        plan(Order(["1:1"], count=3, length=(30.0, 30.0)), FILM)
    assert refused.value.code == "impossible_count"


def test_a_size_of_two_names_is_made_once() -> None:
    (piece,) = plan(Order(["1:1", "1080x1080", "01080x1080"]), FILM)
    assert (piece.width, piece.height) == (1080, 1080)
    with pytest.raises(InvalidOrder, match="is no format"):
        plan(Order(["\uff11\uff16x16"]), FILM)


def test_the_shortest_part_has_a_tenth_of_a_second() -> None:
    assert len(plan(Order(["1:1"], start=5.0, end=5.1), FILM)) == 1
    with pytest.raises(InvalidOrder, match=r"\(5.05 s\) is not at least 0.1 s after the start"):
        plan(Order(["1:1"], start=5.0, end=5.05), FILM)
