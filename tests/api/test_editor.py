"""The shipped editor's port: its requests, what its readers trip over, and nothing else without a token."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace

import httpx
import pytest

from api.app import create_editor_app
from api.by_port import ByPort
from api.editor_dialect.adapters import _name
from api.editor_dialect.bodies import LINE_ENDS, AdapterFile, end_of
from api.editor_dialect.glue import WhitespaceGlue
from api.schemas import MAX_TEXT_CHARS
from api.services import LoraChoice, loopback_hosts
from pushkin_runtime.adapter_pool import AdapterOptions
from pushkin_runtime.engines.scripted_engine import BASE
from pushkin_runtime.types import AdapterRef, Delta

pytestmark = pytest.mark.anyio

HOST = "localhost:8080"
LORA = [{"path": "lora/autocomplete_lora.gguf", "scale": 1.0}]
# As Resources/main_llm.py of the editor sends it.
PAYLOAD = {
    "prompt": "Once", "max_tokens": 10, "temperature": 0.8, "min_p": 0.1, "stream": True,
    "lora_adapters": LORA,
}  # fmt: skip


def editor_client(daemon, **headers) -> httpx.AsyncClient:
    services = replace(
        daemon.services,
        without_token="editor",
        allowed_hosts=loopback_hosts(8080),
        lora=LoraChoice(),
    )
    transport = httpx.ASGITransport(create_editor_app(services))
    return httpx.AsyncClient(transport=transport, base_url=f"http://{HOST}", headers=headers)


@pytest.fixture
def adapters(tmp_path, write_adapter):
    write_adapter(tmp_path, "autocomplete_lora", BASE, seed=1)
    write_adapter(tmp_path, "rephrase", BASE, seed=2)
    return AdapterOptions(roots=(tmp_path,))


def read_like_the_editor(body: bytes) -> list[str]:
    """Resources/autocomplete.py, `stream_suggestions`: a buffer that only valid JSON empties."""
    shown, buffer = [], ""
    for line_bytes in body.splitlines():
        line = line_bytes.decode("utf-8")
        if not line.startswith("data: "):
            continue
        buffer += line[6:]
        try:
            data = json.loads(buffer)
        except json.JSONDecodeError:
            continue
        buffer = ""
        if data.get("content"):
            if data["content"].strip():
                shown.append(data["content"])
            if data.get("stop", False):
                break
    assert buffer == "", "the buffer is poisoned"
    return shown


async def complete(client, **fields):
    return await client.post("/completion", json=PAYLOAD | fields)


async def test_the_editor_shows_every_character_of_a_line(start_daemon):
    text = " a  b\u00a0 c \tё“q” "
    daemon = start_daemon([text])
    async with editor_client(daemon) as client:
        response = await complete(client, max_tokens=99, lora_adapters=[])

    shown = read_like_the_editor(response.content)
    assert "".join(shown) == text.rstrip()
    assert all(part.strip() for part in shown)
    assert response.headers["connection"] == "close"
    assert b"[DONE]" not in response.content


@pytest.mark.parametrize("end", LINE_ENDS)
async def test_a_reply_ends_with_its_line(start_daemon, end):
    """The editor takes each line for a token."""
    daemon = start_daemon([f"one{end}two"])
    async with editor_client(daemon) as client:
        by_default = await complete(client, max_tokens=99, lora_adapters=[])
        as_asked = await complete(client, max_tokens=99, lora_adapters=[], stop=["w"])

    assert "".join(read_like_the_editor(by_default.content)) == "one"
    assert json.loads(by_default.content.split(b"data: ")[-1])["stop_type"] == "word"
    assert "".join(read_like_the_editor(as_asked.content)) == f"one{end}t"


async def test_adapters_are_named_by_file_and_an_unknown_one_is_an_error(start_daemon, adapters):
    daemon = start_daemon(adapters=adapters)
    async with editor_client(daemon) as client:
        for path in ("lora/autocomplete_lora.gguf", "/x/y/autocomplete_lora.safetensors"):
            assert (await complete(client, lora_adapters=[{"path": path}])).status_code == 200
        missing = await complete(client, lora_adapters=[{"path": "lora/unheard_of.gguf"}])

    assert {request.adapters for request in daemon.runtime.requests} == {
        (AdapterRef("autocomplete_lora"),)
    }
    assert missing.status_code == 404
    assert missing.json()["error"]["type"] == "not_found_error"


async def test_chosen_adapters_hold_for_completions_that_name_none(start_daemon, adapters):
    daemon = start_daemon(adapters=adapters)
    body = {key: value for key, value in PAYLOAD.items() if key != "lora_adapters"}
    chosen = []
    async with editor_client(daemon) as client:
        for choice in (
            {"adapters": LORA},
            {"adapters": [{"path": "rephrase.gguf", "scale": 0.5}]},
            [{"id": 1, "scale": 2.0}],
            {"adapters": []},
        ):
            answer = await client.post("/lora-adapters", json=choice)
            assert (answer.status_code, answer.json()) == (200, {"success": True})
            await client.post("/completion", json=body)
            chosen.append(daemon.runtime.requests[-1].adapters)
        missing = await client.post("/lora-adapters", json={"adapters": [{"path": "no.gguf"}]})

    assert missing.status_code == 404
    assert chosen == [
        (AdapterRef("autocomplete_lora"),),
        (AdapterRef("rephrase", 0.5),),
        (AdapterRef("rephrase", 2.0),),
        (),
    ]
    assert daemon.services.lora.chosen is None  # the daemon's own port keeps its choice


async def test_the_built_in_adapter_stands_for_the_defaults_where_there_are_any(
    start_daemon, tmp_path, write_adapter
):
    bare = start_daemon()
    write_adapter(tmp_path, "continue", BASE, seed=1)
    adapted = start_daemon(adapters=AdapterOptions(roots=(tmp_path,)))
    statuses = []
    for daemon in (bare, adapted):
        async with editor_client(daemon) as client:
            statuses.append((await complete(client)).status_code)

    assert statuses == [404, 200]
    assert adapted.runtime.requests[0].adapters is None
    assert adapted.runtime.handles[0].adapters.refs == (AdapterRef("continue"),)


async def test_a_newer_prompt_ends_the_older_one_of_the_same_program(start_daemon):
    daemon = start_daemon(gated=True, endless=True)
    async with editor_client(daemon, **{"User-Agent": "python-requests/2.32"}) as client:
        older = asyncio.create_task(complete(client, prompt="On", lora_adapters=[]))
        await daemon.runtime.submitted(1)
        newer = asyncio.create_task(complete(client, prompt="Once", lora_adapters=[]))
        await daemon.runtime.submitted(2)
        other = asyncio.create_task(
            client.post("/completion", json=PAYLOAD | {"lora_adapters": []},
                        headers={"User-Agent": "curl/8"})
        )  # fmt: skip
        await daemon.runtime.submitted(3)
        ends = [handle.end_reason() for handle in daemon.runtime.handles]
        daemon.permits.release(1000)
        answers = [(await call).status_code for call in (older, newer, other)]

    assert ends == ["superseded", None, None]
    assert answers == [200, 200, 200]


async def test_a_whole_novel_before_the_caret_is_taken(start_daemon):
    daemon = start_daemon()
    novel = "слово " * 100_000
    async with editor_client(daemon) as client:
        response = await complete(client, prompt=novel, lora_adapters=[])

    assert response.status_code == 200
    assert novel.endswith(daemon.runtime.requests[0].text)


def test_the_start_of_a_long_text_moves_in_steps():
    starts = {len("x" * n) - len(end_of("x" * n)) for n in range(MAX_TEXT_CHARS, 240_000, 97)}

    assert starts == {0, MAX_TEXT_CHARS // 4}
    assert end_of("короткий") == "короткий"


async def test_what_is_typed_is_healed_and_suggestions_stay_short(start_daemon):
    daemon = start_daemon(endless=True)
    async with editor_client(daemon) as client:
        await complete(client, max_tokens=10**6, lora_adapters=[])
        await client.post("/completion", json={"prompt": "a", "lora_adapters": []})

    assert [request.max_tokens for request in daemon.runtime.requests] == [256, 256]
    assert not any(request.raw for request in daemon.runtime.requests)


async def test_what_follows_an_edit_is_not_read_again_unless_a_seed_wants_it(
    start_daemon, adapters
):
    daemon = start_daemon(adapters=adapters)
    text = " ".join(str(number) for number in range(200))
    edited = f"{text[:50]}{text[55:]}"
    async with editor_client(daemon) as client:

        async def n_read(**fields) -> int:
            answer = (await complete(client, stream=False, **fields)).json()
            return answer["timings"]["prompt_n"]

        await n_read(prompt=text)
        assert await n_read(prompt=edited, seed=7) > len(edited) - 60
        assert await n_read(prompt=edited + " and") < 32 + 64 + 8


async def test_only_what_the_editor_needs_is_there_and_every_guard_is_on(start_daemon):
    daemon = start_daemon()
    async with editor_client(daemon) as client:
        open_routes = {
            "GET /health": (await client.get("/health")).status_code,
            "GET /v1/documents": (await client.get("/v1/documents")).status_code,
            "GET /v1/persona": (await client.get("/v1/persona")).status_code,
            "GET /v1/status": (await client.get("/v1/status")).status_code,
            "POST /v1/continue": (
                await client.post("/v1/continue", json={"text": "a"})
            ).status_code,
            "GET /lora-adapters": (await client.get("/lora-adapters")).status_code,
        }
        refusals = [
            (await client.post("/completion", json=PAYLOAD, headers=headers)).status_code
            for headers in (
                {"Origin": "https://evil.example"},
                {"Origin": "null"},
                {"Sec-Fetch-Site": "cross-site"},
                {"Host": "evil.example:8080"},
                {"Host": "localhost:1799"},
                {"Content-Type": "text/plain"},
            )
        ]

    assert set(open_routes.values()) == {200, 404, 405}
    assert [route for route, status in open_routes.items() if status == 200] == ["GET /health"]
    assert refusals == [403, 403, 403, 421, 421, 415]


async def test_the_port_decides_which_application_answers():
    def saying(name):
        async def app(scope, receive, send):
            heard.append((name, scope["type"]))

        return app

    heard: list[tuple[str, str]] = []
    app = ByPort(saying("main"), {8080: saying("editor")})
    for server in (
        ("127.0.0.1", 8080),
        ("::1", 8080),
        ("127.0.0.1", 1799),
        ("/x.sock", None),
        None,
    ):
        await app({"type": "http", "server": server, "headers": [(b"host", b"a:8080")]}, None, None)
    await app({"type": "lifespan"}, None, None)

    assert [name for name, _ in heard] == ["editor", "editor", "main", "main", "main", "main"]


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("lora/autocomplete_lora.gguf", "autocomplete_lora"),
        ("C:\\lora\\a-b.gguf", "a-b"),
        ("persona", "persona"),
        ("a.b.gguf", "a.b"),
        ("../../etc/passwd", "passwd"),
        ("lora/", ""),
        ("x/%2e%2e.gguf", ""),
        ("a\x00b.gguf", ""),
        ("UPPER.gguf", ""),
        ("\n.gguf", ""),
    ],
)
def test_a_path_is_only_a_name(path, name):
    assert _name(AdapterFile(path=path)) == name


def test_blank_pieces_wait_for_a_visible_one():
    glue = WhitespaceGlue()
    pieces = [" ", "\t", "a", " ", "b ", " "]

    assert [glue(Delta(0, piece)).text for piece in pieces] == ["", "", " \ta", "", " b ", ""]
