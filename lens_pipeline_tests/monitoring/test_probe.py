"""How probes are asked."""

import pytest

from lens_pipeline.monitoring.probes.probe import ask_within


def test_an_error_of_ours_is_no_hanging_service() -> None:
    """A `lens doctor` that sends people to a disk which is well."""

    def look() -> None:
        raise KeyError("of a fault in the probe")

    with pytest.raises(KeyError, match="fault"):
        ask_within(1, "store", look)
