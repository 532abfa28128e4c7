"""Keys, host names and limits, set up once for a process."""

from dataclasses import dataclass

from itsdangerous import URLSafeSerializer

from lens_pipeline.settings import Settings
from lens_pipeline.web.auth.keys import serializer, signing_key
from lens_pipeline.web.auth.origin import allowed_hosts
from lens_pipeline.web.auth.rate_limits import RateLimit
from lens_pipeline.web.auth.signed_links import Links
from lens_pipeline.web.auth.tokens import Tokens


@dataclass(frozen=True, slots=True)
class Limits:
    # nginx's default for the first line of a request.
    address_bytes: int = 8 * 1024
    body_bytes: int = 1024 * 1024
    form_bytes: int = 32 * 1024
    """Of the login form."""
    body_seconds: float = 30.0
    wrong_logins_a_minute: int = 10
    # A provider whose key was changed goes on for a while, with twenty tasks a second.
    forged_webhooks_a_minute: int = 1200
    wrong_tokens_a_minute: int = 60
    # A folder may hold that many files of other kinds.
    refused_uploads_a_minute: int = 300


@dataclass(frozen=True, slots=True)
class Access:
    tokens: Tokens | None
    """None: no client needs one."""
    links: Links
    forms: URLSafeSerializer
    hosts: frozenset[str] | None
    proxies: frozenset[str]
    limits: Limits
    wrong_logins: RateLimit
    forged_webhooks: RateLimit
    wrong_tokens: RateLimit
    refused_uploads: RateLimit


def access_of(settings: Settings, limits: Limits) -> Access:
    """Raises SettingsError: the signing key is damaged."""
    key = signing_key(settings)
    return Access(
        tokens=Tokens(settings.api_token, key) if settings.api_token else None,
        links=Links(key),
        forms=serializer(key, "form"),
        hosts=allowed_hosts(settings.bind, settings.allowed_hosts),
        proxies=frozenset(map(str.lower, settings.allowed_hosts)),
        limits=limits,
        wrong_logins=RateLimit(limits.wrong_logins_a_minute),
        forged_webhooks=RateLimit(limits.forged_webhooks_a_minute),
        wrong_tokens=RateLimit(limits.wrong_tokens_a_minute),
        refused_uploads=RateLimit(limits.refused_uploads_a_minute),
    )
