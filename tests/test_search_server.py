"""The page's server: answers, ranges, and nothing outside the folder."""

import io
import socket
import wave

import numpy as np
import pytest

from misc import serve
from search.retriever import Retriever
from search_runs import RATE, make_folder, make_run, tone, write_sound

pytest.importorskip("starlette", reason="pip install -r requirements/search.txt")
pytest.importorskip("httpx2", reason="pip install httpx2")

from starlette.testclient import TestClient

from search.server import LARGEST_FILE, Page, picture

HOSTILE = ['<img src=x onerror="alert(1)">.wav', "50% #1 & more?.wav", "größe 音 🎧.wav", "..wav"]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = make_folder(tmp_path_factory.mktemp("data") / "sounds")
    for number, name in enumerate(HOSTILE):
        write_sound(root / name, tone(300 + number, 1.5))
    write_sound(root.parent / "secret.wav", tone(500, 1))
    (root / "notes.txt").write_text("not a sound")
    (root / "link.wav").symlink_to(root.parent / "secret.wav")
    return root


@pytest.fixture(scope="module")
def page(root, tmp_path_factory):
    retriever = Retriever.load(make_run(tmp_path_factory.mktemp("run")))
    retriever.add(root, index=root.parent / "index")
    return TestClient(
        Page(retriever, tmp_path_factory.mktemp("wav")).app(), base_url="http://127.0.0.1:8765"
    )


def test_search_answers_with_moments_and_weights(page):
    answer = page.get("/search", params={"q": "a dog barks"})
    assert answer.status_code == 200
    results = answer.json()["results"]
    assert {result["file"] for result in results} >= {"a.wav", "birds/c.wav", *HOSTILE[:3]}
    first = results[0]
    assert set(first) == {"file", "score", "start", "end", "experts", "seconds"}
    assert first["end"] <= first["seconds"]
    assert sum(first["experts"].values()) == pytest.approx(1)


def test_sounds_are_sent_in_ranges(page, root):
    whole = page.get("/sound", params={"file": "birds/c.wav"})
    content = (root / "birds" / "c.wav").read_bytes()
    assert (whole.status_code, whole.content) == (200, content)
    assert whole.headers["content-type"] == "audio/wav"
    part = page.get("/sound", params={"file": "birds/c.wav"}, headers={"Range": "bytes=100-199"})
    assert (part.status_code, part.content) == (206, content[100:200])
    assert part.headers["content-range"] == f"bytes 100-199/{len(content)}"


@pytest.mark.parametrize("name", HOSTILE[:3])
def test_hostile_names_are_names(page, root, name):
    assert page.get("/sound", params={"file": name}).content == (root / name).read_bytes()
    assert page.get("/picture", params={"file": name}).status_code == 200
    assert page.get("/similar", params={"file": name}).status_code == 200


OUTSIDE = [
    "../secret.wav",
    "birds/../../secret.wav",
    "/etc/passwd",
    "link.wav",
    "notes.txt",
    "",
    "a.wav\0",
    "missing.wav",
]


@pytest.mark.parametrize("name", OUTSIDE)
@pytest.mark.parametrize("what", ["sound", "picture", "similar"])
def test_nothing_outside_the_folder_is_served(page, what, name):
    answer = page.get(f"/{what}", params={"file": name})
    assert answer.status_code == 404
    assert set(answer.json()) == {"error"}


@pytest.mark.parametrize("path", ["/../server.py", "/page/../server.py", "/%2e%2e/server.py", "/x"])
def test_no_other_path_is_served(page, path):
    assert page.get(path).status_code == 404


def test_only_this_machines_names_are_answered(page):
    for host in ("127.0.0.1:8765", "localhost:8765"):
        assert page.get("/", headers={"Host": host}).status_code == 200
    for host in ("evil.example", "127.0.0.1.evil.example", "0.0.0.0:8765"):
        assert page.get("/", headers={"Host": host}).status_code == 400


def test_the_page_loads_nothing_from_elsewhere(page):
    for path, kind in {
        "/": "text/html",
        "/page.css": "text/css",
        "/page.js": "text/javascript",
        "/icon.svg": "image/svg",
    }.items():
        answer = page.get(path)
        assert answer.headers["content-type"].startswith(kind)
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "//" not in answer.text.replace("http://www.w3.org/2000/svg", "").replace("// ", "")
        assert "innerHTML" not in answer.text


def test_wrong_questions_get_one_message(page):
    wrong = {
        "/search": [{"q": " "}, {}, {"q": "x" * 501}],
        "/picture": [
            {"file": "a.wav", "start": "9", "end": "10"},
            {"file": "a.wav", "start": "nan", "end": "1"},
            {"file": "a.wav", "start": "x"},
            {"file": "a.wav", "start": "1", "end": "0.5"},
        ],
    }
    for path, questions in wrong.items():
        for question in questions:
            answer = page.get(path, params=question)
            assert answer.status_code == 400
            assert answer.json()["error"]


def test_a_file_sent_in_finds_its_copy(page, root):
    content = (root / "birds" / "d.wav").read_bytes()
    answer = page.post("/like", params={"name": "../../x.wav"}, content=content)
    assert answer.json()["results"][0]["file"] == "birds/d.wav"
    for content in (b"", b"no sound"):
        answer = page.post("/like", params={"name": "x.wav"}, content=content)
        assert answer.status_code == 400
        assert "/tmp" not in answer.json()["error"]
    assert page.get("/like").status_code == 405
    zeros = (bytes(1 << 20) for _ in range((LARGEST_FILE >> 20) + 2))
    assert page.post("/like", params={"name": "x.wav"}, content=zeros).status_code == 413


def test_formats_that_browsers_do_not_play_come_as_wav(page, root, tmp_path_factory):
    soundfile = pytest.importorskip("soundfile")
    folder = tmp_path_factory.mktemp("aiff")
    soundfile.write(folder / "a.aiff", tone(440, 1), RATE)
    retriever = Retriever.load(make_run(tmp_path_factory.mktemp("run")))
    retriever.add(folder, index=folder.parent / "aiff-index")
    client = TestClient(Page(retriever, folder.parent).app(), base_url="http://localhost")
    answer = client.get("/sound", params={"file": "a.aiff"})
    assert answer.headers["content-type"] == "audio/wav"
    with wave.open(io.BytesIO(answer.content)) as file:
        assert file.getnframes() / file.getframerate() == pytest.approx(1, abs=0.01)
    part = client.get("/sound", params={"file": "a.aiff"}, headers={"Range": "bytes=50-99"})
    assert (part.status_code, part.content) == (206, answer.content[50:100])


def test_pictures_show_where_and_how_high():
    sound = np.concatenate([tone(200, 1), tone(4000, 1)])
    levels = picture(sound).astype(int)
    columns, bands = levels.shape
    assert bands == 64
    early, late = levels[: columns // 2].mean(axis=0), levels[columns // 2 :].mean(axis=0)
    assert early.argmax() < 15
    assert late.argmax() > 40
    assert picture(np.zeros(RATE, np.float32)).max() == 0
    assert len(picture(tone(300, 30))) == 600


def test_a_port_in_use_is_named(root, tmp_path, capsys):
    run = make_run(tmp_path / "run")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        flags = ["--run", run, "--audio", root, "--index", tmp_path / "index", "--port", port]
        assert serve.main([str(flag) for flag in flags]) == 2
    assert port in capsys.readouterr().err
    flags[-1] = "70000"
    assert serve.main([str(flag) for flag in flags]) == 2
