"""Server-side request forgery: what `asset_url` must not be able to reach."""

import ipaddress
import socket
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trustme

from lens_pipeline.errors import SourceUnavailable, UnsafeAddress
from lens_pipeline.settings import SettingsError
from lens_pipeline.storage.address_guard import is_public
from lens_pipeline.storage.download import Fetcher
from lens_pipeline_tests.storage.download.fetchers import MakeFetcher
from lens_pipeline_tests.support.servers import HostileServer

NOT_PUBLIC = [
    "0.0.0.0",
    "0.1.2.3",
    "10.0.0.1",
    "100.64.0.1",
    "100.100.100.200",
    "127.0.0.1",
    "127.255.255.254",
    "168.63.129.16",
    "169.254.169.254",
    "172.16.0.1",
    "192.0.0.192",
    "192.0.2.1",
    "192.88.99.1",
    "192.168.1.1",
    "198.18.0.1",
    "224.0.0.1",
    "239.255.255.250",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::127.0.0.1",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "::ffff:169.254.169.254",
    "64:ff9b::7f00:1",
    "64:ff9b:1::a00:1",
    "100::1",
    "2001:0:7f00:1::",
    "2001:db8::1",
    "2002:7f00:1::1",
    "2002:a9fe:a9fe::",
    "3fff::1",
    "5f00::1",
    "fc00::1",
    "fd00:ec2::254",
    "fe80::1",
    "fec0::1",
    "ff02::1",
]
PUBLIC = [
    "8.8.8.8",
    "93.184.216.34",
    "172.15.0.1",
    "172.32.0.1",
    "2606:4700::1111",
    "2a00:1450:4001::1",
    "64:ff9b::808:808",
    "2002:808:808::1",
    "::ffff:8.8.8.8",
]


def resolving_to(*answers: list[str]) -> Callable[..., Any]:
    """A look-up that gives one of `answers` after the other, then the last one for ever."""
    remaining = list(answers)

    def lookup(host: str, port: int, **_: Any) -> list[Any]:
        addresses = remaining.pop(0) if len(remaining) > 1 else remaining[0]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (a, port)) for a in addresses]

    return lookup


@pytest.mark.parametrize("address", NOT_PUBLIC)
def test_an_address_that_is_not_public_is_recognised(address: str) -> None:
    """One forgotten range is a way to a metadata service or an intranet host."""
    assert not is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize("address", PUBLIC)
def test_a_public_address_is_let_through(address: str) -> None:
    """A range that is too wide turns good sources into dead letters."""
    assert is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "127.1",
        "0",
        "0.0.0.0",
        "0x7f.1",
        "0x7f000001",
        "0177.0.0.1",
        "2130706433",
        "localhost",
        "localhost.",
        "LOCALHOST",
        "[::1]",
        "[::]",
        "[::ffff:127.0.0.1]",
        "[0:0:0:0:0:ffff:7f00:1]",
        "①②⑦.⓪.⓪.①",
        "169.254.169.254",
        "[fd00:ec2::254]",
    ],
)
def test_no_spelling_of_a_private_address_is_connected_to(
    make_fetcher: MakeFetcher, server: HostileServer, into: Path, host: str
) -> None:
    """Filters on the text of a URL miss the spellings that the resolver understands."""
    server.put("/secret", b"internal")
    with pytest.raises(UnsafeAddress):
        make_fetcher(allow_hosts=()).fetch(f"http://{host}:{server.port}/secret", into)
    assert server.connections == 0
    assert not into.exists()


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "ftp://example.com/a",
        "gopher://example.com/a",
        "data:image/png;base64,AAAA",
        "javascript:alert(1)",
        "http:///path",
        "http:path",
        "https://",
        "http://user@example.com/",
        "http://user:pass@example.com/",
        "http://example.com@127.0.0.1/",
        "http://example.com\\@127.0.0.1/",
        "http://exam\nple.com/",
        "http://example.com/a\r\nHost: internal",
        "http://example.com:99999/",
        "http://[::1/",
        "http://[fe80::1%25lo]/",
        "http://a..b/",
        "http://127.0.0.1%2f.example.com/",
        "http://exa mple.com/",
    ],
)
def test_a_url_that_can_be_read_in_two_ways_or_is_no_http_is_refused(
    make_fetcher: MakeFetcher, into: Path, url: str
) -> None:
    """Whatever two parsers read differently passes the check of one and reaches the other."""
    with pytest.raises(UnsafeAddress):
        make_fetcher(lookup=resolving_to([])).fetch(url, into)


def test_one_private_address_among_public_ones_is_enough_to_refuse(
    make_fetcher: MakeFetcher, into: Path
) -> None:
    """A name with two addresses would be connected to whichever answers."""
    fetcher = make_fetcher(lookup=resolving_to(["93.184.216.34", "10.0.0.1"]))
    with pytest.raises(UnsafeAddress):
        fetcher.fetch("http://two-faced.example/", into)


def test_the_name_is_resolved_once_and_the_checked_address_is_used(
    make_fetcher: MakeFetcher, server: HostileServer, into: Path
) -> None:
    """DNS rebinding: a second look-up for the connection gets another answer than the check."""
    server.put("/a", b"intranet")
    # 127.0.0.1 is exempt here and 127.0.0.2 is not, so the second answer would be refused.
    fetcher = make_fetcher(lookup=resolving_to(["127.0.0.1"], ["127.0.0.2"]))
    fetcher.fetch(server.url("/a", host="rebinding.example"), into)
    assert server.received[0]["Host"] == f"rebinding.example:{server.port}"


def test_a_name_that_turns_private_later_is_refused_on_the_next_connection(
    make_fetcher: MakeFetcher, server: HostileServer, into: Path
) -> None:
    """A verdict remembered by name would outlive the address that it was about."""
    server.put("/a", b"public", headers={"Connection": "close"})
    fetcher = make_fetcher(lookup=resolving_to(["127.0.0.1"], ["10.0.0.1"]))
    url = server.url("/a", host="rebinding.example")
    fetcher.fetch(url, into)
    with pytest.raises(UnsafeAddress):
        fetcher.fetch(url, into)


@pytest.mark.parametrize(
    "location",
    [
        "http://10.0.0.1/",
        "http://169.254.169.254/latest/meta-data/",
        "file:///etc/passwd",
        "//[::1]/",
        "http://user@127.0.0.1/",
        "http://[",
        "http://127.0.0.1:port/",
    ],
)
def test_a_redirect_is_checked_like_the_first_url(
    fetcher: Fetcher, server: HostileServer, into: Path, location: str
) -> None:
    """A public host that redirects inwards is the commonest way around a check of the URL."""
    with pytest.raises(UnsafeAddress):
        fetcher.fetch(server.url(f"/redirect?to={location}"), into)
    assert not into.exists()


def test_an_allowed_name_may_be_private_and_other_names_may_not(
    make_fetcher: MakeFetcher, server: HostileServer, into: Path
) -> None:
    """An exemption that leaks to other hosts of the same network opens the network."""
    server.put("/a", b"intranet")
    fetcher = make_fetcher(allow_hosts=("Store.Intranet.",), lookup=resolving_to(["127.0.0.1"]))
    assert fetcher.fetch(server.url("/a", host="store.intranet"), into).bytes == 8
    with pytest.raises(UnsafeAddress):
        fetcher.fetch(server.url("/a", host="evil.store.intranet"), into)


@pytest.mark.parametrize("entry", ["127.0.0.1", "127.0.0.0/8", "127.1.2.3/8"])
def test_an_allowed_network_covers_its_addresses_in_every_disguise(
    make_fetcher: MakeFetcher, server: HostileServer, into: Path, entry: str
) -> None:
    """Intranet stores are given by network; a name that resolves into it must work too."""
    server.put("/a", b"intranet")
    fetcher = make_fetcher(allow_hosts=(entry,))
    for host in ("127.0.0.1", "localhost"):
        assert fetcher.fetch(server.url("/a", host=host), into).bytes == 8
    with pytest.raises(UnsafeAddress):
        fetcher.fetch("http://10.0.0.1/", into)


@pytest.mark.parametrize("entry", ["http://host", "host:80", "*.example.com", "a b", "10.0.0.0/99"])
def test_an_allow_list_entry_that_is_no_host_stops_the_start(
    make_fetcher: MakeFetcher, entry: str
) -> None:
    """An entry that is ignored silently looks like an exemption that does not work."""
    with pytest.raises(SettingsError, match="LENS_FETCH_ALLOW_HOSTS"):
        make_fetcher(allow_hosts=(entry,))


def test_proxies_from_the_environment_are_not_used(
    make_fetcher: MakeFetcher,
    server: HostileServer,
    into: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A proxy resolves names itself, so the checked address would mean nothing."""
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    server.put("/a", b"direct")
    assert make_fetcher().fetch(server.url("/a"), into).bytes == 6


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def server_context(authority: trustme.CA, *names: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*names).configure_cert(context)
    return context


def client_context(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


def test_the_certificate_is_checked_against_the_name_not_the_address(
    make_fetcher: MakeFetcher, authority: trustme.CA, into: Path
) -> None:
    """Connecting to a checked address must not turn TLS into TLS with whoever answers there."""
    fetcher = make_fetcher(
        lookup=resolving_to(["127.0.0.1"]), ssl_context=client_context(authority)
    )
    with HostileServer(server_context(authority, "cdn.example")) as server:
        server.put("/a", b"over TLS")
        assert fetcher.fetch(server.url("/a", host="cdn.example"), into).bytes == 8
        assert fetcher.fetch(server.url("/a", host="cdn.example."), into).bytes == 8
        assert server.connections == 1
        with pytest.raises(SourceUnavailable, match="certificate"):
            fetcher.fetch(server.url("/a", host="other.example"), into)


def test_a_certificate_of_an_unknown_authority_is_refused(
    make_fetcher: MakeFetcher, authority: trustme.CA, into: Path
) -> None:
    """Verification is easily lost when a context is built by hand."""
    with HostileServer(server_context(authority, "127.0.0.1")) as server:
        server.put("/a", b"over TLS")
        with pytest.raises(SourceUnavailable, match="certificate"):
            make_fetcher().fetch(server.url("/a"), into)


def test_a_redirect_from_https_to_http_is_refused(
    make_fetcher: MakeFetcher, authority: trustme.CA, server: HostileServer, into: Path
) -> None:
    """A picture asked for over TLS could be exchanged on the way of an unprotected detour."""
    server.put("/a", b"plain")
    fetcher = make_fetcher(ssl_context=client_context(authority))
    with (
        HostileServer(server_context(authority, "127.0.0.1")) as secure,
        pytest.raises(UnsafeAddress, match="https to http"),
    ):
        fetcher.fetch(secure.url(f"/redirect?to={server.url('/a')}"), into)
    assert server.connections == 0


def test_no_cookie_of_one_answer_is_sent_with_the_next_request(
    fetcher: Fetcher, server: HostileServer, into: Path
) -> None:
    """Cookies would let one stranger's server mark, or be mistaken for, another's requests."""
    url = server.put("/a", b"x", headers={"Set-Cookie": "session=1; Path=/"})
    for _ in range(2):
        fetcher.fetch(url, into)
    assert all("Cookie" not in headers for headers in server.received)
    assert server.received[0]["User-Agent"].startswith("lens-pipeline")
