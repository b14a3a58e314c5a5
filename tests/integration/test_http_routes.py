"""The HTTP edge over real sockets: pages, keys, browsers, and the private Unix socket."""

from __future__ import annotations

import json
import socket
import stat
from pathlib import Path

import pytest
from tests.support.http_edge import HEAD, code_of, edge, on_uvloop, post, whole
from tests.support.http_pages import PAGES, get

from covey_gateway.core.keys import key_digest


@on_uvloop
async def test_pages_and_prefixes() -> None:
    async with edge(whole, PAGES) as it:
        response = await it.ask(get("/page?a=b"))
        assert response.headers["x-page"] == "yes"
        assert json.loads(response.body) == {"path": "/page", "tail": "", "query": "a=b", "user": ""}
        assert json.loads((await it.ask(get("/tree/deep/x/y"))).body)["tail"] == "x/y"
        assert json.loads((await it.ask(get("/tree/x"))).body)["tail"] == "x"
        response = await it.ask(get("/page", method="HEAD"))
        assert (response.status, response.body) == (200, b"")
        assert int(response.headers["content-length"]) > 0


@on_uvloop
async def test_unknown_paths_and_wrong_methods() -> None:
    async with edge(whole, PAGES) as it:
        response = await it.ask(post(b"{}", "/v1/nothing"))
        assert (response.status, code_of(response.body)) == (404, "path_not_found")
        response = await it.ask(get("/v1/completions"))
        assert (response.status, response.headers["allow"]) == (405, "POST, OPTIONS")
        response = await it.ask(post(b"{}", "/page"))
        assert (response.status, response.headers["allow"]) == (405, "GET, HEAD, OPTIONS")
        assert (await it.ask(post(b"{}", "/sleep"))).status == 404
        assert it.door.calls == []


@on_uvloop
async def test_a_refused_request_leaves_the_connection_usable() -> None:
    async with edge(whole, PAGES) as it:
        client = await it.connect()
        await client.post(b'{"dropped":1}', "/v1/nothing")
        assert (await client.response()).status == 404
        await client.post()
        assert (await client.response()).status == 200


@on_uvloop
async def test_a_page_that_fails_or_hangs(caplog: pytest.LogCaptureFixture) -> None:
    async with edge(whole, PAGES, page_timeout_s=0.01) as it:
        assert (await it.ask(get("/failing"))).status == 500
        assert "bug in a page" in caplog.text
        assert (await it.ask(get("/hanging"))).status == 504


@on_uvloop
async def test_loopback_needs_no_key_but_a_known_one_names_its_user() -> None:
    async with edge(whole, PAGES, {key_digest("secret"): "ada"}) as it:
        for headers, user in (
            ((), ""),
            (("Authorization: Bearer secret",), "ada"),
            (("authorization: bearer  secret",), "ada"),
            (("x-api-key: secret",), "ada"),
            (("Authorization: Bearer dummy",), ""),
        ):
            assert (await it.ask(post(b"{}", "/v1/completions", *headers))).status == 200
            assert it.door.calls[-1].request.user == user


@on_uvloop
async def test_where_a_key_is_needed() -> None:
    async with edge(whole, PAGES, {key_digest("secret"): "ada"}, key_on_loopback=True) as it:
        response = await it.ask(post())
        assert (response.status, code_of(response.body)) == (401, "invalid_api_key")
        assert response.headers["www-authenticate"] == "Bearer"
        assert (await it.ask(post(b"{}", "/v1/completions", "Authorization: Bearer wrong"))).status == 401
        assert (await it.ask(post(b"{}", "/v1/completions", "Authorization: Bearer secret"))).status == 200
        assert (await it.ask(get("/open"))).status == 200
        assert (await it.ask(get("/page"))).status == 401
        assert (await it.ask(post(b"{}", "/v1/nothing"))).status == 401
        assert it.observer.events.count("refused invalid_api_key") == 4


@on_uvloop
async def test_an_upload_without_a_key_is_stopped_early() -> None:
    async with edge(whole, key_on_loopback=True) as it:
        client = await it.connect()
        await client.send(HEAD + b"Content-Length: 30000000\r\n\r\n")
        response = await client.response()
        assert (response.status, response.headers["connection"]) == (401, "close")


@on_uvloop
async def test_web_pages_of_other_sites_cannot_use_loopback() -> None:
    async with edge(whole, PAGES) as it:
        evil = post().replace(b"Host: localhost", b"Host: evil.example.com")
        assert (await it.ask(evil)).status == 403
        assert (await it.ask(post(b"{}", "/v1/completions", "Origin: https://evil.example.com"))).status == 403
        assert (await it.ask(post(b"{}", "/v1/completions", "Origin: null"))).status == 403
        assert (await it.ask(post(b"{}", "/v1/completions", "Origin: http://localhost"))).status == 200
        # Anybody on the network can announce a name in .local, or answer for a bare word, and point it to loopback.
        for host in (b"evil.local", b"wpad"):
            rebound = post(b"{}", "/v1/completions", "Origin: http://" + host.decode()).replace(b"localhost", host)
            assert (await it.ask(rebound)).status == 403
        mine = socket.gethostname().partition(".")[0].encode()
        for host in (b"127.0.0.1:8080", b"[::1]:8080", mine, mine + b".local", b"10.1.2.3"):
            assert (await it.ask(post().replace(b"localhost", host))).status == 200
    async with edge(whole, trusted_hosts=("covey.local",)) as it:
        assert (await it.ask(post().replace(b"localhost", b"Covey.local:8080"))).status == 200


@on_uvloop
async def test_administration_is_not_reachable_over_tcp() -> None:
    """Loopback is open to every user of the machine: one who could invite could read everybody's prompts."""
    async with edge(whole, PAGES, {key_digest("secret"): "ada"}) as it:
        for headers in ((), ("Authorization: Bearer secret",)):
            response = await it.ask(post(b"{}", "/admin", *headers))
            assert (response.status, code_of(response.body)) == (403, "forbidden")


@on_uvloop
async def test_cors_where_it_is_configured() -> None:
    async with edge(whole, PAGES, cors_origins=("https://app.example.com",)) as it:
        response = await it.ask(
            get(
                "/v1/completions",
                "Origin: https://app.example.com",
                "Access-Control-Request-Method: POST",
                "Access-Control-Request-Headers: authorization, content-type",
                method="OPTIONS",
            )
        )
        assert response.status == 204
        assert response.headers["access-control-allow-origin"] == "https://app.example.com"
        assert response.headers["access-control-allow-headers"] == "authorization, content-type"
        assert "POST" in response.headers["access-control-allow-methods"]
        response = await it.ask(post(b"{}", "/v1/completions", "Origin: https://app.example.com"))
        assert (response.status, response.headers["access-control-allow-origin"]) == (200, "https://app.example.com")
        response = await it.ask(get("/v1/completions", "Origin: https://other.example.com", method="OPTIONS"))
        assert response.status == 204
        assert "access-control-allow-origin" not in response.headers


@on_uvloop
async def test_the_unix_socket_is_private_local_and_cleans_up(tmp_path: Path) -> None:
    path = tmp_path / "covey.sock"
    stale = socket.socket(socket.AF_UNIX)
    stale.bind(str(path))
    stale.close()
    async with edge(whole, PAGES, key_on_loopback=True, unix_path=str(path)) as it:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        client = await it.connect_unix()
        await client.post(b"{}", "/admin")
        assert (await client.response()).status == 200
        with pytest.raises(FileExistsError, match="another agent"):
            async with edge(whole, unix_path=str(path)):
                pass
    assert not path.exists()
    path.write_text("not a socket")
    with pytest.raises(FileExistsError, match="not a socket"):
        async with edge(whole, unix_path=str(path)):
            pass
