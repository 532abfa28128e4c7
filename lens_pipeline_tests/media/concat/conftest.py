"""Shots, each made once for all tests that need it, and joining them."""

from fractions import Fraction
from pathlib import Path

import pytest

from lens_pipeline.media.concat.join import Master, join
from lens_pipeline_tests.media.concat.shots import (
    PLAIN,
    RATE,
    TOOLS,
    Join,
    Make,
    Recipe,
    check_master,
    source,
    work_in,
)
from lens_pipeline_tests.media.samples import Pixels


@pytest.fixture(scope="session")
def make(tmp_path_factory: pytest.TempPathFactory) -> Make:
    made: dict[Recipe, Path] = {}

    def make_once(recipe: Recipe) -> Path:
        if recipe not in made:
            made[recipe] = recipe.make(tmp_path_factory.mktemp("shot"))
        return made[recipe]

    return make_once


@pytest.fixture
def plain(make: Make) -> Path:
    return make(PLAIN)


@pytest.fixture
def joined(tmp_path: Path) -> Join:
    """Join files, and check what holds for every master."""

    def join_files(*paths: Path, rate: Fraction = RATE) -> tuple[Master, list[Pixels]]:
        master = join([source(path) for path in paths], TOOLS, work_in(tmp_path / "work"))
        assert master.fallback is None
        assert len(master.shots) == len(paths)
        return master, check_master(master, rate)

    return join_files
