"""The names of tags on runs and events."""

# Dagster's UI shows it as the data version.
REVISION_TAG = "dagster/data_version"
# On materializations: a hash of the sources and the parameters that are settings, joined by `_`.
# Dagster allows 63 letters, digits, `_`, `-` and `.`. It has no index: it is seldom read.
SOURCE_TAG = "lens/source"
# On materializations of rows that need no object: none is stored.
UNSTORED_TAG = "lens/unstored"
# On observations.
OUTCOME_TAG = "lens/outcome"
FAILED_REVISION_TAG = "lens/revision"
ERROR_CLASS_TAG = "lens/error_class"
PERMANENT_TAG = "lens/permanent"
BLAMELESS_TAG = "lens/blameless"
# On observations of generations whose task had several results; its value is the revision of the
# first.
EXTRA_TAG = "lens/extra_urls"
# On observations of generations whose task was paid for: a number.
CREDITS_TAG = "lens/credits"
# On removals that leave the object in the store for now.
KEPT_TAG = "lens/kept"
# On runs.
PROGRESS_TAG = "lens/progress"
# What each file was to be made as: `id=revision`, parted by spaces. Dagster's UI hides it.
REVISIONS_TAG = ".dagster/lens_revisions"
# Numbers of files.
FILES_TAG = "lens/files"
FAILED_TAG = "lens/failed"
# Dagster's UI hides tags that begin so.
PERCENT_TAG = ".dagster/lens_progress_percent"
STAGE_TAG = ".dagster/lens_progress_stage"
SECONDS_LEFT_TAG = ".dagster/lens_progress_seconds_left"
PROGRESS_TAGS = (PROGRESS_TAG, PERCENT_TAG, STAGE_TAG, SECONDS_LEFT_TAG)
TASK_TAG = ".dagster/celery_task_id"
# On runs for one user or project alone.
USER_TAG = "lens/user"
PRIORITY_TAG = "dagster/priority"
# In seconds; Dagster's monitor ends a run that takes longer.
MAX_RUNTIME_TAG = "dagster/max_runtime"
ORIGIN_TAG = "lens/origin"
FORCE_TAG = "lens/force"
# The HTTP request that asked for the run.
REQUEST_TAG = "lens/request_id"
