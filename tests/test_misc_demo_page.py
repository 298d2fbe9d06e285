"""The demo page shows the right clips in the right order, plays them, and escapes everything."""

import base64
import io
import re
import wave
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from misc import demo_page
from utils.reading.pickles import dump_plain

CLIPS = ["one", "two", "three & <b>four</b>"]
CAPTIONS = {clip: [["first", f"of-{i}"], ["second", "<script>"]] for i, clip in enumerate(CLIPS)}
SCORES = np.array(
    [[3, 2, 1], [1, 3, 2], [1, 2, 3], [0, 1, 0], [9, 8, 7], [5, 5, 5]], np.float32
)  # ranks 1, 3, 2, 1, 3, 2


@pytest.fixture
def data(tmp_path):
    root = tmp_path / "My data" / "structured-symlinks"
    (root.parent / "audio").mkdir(parents=True)
    root.mkdir()
    (root / "test_list.txt").write_text("\n".join(CLIPS))
    dump_plain(CAPTIONS, root / "raw-captions.pkl")
    for index, clip in enumerate(CLIPS[:2]):
        with wave.open(str(root.parent / "audio" / f"{clip}.wav"), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(16_000)
            time = np.arange(16_000) / 16_000
            file.writeframes((9000 * np.sin(2000 * (index + 1) * time)).astype("<i2").tobytes())
    np.save(tmp_path / "s.npy", SCORES)
    return root.parent


class Elements(HTMLParser):
    def __init__(self, page):
        super().__init__()
        self.found = []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))

    def all(self, tag):
        return [attributes for name, attributes in self.found if name == tag]


def make(data, *more):
    out = data.parent / "pages" / "page.html"
    similarities = str(data.parent / "s.npy")
    args = ["--similarities", similarities, "--data", str(data), "--out", str(out), *more]
    return demo_page.main(args), out


def test_ranks_are_those_of_the_metrics(data):
    found = demo_page.load(data.parent / "s.npy", data, "test")
    assert [found.rank(query) for query in range(6)] == [1, 3, 2, 1, 3, 2]
    assert found.best(1, 2) == [1, 2]
    assert found.best(5, 3) == [0, 1, 2]


def test_page_shows_each_query_with_its_clips_in_order(data, capsys):
    status, out = make(data, "--queries", "6", "--top", "2")
    assert status == 0
    assert str(out) in capsys.readouterr().out
    page = out.read_text()
    assert "6 captions, each searched for among 3 clips" in page
    assert "for 33.3 % of them and among the first ten for 100.0 %" in page
    sections = page.split("<section>")[1:]
    assert len(sections) == 6
    section = next(s for s in sections if "“first of-2”" in s)  # query 4: own clip comes third
    names = re.findall(r"(\d)\. (.*?), similarity", section)
    assert names == [("1", "one"), ("2", "two"), ("3", "three &amp; &lt;b&gt;four&lt;/b&gt;")]
    assert section.count("class=right") == 1
    assert section.index("class=right") > section.index("2. two")
    assert "rank 3 of 3" in section


def test_everything_is_escaped_and_nothing_is_fetched(data):
    page = make(data, "--queries", "6")[1].read_text()
    elements = Elements(page)
    assert not elements.all("script")
    assert not elements.all("b")
    sources = [a["src"] for tag in ("audio", "img") for a in elements.all(tag)]
    assert sources
    assert all(source.startswith("data:") for source in sources)
    assert "its sound is not here" in page


def test_sounds_are_copied_in_or_linked(data):
    audio = Elements(make(data, "--queries", "6")[1].read_text()).all("audio")[0]["src"]
    copied = base64.b64decode(audio.removeprefix("data:audio/wav;base64,"))
    assert copied in {path.read_bytes() for path in (data / "audio").iterdir()}
    _, out = make(data, "--queries", "6", "--link")
    linked = {a["src"] for a in Elements(out.read_text()).all("audio")}
    assert linked == {"../My%20data/audio/one.wav", "../My%20data/audio/two.wav"}


def test_misses_are_the_worst_of_the_rest(data):
    page = make(data, "--queries", "0", "--misses", "2")[1].read_text()
    assert page.count("<section>") == 2
    assert page.count("rank 3 of 3") == 2


def test_spectrogram_is_a_picture_with_high_sounds_on_top():
    def brightest_row(frequency):
        sound = 9000 * np.sin(2 * np.pi * frequency * np.arange(32_000) / 16_000)
        uri = demo_page.spectrogram(sound.astype(np.int16))
        image = Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1])))
        assert image.height == 64
        return np.asarray(image.convert("L")).mean(axis=1).argmax()

    assert brightest_row(4000) < brightest_row(1000) < brightest_row(200)


def test_arrays_that_do_not_fit_are_refused(data, capsys):
    for wrong in (SCORES[:, :2], SCORES[:5], SCORES[0], np.zeros((9, 3)), SCORES[:0]):
        np.save(data.parent / "s.npy", wrong)
        assert make(data)[0] == 1
        message = capsys.readouterr().err
        assert "s.npy" in message
    (data.parent / "s.npy").write_bytes(b"x")
    assert make(data)[0] == 1
    assert "cannot be read as an array" in capsys.readouterr().err
    assert make(data, "--top", "0")[0] == 2
