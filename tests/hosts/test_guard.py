"""Which addresses may be asked: tables of hosts, of private addresses, and of what is refused."""

import asyncio
import socket

import pytest

from pico_banana.fetching.sources import Sources
from pico_banana.hosts.connections import GuardedResolver
from pico_banana.hosts.guard import AddressGuard, PrivateAddressError
from pico_banana.missing import AskError, MissingReason
from pico_banana.settings import Settings, build_settings
from pico_banana.urls import Host, is_private

# ---- what a host is ----------------------------------------------------------------------------

HOSTS = [
    ("http://h.example/x", ("http", "h.example", 80)),
    ("https://h.example", ("https", "h.example", 443)),
    ("HTTPS://H.Example:443/?q#f", ("https", "h.example", 443)),
    ("http://h.example:8099", ("http", "h.example", 8099)),
    ("http://127.0.0.1:22/", ("http", "127.0.0.1", 22)),
    ("http://[::1]:80/", ("http", "::1", 80)),
    ("http://[0:0:0:0:0:0:0:1]/", ("http", "::1", 80)),
    ("http://bücher.example/ä", ("http", "xn--bcher-kva.example", 80)),
    ("http://c1_2.example./", ("http", "c1_2.example.", 80)),
    ("http://①②⑦.0.0.1/", ("http", "127.0.0.1", 80)),
    ("http://127。0。0。1/", ("http", "127.0.0.1", 80)),
]


@pytest.mark.parametrize(("url", "host"), HOSTS)
def test_a_host_is_scheme_name_and_port(url, host):
    assert Host.of(url) == host


NO_HOSTS = [
    *(
        "",
        "h.example",
        "//h.example/x",
        "http://",
        "http:///x",
        "http://:80/",
        "file:///etc/passwd",
    ),
    *("ftp://h.example/", "gopher://h.example/", "data:text/plain,x", "javascript:alert(1)"),
    *("http://@h.example/", "http://u@h.example/", "http://u:p@h.example/", "http://:@h.example/"),
    *("http://h.example:99999/", "http://h.example:-1/", "http://h.example:x/", "http://[bad/"),
    *("http://a b/", "http://a\tb/", "http://a\nb/", " http://h.example/", "http://h.example/\x00"),
    *("http://127.0.0.1\\@h.example/", "http://h.example\\x", "http://%31%32%37.0.0.1/"),
    *("http://h%2eexample/", "http://h.example%00.evil/", "http://h,x.example/", "http://.h/"),
    # what systems read as an address
    *("http://2130706433/", "http://0x7f000001/", "http://0x7f.1/", "http://127.1/"),
    *("http://0177.0.0.1/", "http://127.0.0.1./", "http://0/", "http://h.example.1/"),
    *("http://0x/", "http://127.0.0.0x1/", "http://256.0.0.1/"),
]


@pytest.mark.parametrize("url", NO_HOSTS)
def test_what_has_no_host(url):
    with pytest.raises(ValueError, match=r"."):
        Host.of(url)
    with pytest.raises(AskError) as caught:
        AddressGuard(("*",), (Host("http", "*", 80),)).check(url)
    assert caught.value.reason is MissingReason.FORBIDDEN_ADDRESS
    assert "u:p" not in caught.value.detail


# ---- which addresses are private ---------------------------------------------------------------

PRIVATE = [
    *("127.0.0.1", "127.255.255.254", "0.0.0.1", "10.0.0.1", "10.255.255.255", "172.16.0.1"),
    *("172.31.255.255", "192.168.0.1", "169.254.169.254", "100.64.0.1", "198.18.0.1", "192.0.2.1"),
    *("224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255", "203.0.113.7"),
    *("::", "::1", "fe80::1", "fe80::1%eth0", "fc00::1", "fd12::1", "ff02::1", "2001:db8::1"),
    *("100::1", "fec0::1", "4000::1"),
    # an IPv4 address inside
    *("::ffff:127.0.0.1", "::ffff:7f00:1", "::ffff:10.0.0.1", "::ffff:169.254.169.254"),
    *("::127.0.0.1", "::10.0.0.1", "::8.8.8.8"),
    *("64:ff9b::127.0.0.1", "64:ff9b::10.0.0.1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::1.2.3.4"),
    *("2002:7f00:1::", "2002:808:808::1", "2001:0:1234::1"),
]
PUBLIC = [
    *("8.8.8.8", "1.1.1.1", "172.15.255.255", "172.32.0.1", "192.167.1.1", "100.128.0.1"),
    *("2606:4700::1111", "2a00:1450::1", "::ffff:8.8.8.8", "64:ff9b::8.8.8.8"),
    *("farm1.staticflickr.com", "localhost", "", "127.1", "1.2.3.4%41"),  # no literals
]


@pytest.mark.parametrize("address", PRIVATE)
def test_a_private_address(address):
    assert is_private(address)


@pytest.mark.parametrize("address", PUBLIC)
def test_no_private_address(address):
    assert not is_private(address)


# ---- which hosts may be asked ------------------------------------------------------------------


def guard_of(**arguments):
    sources = Sources(build_settings(Settings, arguments))
    return AddressGuard(sources.allowed_hosts(), sources.named_hosts())


def asks(guard, url):
    try:
        guard.check(url)
    except AskError as error:
        return not (error.reason is MissingReason.FORBIDDEN_ADDRESS and error.detail)
    return True


LOOPBACK = {"cdn": "http://127.0.0.1:8099/cdn"}
BY_NAME = {"cdn": "https://cdn.example/nb"}
ODD_PORT = {"cdn": "http://cdn.example:8080/nb"}
FLICKR_MIRROR = {"mirrors": {"*.staticflickr.com": "http://127.0.0.1:8099/flickr/{host}"}}
IN_NAME = {"mirrors": {"*.StaticFlickr.com": "http://{host}.proxy.example/x"}}
IN_NAME_PORT = {"mirrors": {"farm[1-3].staticflickr.com": "https://x-{host}.m.example:8443"}}
EVERY_HOST = {"mirrors": {"*": "http://{host}/"}}
CHECKS = [
    # what is published, by its usual ports
    ({}, "https://ml-site.cdn-apple.com/x.png", True),
    ({}, "http://ml-site.cdn-apple.com/x.png", True),
    ({}, "https://open-images-dataset.s3.amazonaws.com/train/x.jpg", True),
    ({}, "http://farm1.staticflickr.com/1/a_o.jpg", True),
    ({}, "https://c8.staticflickr.com:443/1/a_o.jpg", True),
    ({}, "https://ml-site.cdn-apple.com:8443/x.png", False),
    ({}, "http://farm1.staticflickr.com:22/1/a_o.jpg", False),
    ({}, "http://farm1.staticflickr.com:443/1/a_o.jpg", False),
    ({}, "https://staticflickr.com/1/a_o.jpg", False),
    ({}, "https://evilstaticflickr.com/1/a_o.jpg", False),
    ({}, "https://farm1.staticflickr.com.evil.example/1/a_o.jpg", False),
    ({}, "https://farm1.staticflickr.com./1/a_o.jpg", False),
    ({}, "https://s3.amazonaws.com/open-images-dataset/x.jpg", False),
    ({}, "http://127.0.0.1/", False),
    ({}, "http://localhost/", False),
    ({}, "http://8.8.8.8/", False),
    # a private address that was named, and only as it was named
    (LOOPBACK, "http://127.0.0.1:8099/other", True),
    (LOOPBACK, "http://127.0.0.1:22/", False),
    (LOOPBACK, "http://127.0.0.1/", False),
    (LOOPBACK, "https://127.0.0.1:8099/", False),
    (LOOPBACK, "https://127.0.0.1/", False),
    (LOOPBACK, "http://127.0.0.2:8099/", False),
    (LOOPBACK, "http://localhost:8099/", False),
    (LOOPBACK, "http://[::ffff:127.0.0.1]:8099/", False),
    (LOOPBACK, "http://[::1]:8099/", False),
    (LOOPBACK, "http://2130706433:8099/", False),
    ({"cdn": "http://127.0.0.1/"}, "https://127.0.0.1/", False),
    ({"cdn": "http://[::1]:8099/"}, "http://[0::1]:8099/x", True),
    ({"cdn": "http://[::1]:8099/"}, "http://127.0.0.1:8099/x", False),
    # a public one, also by the other of http and https at the usual ports
    (BY_NAME, "https://cdn.example/x", True),
    (BY_NAME, "http://cdn.example/x", True),
    (BY_NAME, "https://cdn.example:8443/x", False),
    (BY_NAME, "https://www.cdn.example/x", False),
    (ODD_PORT, "http://cdn.example:8080/x", True),
    (ODD_PORT, "https://cdn.example:8080/x", False),
    (ODD_PORT, "http://cdn.example/x", False),
    # mirrors
    (FLICKR_MIRROR, "http://127.0.0.1:8099/flickr/x", True),
    (FLICKR_MIRROR, "http://127.0.0.1:8098/flickr/x", False),
    (FLICKR_MIRROR, "https://farm1.staticflickr.com/x", True),
    (IN_NAME, "http://farm5.staticflickr.com.proxy.example/x/1.jpg", True),
    (IN_NAME, "https://farm5.staticflickr.com.proxy.example/x/1.jpg", True),
    (IN_NAME, "http://farm5.staticflickr.com.proxy.example:81/x/1.jpg", False),
    (IN_NAME, "http://farm5.example.proxy.example/x/1.jpg", False),
    (IN_NAME_PORT, "https://x-farm2.staticflickr.com.m.example:8443/1.jpg", True),
    (IN_NAME_PORT, "https://x-farm4.staticflickr.com.m.example:8443/1.jpg", False),
    (IN_NAME_PORT, "https://x-farm2.staticflickr.com.m.example/1.jpg", False),
    (EVERY_HOST, "http://anything.example/x", True),
    (EVERY_HOST, "http://127.0.0.1/x", False),  # "*" names no private address
    (EVERY_HOST, "http://[::1]/x", False),
    (EVERY_HOST, "http://2130706433/x", False),
    ({"mirrors": {"127.0.0.1": "http://{host}:8080"}}, "http://127.0.0.1:8080/x", True),
    # what is no place of HTTP names no host
    ({"cdn": "s3://evil.example/x"}, "https://evil.example/x", False),
    ({"cdn": "/data/evil.example"}, "https://evil.example/x", False),
]


@pytest.mark.parametrize(("arguments", "url", "may"), CHECKS)
def test_which_urls_may_be_asked(arguments, url, may):
    assert asks(guard_of(**arguments), url) is may


# ---- what names may resolve to -----------------------------------------------------------------

RESOLVED = [
    ({}, "farm1.staticflickr.com", 443, "151.101.1.1", True),
    ({}, "farm1.staticflickr.com", 443, "64:ff9b::151.101.1.1", True),  # a network without IPv4
    *[({}, "farm1.staticflickr.com", 443, address, False) for address in PRIVATE],
    ({"cdn": "http://localhost:8099"}, "localhost", 8099, "127.0.0.1", True),
    ({"cdn": "http://localhost:8099"}, "LOCALHOST", 8099, "::1", True),
    ({"cdn": "http://localhost:8099"}, "localhost", 80, "127.0.0.1", False),
    ({"cdn": "http://localhost"}, "localhost", 80, "127.0.0.1", True),
    # the other of http and https is for the public internet
    ({"cdn": "http://localhost"}, "localhost", 443, "127.0.0.1", False),
    (BY_NAME, "cdn.example", 443, "10.0.0.1", True),
    (BY_NAME, "cdn.example", 80, "10.0.0.1", False),
    (IN_NAME, "farm1.staticflickr.com.proxy.example", 80, "10.0.0.1", True),
    (IN_NAME, "farm1.staticflickr.com", 80, "10.0.0.1", False),
    (EVERY_HOST, "evil.example", 80, "10.0.0.1", False),
    (EVERY_HOST, "evil.example", 80, "151.101.1.1", True),
]


@pytest.mark.parametrize(("arguments", "name", "port", "address", "may"), RESOLVED)
def test_which_addresses_a_name_may_resolve_to(arguments, name, port, address, may):
    assert guard_of(**arguments).admits(name, port, address) is may


def test_a_proxy_may_lie_anywhere(monkeypatch):
    monkeypatch.setenv("https_proxy", "http://name:word@proxy.inner:3128")
    monkeypatch.setenv("http_proxy", "http://name:word@no:port:x")  # no URL: nothing to admit
    guard = guard_of()
    assert guard.admits("proxy.inner", 3128, "10.0.0.1")
    assert not guard.admits("proxy.inner", 22, "10.0.0.1")
    assert not guard.admits("other.inner", 3128, "10.0.0.1")
    assert not asks(guard, "http://proxy.inner:3128/")


def test_the_resolver_leaves_private_addresses_out(monkeypatch):
    found = ["10.0.0.1", "151.101.1.1", "127.0.0.1"]

    def resolve(guard):
        async def asked():
            resolver = GuardedResolver(guard)
            try:
                return [entry["host"] for entry in await resolver.resolve("cdn.example", 443)]
            finally:
                await resolver.close()

        return asyncio.run(asked())

    def getaddrinfo(_host, port, *_, **__):
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (one, port)) for one in found]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    assert resolve(guard_of()) == ["151.101.1.1"]
    assert resolve(guard_of(**BY_NAME)) == found
    found = ["10.0.0.1"]
    with pytest.raises(PrivateAddressError, match=r"cdn\.example resolves to a private address"):
        resolve(guard_of())
