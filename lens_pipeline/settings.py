"""Every setting, validated once, by the only reader of the environment.

`load()` reads `LENS_…` variables, `./.env` and `./.env.local`; importing this reads nothing.
"""

import base64
import ipaddress
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from dotenv import dotenv_values
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    Field,
    ValidationError,
    model_validator,
)

from lens_pipeline.errors import LensError

PREFIX = "LENS_"

# Names in the old workers, where the meaning is the same.
ALIASES = {
    "PREVIEWS_WORKER_ENABLED": "LENS_ENABLED",
    "PREVIEWS_WORKER_CONCURRENCY": "LENS_PREVIEW_CONCURRENCY",
    "PREVIEWS_WORKER_DEBUG": "LENS_DEBUG",
}
# Words in other names of the old workers, and what to set in place of them; the first that fits.
_ANSWERS = (
    ("BATCH|LIMIT", "LENS_BATCH_SIZE is the most files of one run"),
    ("RETR|ATTEMPT", "LENS_MAX_ATTEMPTS says how often a file is tried"),
    ("TIMEOUT", "set LENS_FETCH_TIMEOUT_SECONDS and LENS_RENDER_TIMEOUT_SECONDS, in seconds"),
    ("INTERVAL|POLL|CRON|DELAY", "rows are looked for each second, all by LENS_BACKFILL_CRON"),
    ("QUALITY", "set LENS_PREVIEW_QUALITY"),
    ("SIZE|WIDTH|HEIGHT|EDGE|DIMENSION", "set LENS_PREVIEW_EDGE, the longest edge in pixels"),
    ("BUCKET|STORAGE", "set LENS_STORE_URL=s3://BUCKET"),
    ("LOG|VERBOSE", "set LENS_LOG_LEVEL=debug"),
    ("PORT", "set LENS_API_PORT"),
    ("", "nothing here does the same: remove it"),
)
# Names of a site's client of Supabase, and what to set in place of what they would lead to.
_SUPABASE = {
    "NEXT_PUBLIC_SUPABASE_URL": (
        "LENS_DATABASE_URL",
        "to the database's connection string (in Supabase: Connect, direct or session pooler)",
    ),
    "SUPABASE_SERVICE_ROLE_KEY": (
        "LENS_STORE_URL",
        "to s3://BUCKET, LENS_S3_ENDPOINT, and AWS_… to S3 access keys (in Supabase: Storage, S3)",
    ),
}

# For processes of `lens up` only.
INTERNAL = frozenset({"LENS_SUPERVISED"})
# Names in documentation of others, without a warning.
SYNONYMS = {"KIE_CALLBACK_SECRET": "LENS_KIE_SECRET", "SENTRY_DSN": "LENS_SENTRY_DSN"}
# Never in a message.
_SECRET = frozenset(
    {
        *("api_token", "alert_urls", "sentry_dsn", "kie_api_key", "kie_secret", "kie_webhook_key"),
        *("fal_api_key", "replicate_api_key", "replicate_webhook_key"),
        *("webhook_urls", "webhook_secret", "notify_urls"),
    }
)

_MONTHS = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]
_WEEKDAYS = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"]
# Values of minute, hour, day, month and weekday in a cron schedule.
_CRON_FIELDS = tuple(
    frozenset([*map(str, numbers), *names])
    for numbers, names in (
        (range(60), []),
        (range(24), []),
        (range(1, 32), []),
        (range(1, 13), _MONTHS),
        (range(8), _WEEKDAYS),
    )
)
# As in SQL, where they stand in quotes.
_COLUMN = re.compile("[A-Za-z_][A-Za-z0-9_]{0,62}")
_TYPES = re.compile(r"(photo|video)=([\w./-]+(?:\|[\w./-]+)*)")
_OWN_FOLDERS = re.compile(r"(?:^|/)(?:originals|previews|posters|playable)/\{id\}")


class SettingsError(LensError):
    """A setting is wrong; the message names the variable and the fix, in one line."""


def _comma_list(value: object) -> object:
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return value


def _url_list(value: object) -> object:
    """A comma separates only before the next address: addresses may have commas."""
    if isinstance(value, str):
        parts = re.split(r",\s*(?=[A-Za-z][A-Za-z0-9+.-]*://)", value.strip().strip(","))
        return tuple(part.strip() for part in parts if part.strip())
    return value


CommaList = Annotated[tuple[str, ...], BeforeValidator(_comma_list)]
UrlList = Annotated[tuple[str, ...], BeforeValidator(_url_list)]
Edge = Annotated[int, Field(ge=16, le=8192)]
# More would not fit into a tag of Dagster's.
Sizes = Annotated[
    tuple[Edge, ...],
    BeforeValidator(_comma_list),
    AfterValidator(lambda edges: tuple(sorted(set(edges)))),
    Field(max_length=4),
]
Port = Annotated[int, Field(ge=1, le=65535)]


def _default_preview_concurrency() -> int:
    return min(os.cpu_count() or 1, 4)


class Settings(BaseModel, frozen=True, extra="forbid", use_attribute_docstrings=True):
    """The settings of one process; field `x` is the variable `LENS_X`.

    `make docs` writes the text below each field to docs/settings.md.
    """

    home: Path = Path(".lens")
    """Directory for everything that the embedded servers keep, for logs and for scratch files."""
    database_url: str | None = None
    """The application's database, `postgresql://user:password@host:port/name`. Without it: an
    embedded PostgreSQL."""
    dagster_url: str | None = None
    """Dagster's storage. Without it: the database `dagster` on the same server. It needs session
    connections, so no pooler in transaction mode."""
    broker_url: str | None = None
    """Celery's broker: `redis://…` (Redis, Valkey) or `amqp://user:password@host:5672/vhost`
    (RabbitMQ). Without it: an embedded Valkey. Several machines need one."""
    result_url: str | None = None
    """Celery's result backend (`redis://…`), for tools that read it. The pipeline needs none."""
    store_url: str | None = None
    """The object store: `file:///dir` or `s3://bucket/prefix`. Without it: the directory `store`
    in `LENS_HOME`."""
    s3_endpoint: str | None = None
    """The address of an S3-compatible server. Credentials come by boto3's normal chain
    (`AWS_ACCESS_KEY_ID`, …)."""
    enabled: bool = True
    """`false`: sensors and schedules start nothing. Runs that people start still work."""
    batch_size: int = Field(default=20, ge=1, le=1000)
    """The most partitions in one run."""
    preview_concurrency: int = Field(default_factory=_default_preview_concurrency, ge=1, le=256)
    """Runs of previews and posters at once on this machine. Default: its processors, at most 4."""
    master_concurrency: int = Field(default=1, ge=1, le=64)
    """Runs of masters and renditions at once on this machine."""
    threads: int = Field(default=2, ge=1, le=64)
    """Files that one run works on at once."""
    preview_edge: Edge = 768
    """The longest edge of previews and posters in pixels. Pictures are never enlarged."""
    preview_quality: int = Field(default=80, ge=1, le=100)
    """The WebP quality of previews and posters."""
    preview_sizes: Sizes = ()
    """Longest edges of more pictures of each preview and poster, at most four, separated by commas:
    `320,1536` adds `…_preview_320.webp` and `…_preview_1536.webp`."""
    digital_source_type: Literal[
        "trainedAlgorithmicMedia", "compositeWithTrainedAlgorithmicMedia", "off"
    ] = "trainedAlgorithmicMedia"
    """What files that are made from now on say of themselves in XMP, by IPTC's codes: that a model
    made them. A film with shots that people uploaded says
    `compositeWithTrainedAlgorithmicMedia`, one of such shots alone nothing. `off`: none does."""
    c2pa_cert: Path | None = None
    """A PEM file with a certificate for content credentials (C2PA) and those of its issuers, its
    own first. With it and `LENS_C2PA_KEY`, files that are made from now on are signed."""
    c2pa_key: Path | None = None
    """A PEM file with the private key of that certificate (ECDSA, RSA or Ed25519), without
    password."""
    keep_originals: Literal["external", "never"] = "external"
    """`external`: the photo or video itself is kept in the store if it lies elsewhere, where links
    expire. `never`: only its preview or poster is."""
    title_column: str | None = Field(default=None, max_length=63)
    """The column of `generations` that names each for people, such as a title or a prompt; it is
    read only. Where it is empty, and without it, the name of the file is shown."""
    source_columns: CommaList = ("asset_url",)
    """Columns of `generations` that may hold the file, in the order in which they count: the first
    that has something. Each is an address, an object key, or a list (an array, `jsonb` or `json`)
    of addresses or of objects with `url`, of which the first counts:
    `original_path,asset_url,results`. `asset_url` is one of them: the webhook and `lens add` write
    it."""
    types: CommaList = ("photo=photo", "video=video")
    """What the column `type` says of photos and of videos: `photo=photo|product,video=video`. Rows
    of other types are left alone."""
    original_keys: CommaList = ()
    """Where an older system left originals in the store, for `lens adopt`; several patterns are
    separated by commas, and the first that fits counts: `{user_id}/image/{id}_*.png`. `*` stands
    for any characters but `/`."""
    retain_originals_days: int = Field(default=30, ge=0, le=3650)
    """How long the original of a row that is gone stays in the store. Nothing can make it again."""
    deletion: bool = False
    """Whether people may delete photos and videos in the library: their rows go at once, and what
    was made of them as after any deletion of a row. Files that people added stay in the store. A
    token of a user deletes that user's own."""
    clips: bool = True
    """Whether videos get a hover clip: 3 to 4 s without sound, at most 480 pixels and 300 KB, made
    after the poster and at the lowest priority."""
    playable: bool = True
    """Whether videos that not all browsers play get a copy that they do play (H.264 and AAC in an
    MP4 with its index in front), made as clips are. Most need none."""
    max_source_bytes: int = Field(default=512 * 1024 * 1024, ge=1)
    """Sources of more bytes are refused; the default is 512 MiB."""
    max_pixels: int = Field(default=50_000_000, ge=1)
    """Pictures with more pixels are refused before they are decoded."""
    fetch_timeout_seconds: float = Field(default=60.0, gt=0, le=3600)
    """The deadline of one download, its retries included."""
    fetch_allow_hosts: CommaList = ()
    """Hosts or networks from which sources may come although their addresses are private."""
    render_timeout_seconds: float = Field(default=120.0, gt=0, le=3600)
    """A file that takes longer to render is refused."""
    render_memory_mib: int = Field(default=3072, ge=512)
    """The address space of one render process in MiB."""
    encode_idle_seconds: float = Field(default=60.0, gt=0, le=3600)
    """An ffmpeg that makes no progress for this long is stopped."""
    master_compatibility: Literal["web", "source"] = "web"
    """`web`: masters play in all browsers and on phones; shots that are not H.264 High or lower,
    8-bit 4:2:0, at most level 5.1, are encoded. `source`: what is alike is copied in H.264, HEVC,
    VP9 or AV1."""
    master_loudness: Literal["off"] | Annotated[float, Field(ge=-40, le=-5)] = -14.0
    """The LUFS (EBU R128) to which the sound of each shot of a master is brought, as near as its
    peaks allow: -40 to -5. A shot is raised by 20 dB at most, and by no more than twice what it
    lies above -50 LUFS. `off`: it keeps its level, as that of shots marked `quiet` does."""
    max_master_seconds: float = Field(default=4 * 3600, gt=0)
    """A master whose shots last longer together is refused."""
    shot_cache_days: int = Field(default=30, ge=0)
    """How long an encoded shot is kept for other masters."""
    shot_cache_bytes: int = Field(default=20 * 1024**3, ge=0)
    """How many bytes of the store the encoded shots may take; the default is 20 GiB."""
    max_attempts: int = Field(default=8, ge=1, le=100)
    """Automatic attempts after transient failures before a file becomes a dead letter; the pauses
    between them grow from a minute to a day."""
    backfill_cron: str = "*/5 * * * *"
    """When the backfill looks for what is missing or failed; each row is compared daily."""
    retain_events_days: int = Field(default=14, ge=1, le=3650)
    """How long the event log of a run stays after its end."""
    retain_runs_days: int = Field(default=30, ge=1, le=3650)
    """How long the run itself stays. Not less than its events."""
    retain_ticks_days: int = Field(default=7, ge=1, le=3650)
    """How long ticks of sensors and schedules stay. Sensor ticks that did nothing stay a day."""
    retain_partitions_days: int = Field(default=90, ge=1)
    """Finished partition keys that are older leave the partition set. Files and history stay."""
    grace_seconds: float = Field(default=30.0, ge=0, le=3600)
    """How long runs may go on after SIGTERM before they are cancelled."""
    log_format: Literal["text", "json"] = "text"
    """`json`: one JSON object a line."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """The least severe lines that are logged."""
    debug: bool = False
    """Sensors and the backfill log in every tick how many rows they looked at and chose."""
    bind: str = "127.0.0.1"
    """The address at which the pages, the API and the Dagster UI listen. The Dagster UI runs code
    for those who reach it: keep it on loopback, or set a long `LENS_API_TOKEN`."""
    dagster_port: Port = 3000
    """The port of the Dagster UI."""
    api_port: Port = 8000
    """The port of the pages and the API."""
    code_host: str = "127.0.0.1"
    """The address at which `lens run` reaches the code server. `lens up` uses a socket in a private
    directory instead."""
    code_port: Port | None = None
    """The port of the code server of `lens run`. Without it: 4000."""
    code_bind: str = "127.0.0.1"
    """The address at which `lens run code` listens. It runs code for those who reach it, on
    loopback every user of the machine, and asks for no password: use an address of a private
    network at most."""
    api_token: str | None = Field(default=None, min_length=16, repr=False)
    """A long random text that opens the pages and the API; shorter ones could be guessed. The
    Dagster UI takes it as the password of any user, or the login of the pages. Required with a
    `LENS_BIND` beyond loopback and with `LENS_ALLOWED_HOSTS`."""
    allowed_hosts: CommaList = ()
    """The names under which people reach the pages through a proxy. On loopback the pages answer
    to `localhost` and their own address without it."""
    trusted_proxies: CommaList = ()
    """Addresses or networks of proxies whose `X-Forwarded-…` headers count. Without it, all who
    come through a proxy share one rate limit."""
    public_url: str | None = None
    """Where browsers find the pages, for links in alerts. Without it: as this machine does."""
    dagster_public_url: str | None = None
    """Where browsers find the Dagster UI, for links in alerts and pages. Without it: as this
    machine does."""
    alert_urls: UrlList = Field(default=(), repr=False)
    """Apprise addresses that alerts go to: `mailtos://user:password@example.org`,
    `tgram://token/chat`, `slack://…`, `jsons://host/path`."""
    alert_oldest_seconds: float = Field(default=600.0, ge=10)
    """A finished photo or video that waits longer for its derivative is a problem."""
    alert_oldest_master_seconds: float = Field(default=3600.0, ge=10)
    """A master or rendition that waits longer is a problem."""
    alert_success_percent: float = Field(default=99.0, ge=0, le=100)
    """A smaller share of ready files in the last hour is a problem, if there were at least 50."""
    alert_disk_free_percent: float = Field(default=10.0, ge=0, lt=100)
    """Less free room on a disk of `LENS_HOME`, of scratch files or of a store of files is a
    problem."""
    notify_urls: UrlList = Field(default=(), repr=False)
    """Apprise addresses that are told of each film that is ready or was given up on."""
    webhook_urls: UrlList = Field(default=(), repr=False)
    """Addresses, `https://…` or `http://…`, that are told of every file by signed webhooks, also in
    private networks. What was made before one is set is not told."""
    webhook_secret: str | None = Field(default=None, min_length=38, repr=False)
    """The secret that signs them by the scheme of Standard Webhooks: `whsec_` and at least 24
    random bytes as base64, as `echo whsec_$(openssl rand -base64 32)` prints."""
    sentry_dsn: str | None = Field(default=None, repr=False)
    """Where faults of the pipeline are reported. Also read as `SENTRY_DSN`."""
    kie_api: str = "https://api.kie.ai"
    """The API of kie.ai."""
    kie_api_key: str | None = Field(default=None, repr=False)
    """The key of that API."""
    kie_secret: str | None = Field(default=None, repr=False)
    """A secret of kie.ai's webhooks: `?secret=…` in their address, or a bearer token. Also read as
    `KIE_CALLBACK_SECRET`."""
    kie_webhook_key: str | None = Field(default=None, repr=False)
    """The key with which kie.ai signs webhooks. With it, only signed webhooks count."""
    provider: Literal["kie", "fal", "replicate"] = "kie"
    """The provider of rows whose column `provider` names none."""
    fal_api: str = "https://queue.fal.run"
    """The queue of fal."""
    fal_api_key: str | None = Field(default=None, repr=False)
    """The key of that queue."""
    fal_model: str | None = None
    """The model of fal's tasks, for example `fal-ai/flux`, of rows whose column `provider` does not
    name one, as `fal/fal-ai/flux` does."""
    fal_jwks_url: str = "https://rest.alpha.fal.ai/.well-known/jwks.json"
    """The keys with which fal signs webhooks."""
    replicate_api: str = "https://api.replicate.com"
    """Replicate's API."""
    replicate_api_key: str | None = Field(default=None, repr=False)
    """The token of that API."""
    replicate_webhook_key: str | None = Field(default=None, repr=False)
    """The secret with which Replicate signs webhooks: `whsec_…`."""

    @property
    def resolved_home(self) -> Path:
        return self.home.expanduser().resolve()

    @property
    def resolved_store_url(self) -> str:
        return self.store_url or (self.resolved_home / "store").as_uri()

    @property
    def types_by_kind(self) -> dict[str, list[str]]:
        """What `type` says of each kind that has any."""
        pairs = (entry.partition("=") for entry in self.types)
        return {kind: types.split("|") for kind, _, types in pairs}

    @property
    def scratch(self) -> Path:
        """For temporary files; a start may remove all of them."""
        return self.resolved_home / "scratch"

    @model_validator(mode="after")
    def _check_retention(self) -> "Settings":
        if self.retain_runs_days < self.retain_events_days:
            raise ValueError(
                f"LENS_RETAIN_RUNS_DAYS={self.retain_runs_days} is less than"
                f" LENS_RETAIN_EVENTS_DAYS={self.retain_events_days}: a run's events go with it at"
                " the latest; raise the first or lower the second"
            )
        return self

    @model_validator(mode="after")
    def _check_host(self) -> "Settings":
        columns = self.source_columns
        if not columns or not all(map(_COLUMN.fullmatch, columns)):
            raise ValueError(
                f"LENS_SOURCE_COLUMNS={','.join(columns)[:60]!r} is no list of columns: use for"
                " example original_path,asset_url,results"
            )
        if "asset_url" not in columns:
            raise ValueError(
                f"LENS_SOURCE_COLUMNS={','.join(columns)[:60]!r} lacks asset_url, which the webhook"
                " and `lens add` write: name it, too, after those that come first"
            )
        types = [one for some in self.types_by_kind.values() for one in some]
        is_list = self.types and all(map(_TYPES.fullmatch, self.types))
        if not is_list or len(self.types_by_kind) < len(self.types) or len({*types}) < len(types):
            raise ValueError(
                f"LENS_TYPES={','.join(self.types)[:60]!r} does not say once of each type what it"
                " is: use for example photo=photo|product,video=video"
            )
        return self

    @model_validator(mode="after")
    def _check_signing(self) -> "Settings":
        if (self.c2pa_cert is None) != (self.c2pa_key is None):
            raise ValueError(
                "one of LENS_C2PA_CERT and LENS_C2PA_KEY is set without the other: set both or"
                " neither"
            )
        return self

    @model_validator(mode="after")
    def _check_together(self) -> "Settings":
        _check_url("LENS_DATABASE_URL", self.database_url, {"postgresql", "postgresql+psycopg2"})
        _check_url("LENS_DAGSTER_URL", self.dagster_url, {"postgresql", "postgresql+psycopg2"})
        _check_url("LENS_BROKER_URL", self.broker_url, {"redis", "rediss", "amqp", "amqps"})
        _check_url("LENS_RESULT_URL", self.result_url, {"redis", "rediss", "rpc"})
        _check_url("LENS_STORE_URL", self.store_url, {"file", "s3"})
        _check_url("LENS_S3_ENDPOINT", self.s3_endpoint, {"http", "https"})
        _check_url("LENS_SENTRY_DSN", self.sentry_dsn, {"http", "https"})
        _check_url("LENS_KIE_API", self.kie_api, {"http", "https"})
        _check_url("LENS_FAL_API", self.fal_api, {"http", "https"})
        _check_url("LENS_FAL_JWKS_URL", self.fal_jwks_url, {"http", "https"})
        _check_url("LENS_REPLICATE_API", self.replicate_api, {"http", "https"})
        _check_url("LENS_PUBLIC_URL", self.public_url, {"http", "https"})
        _check_url("LENS_DAGSTER_PUBLIC_URL", self.dagster_public_url, {"http", "https"})
        _check_addresses("LENS_ALERT_URLS", self.alert_urls)
        _check_addresses("LENS_NOTIFY_URLS", self.notify_urls)
        if self.s3_endpoint and not (self.store_url or "").startswith("s3://"):
            raise ValueError(
                "LENS_S3_ENDPOINT is set but LENS_STORE_URL is no s3:// URL:"
                " set LENS_STORE_URL=s3://bucket/prefix or unset the endpoint"
            )
        if self.result_url and not self.broker_url:
            raise ValueError("LENS_RESULT_URL is set without LENS_BROKER_URL: set both or neither")
        if self.dagster_url and self.dagster_url == self.database_url:
            raise ValueError(
                "LENS_DAGSTER_URL equals LENS_DATABASE_URL:"
                " give Dagster a database of its own, for example one named dagster"
            )
        if not _is_cron(self.backfill_cron):
            raise ValueError(
                f"LENS_BACKFILL_CRON={self.backfill_cron[:60]!r} is no schedule of five fields:"
                " use for example '*/5 * * * *'"
            )
        _check_webhook_key("LENS_REPLICATE_WEBHOOK_KEY", self.replicate_webhook_key)
        _check_webhook_key("LENS_WEBHOOK_SECRET", self.webhook_secret)
        _check_webhooks(self.webhook_urls, self.webhook_secret)
        for pattern in self.original_keys:
            _check_original_keys(pattern)
        _check_bind("LENS_BIND", self.bind)
        _check_bind("LENS_CODE_BIND", self.code_bind)
        for proxy in self.trusted_proxies:
            _check_network("LENS_TRUSTED_PROXIES", proxy)
        if self.api_port == self.dagster_port:
            raise ValueError(
                f"LENS_API_PORT and LENS_DAGSTER_PORT are both {self.api_port}: change one"
            )
        if not is_loopback(self.bind) and not self.api_token:
            raise ValueError(
                f"LENS_BIND={self.bind} opens the pages to other machines: set LENS_API_TOKEN to a"
                " long random text, or LENS_BIND=127.0.0.1"
            )
        if self.allowed_hosts and not self.api_token:
            raise ValueError(
                "LENS_ALLOWED_HOSTS opens the pages, and the Dagster UI that can run code, to"
                " whoever reaches the proxy: set LENS_API_TOKEN to a long random text"
            )
        return self


def is_loopback(address: str) -> bool:
    """Whether only this machine reaches a server at `address`."""
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return address.lower() == "localhost"


def _check_addresses(variable: str, values: Iterable[str]) -> None:
    if any("://" not in value for value in values):
        # Without the value, which may be secret.
        raise ValueError(
            f"{variable} has a part that is no address: use Apprise's, separated by commas, for"
            " example mailtos://user:password@example.org,tgram://token/chat"
        )


def _check_bind(variable: str, value: str) -> None:
    try:
        ipaddress.ip_address(value)
    except ValueError:
        if value != "localhost":
            raise ValueError(
                f"{variable}={value!r} is no IP address: use 127.0.0.1 or 0.0.0.0"
            ) from None


def _check_network(variable: str, value: str) -> None:
    try:
        ipaddress.ip_network(value)
    except ValueError:
        raise ValueError(
            f"{variable} has {value[:60]!r}, which is no IP address or network: use for example"
            " 127.0.0.1 or 10.0.0.0/8"
        ) from None


def _check_original_keys(pattern: str) -> None:
    named = f"LENS_ORIGINAL_KEYS has {pattern[:80]!r}"
    check_key_pattern(named, pattern, "user_id", "{user_id}/image/{id}_*.png")
    if _OWN_FOLDERS.search(pattern):
        raise ValueError(f"{named}, where the pipeline keeps its own files: leave it out")


def check_key_pattern(named: str, pattern: str, owner: str, example: str) -> None:
    """Raises ValueError: it does not say which object is of which row."""
    if any(part in {"", ".", ".."} for part in pattern.split("/")) or "\\" in pattern:
        raise ValueError(
            f"{named}, which is no object key: leave out a / at its start or end, //, . and .."
        )
    # A folder ends the part with the owner: else two owners could have the same key.
    before = rf"(?:[^{{}}*]|\{{{owner}\}}(?=[^{{}}]*/))*"
    if not re.fullmatch(before + r"\{id\}(?!\*)[^{}]*", pattern):
        raise ValueError(
            f"{named}: write {{id}} once, {{{owner}}} only in a folder before it, and * only after"
            f" it and not beside it, as in {example}"
        )


def _is_cron(text: str) -> bool:
    """Whether `text` has five fields, each a list of values or ranges.

    Dagster's own check takes seconds to import.
    """
    fields = text.split()
    return len(fields) == len(_CRON_FIELDS) and all(
        _is_cron_part(part, allowed)
        for field, allowed in zip(fields, _CRON_FIELDS, strict=True)
        for part in field.split(",")
    )


def _is_cron_part(part: str, allowed: frozenset[str]) -> bool:
    match = re.fullmatch(r"(?:\*|([a-z0-9]+)(?:-([a-z0-9]+))?)(?:/[1-9]\d*)?", part.lower())
    return bool(match) and all(value is None or value in allowed for value in match.groups())


def _check_webhook_key(name: str, key: str | None) -> None:
    """Raises ValueError, without the key: it is not of the form of Standard Webhooks."""
    if key is None:
        return
    try:
        is_key = bool(base64.b64decode(key.removeprefix("whsec_") + "=="))
    except ValueError:
        is_key = False
    if not is_key:
        raise ValueError(f"{name} is no secret of a webhook: it begins with whsec_, then base64")


def _check_webhooks(urls: Iterable[str], secret: str | None) -> None:
    # Without an address, which may hold a secret.
    for place, url in enumerate(urls, start=1):
        try:
            is_whole = urlsplit(url).scheme in ("http", "https") and bool(urlsplit(url).hostname)
            _ = urlsplit(url).port
        except ValueError:
            is_whole = False
        if not is_whole:
            raise ValueError(
                f"LENS_WEBHOOK_URLS has no address of a server at place {place}: use for example"
                " https://example.org/hooks, several separated by commas"
            )
    if urls and not secret:
        raise ValueError(
            "LENS_WEBHOOK_URLS is set without LENS_WEBHOOK_SECRET, which signs the webhooks: set it"
            " to what `echo whsec_$(openssl rand -base64 32)` prints, here and where they arrive"
        )


def _check_url(variable: str, value: str | None, schemes: set[str]) -> None:
    if value is None:
        return
    parts = urlsplit(value)
    scheme, netloc = parts.scheme, parts.netloc
    if value.count("@") > netloc.count("@") or netloc.count("@") > 1:
        raise ValueError(
            f"{variable} has a character in its user or password that means something else there:"
            " percent-encode it, @ as %40, / as %2F, # as %23, ? as %3F"
        )
    try:
        _ = parts.port
    except ValueError:
        # Without the value, which may be a part of the password.
        raise ValueError(f"{variable} has a port that is no number up to 65535") from None
    if scheme not in schemes:
        raise ValueError(
            f"{variable} must start with {' or '.join(f'{s}://' for s in sorted(schemes))},"
            f" not {scheme + '://' if scheme else repr(value[:20])}"
        )


def load(
    environ: Mapping[str, str] | None = None, dotenv: Path | None = Path(".env")
) -> tuple[Settings, list[str]]:
    """Read the settings from `environ` (default: the process's) over the files of `_read_files`.

    Returns the settings and a warning for each old name in use. Raises SettingsError: an unknown
    `LENS_…` variable, a value out of range, or settings that contradict each other.
    """
    environ = os.environ if environ is None else environ
    raw = _read_files(dotenv) if dotenv is not None else {}
    raw.update(environ)
    raw = {name: value for name, value in raw.items() if value != ""}

    warnings: list[str] = []
    values = {
        name: value
        for name, value in raw.items()
        if name.startswith(PREFIX) and name not in INTERNAL
    }
    for old, new in ALIASES.items():
        if old not in raw:
            continue
        if new in values and values[new] != raw[old]:
            raise SettingsError(f"{old} and {new} are both set and differ: remove {old}")
        warnings.append(f"{old} is an old name: rename it to {new}")
        values[new] = raw[old]

    for other, name in SYNONYMS.items():
        if other in raw:
            values.setdefault(name, raw[other])
    warnings += _answers(raw, values)

    fields = {PREFIX + name.upper(): name for name in Settings.model_fields}
    unknown = sorted(set(values) - set(fields))
    if unknown:
        close = _closest(unknown[0], fields)
        raise SettingsError(
            f"{unknown[0]} is no setting of Lens Pipeline"
            + (f": did you mean {close}?" if close else ": remove it")
        )
    try:
        return Settings(**{fields[name]: value for name, value in values.items()}), warnings  # pyright: ignore[reportArgumentType]
    except ValidationError as error:
        raise SettingsError(_first_error(error)) from None


def _read_files(dotenv: Path) -> dict[str, str]:
    """The variables of `dotenv`, and over them those of `….local` beside it.

    Raises SettingsError: one cannot be read.
    """
    found: dict[str, str] = {}
    for file in (dotenv, dotenv.with_name(f"{dotenv.name}.local")):
        if not file.is_file():
            continue
        try:
            found |= {name: value or "" for name, value in dotenv_values(file).items()}
        except (OSError, UnicodeDecodeError) as error:
            raise SettingsError(f"{file} cannot be read: {error}") from None
    return found


def _answers(raw: Mapping[str, str], values: Mapping[str, str]) -> list[str]:
    """What to set in place of other names of the old workers, which are not read."""
    old = sorted(n for n in raw if n.startswith("PREVIEWS_WORKER_") and n not in ALIASES)
    return [
        *(
            f"{name} is of the old workers and is not read:"
            f" {next(answer for words, answer in _ANSWERS if re.search(words, name[16:]))}"
            for name in old
        ),
        *(
            f"{name} is for Supabase's REST API, which is not used: set {setting} {place}"
            for name, (setting, place) in _SUPABASE.items()
            if name in raw and setting not in values
        ),
    ]


def export_foreign(dotenv: Path = Path(".env")) -> None:
    """Give variables of the files to boto3 and OpenTelemetry, which read none."""
    for name, value in _read_files(dotenv).items():
        if name.startswith(("AWS_", "OTEL_")) and value:
            os.environ.setdefault(name, value)


def traces_wanted(environ: Mapping[str, str] | None = None) -> bool:
    """Whether OpenTelemetry's variables say where traces go."""
    environ = os.environ if environ is None else environ
    is_off = (
        environ.get("OTEL_SDK_DISABLED", "").lower() == "true"
        or environ.get("OTEL_TRACES_EXPORTER", "otlp") != "otlp"
    )
    places = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
    return not is_off and any(environ.get(name) for name in places)


def _closest(name: str, names: Mapping[str, str]) -> str | None:
    from difflib import get_close_matches

    # The common prefix would make all names look alike.
    own = [other.removeprefix(PREFIX) for other in names]
    matches = get_close_matches(name.removeprefix(PREFIX), own, n=1)
    return PREFIX + matches[0] if matches else None


def _first_error(error: ValidationError) -> str:
    first = error.errors()[0]
    message = re.sub(r"^Value error, ", "", first["msg"])
    if not first["loc"]:
        return message
    name = str(first["loc"][0])
    variable = PREFIX + name.upper()
    if name in _SECRET:
        return f"{variable} is not valid: {message[0].lower()}{message[1:]}"
    return (
        f"{variable}={str(first['input'])[:60]!r} is not valid: {message[0].lower()}{message[1:]}"
    )
