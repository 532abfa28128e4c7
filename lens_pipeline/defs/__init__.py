"""Dagster's nouns, a file each; a definition is glue of at most 15 lines."""

import warnings

from dagster import BetaWarning

# Else each owner and code reference is a warning in Dagster's own commands.
warnings.filterwarnings("ignore", category=BetaWarning)
