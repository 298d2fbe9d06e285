"""The page shows every query and its clips, plays sounds, and nothing foreign runs on it."""

import base64
import hashlib
import json
import re
import shutil
import subprocess
import wave
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import pytest

from misc import report
from results import report as pages
from results.charts import Axes, Series, bar_chart, line_chart
from results.ranks import ranks_of, save_ranks
from results.report import read_shown, render_page
from results.runs import load_run, load_runs
from results.sounds import copy_of, find_sounds, link_to
from stored_runs import write_run
from utils.errors import UsageError

HOSTILE = [
    "</script><script>document.title='hit'</script>",
    "<img src=x onerror=document.title='hit'>",
    "\" onmouseover=\"document.title='hit'",
    "&lt;b&gt; <!-- <script>",
    "\u2028 \u202e back \x00 \ud800",
    "]]> %3Cscript%3E ${document.title='hit'} `x`",
]
CLIPS = 12


class Elements(HTMLParser):
    def __init__(self, page):
        super().__init__()
        self.found = []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))

    def all(self, tag):
        return [attributes for name, attributes in self.found if name == tag]


@pytest.fixture
def runs(tmp_path):
    captions = [[HOSTILE[c % len(HOSTILE)], f"plain {c}"] for c in range(CLIPS)]
    names = [f"{c} {HOSTILE[c % len(HOSTILE)]}" for c in range(CLIPS)]
    for name in "ab":
        write_run(
            tmp_path / name, name=f"clotho-{name}", clips=CLIPS, captions=captions, names=names
        )
    return tmp_path


def page_of(*folders, **more):
    return render_page([read_shown(run) for run in load_runs(folders)], **more)


def data_text(page):
    return re.search(r'id="data">(.*?)</script>', page, re.DOTALL)[1]


def data_of(page):
    return json.loads(data_text(page))


def test_the_page_holds_every_query_with_its_ranks_and_top(runs):
    stored = load_run(runs / "a").ranks("0")
    data = data_of(page_of(runs / "a", runs / "b"))
    assert data["queries"] == [[c, k] for c in range(CLIPS) for k in range(2)]
    known = [text.encode("utf-8", "replace").decode() for text in stored.captions]
    assert data["captions"] == known
    first = data["runs"][0]
    assert [run["name"] for run in data["runs"]] == ["clotho-a", "clotho-b"]
    assert first["seeds"] == ["0", "1", "2"]
    assert first["ranks"][0] == (stored.t2v_ranks + 1).tolist()
    assert first["top"] == stored.top_clips[:, :5].reshape(-1).tolist()
    assert first["weights"][:2] == np.rint(100 * stored.weights[0]).tolist()


def test_metrics_are_on_the_page_as_in_the_tables(runs):
    values = load_run(runs / "a").values("t2v", "R10")
    shown = f"{np.mean(values):.1f} ({np.std(values, ddof=1):.1f})"
    assert f"<td>{shown}</td>" in page_of(runs / "a")


def test_nothing_foreign_becomes_html(runs):
    page = page_of(runs / "a", runs / "b", title=HOSTILE[0])
    elements = Elements(page)
    assert [script.get("type") for script in elements.all("script")] == ["application/json", None]
    assert not elements.all("img")
    assert not [a for _, a in elements.found if any(name.startswith("on") for name in a)]
    page.encode()  # lone surrogates are gone or escaped
    assert "\u2028" not in data_text(page)


def test_the_policy_lets_the_pages_own_script_and_style_alone(runs):
    page = page_of(runs / "a")
    (policy,) = [a["content"] for a in Elements(page).all("meta") if "http-equiv" in a]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    for tag in ("script", "style"):
        content = re.search(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)[1]
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    assert not re.search(r"\sstyle=", page)


def test_nothing_is_fetched(runs):
    page = page_of(runs / "a")
    assert not Elements(page).all("link")
    assert not re.search(r'(?:src|href)="(?!#)', page)
    assert "http" not in page.replace("http-equiv", "")


def test_controls_have_labels_and_tables_heads(runs):
    page = page_of(runs / "a", runs / "b")
    elements = Elements(page)
    for control in [*elements.all("input"), *elements.all("select")]:
        assert re.search(rf"<label[^>]*>[^<]+<(?:input|select) id=\"{control['id']}\"", page)
    assert all(head.get("scope") == "col" for head in elements.all("th"))
    assert all(svg.get("aria-label") for svg in elements.all("svg"))
    links = {a["href"][1:] for a in elements.all("a")}
    assert links <= {a.get("id") for _, a in elements.found}


def test_each_clip_is_listed_once_among_the_best_or_worst(runs):
    page = page_of(runs / "a")
    for part in page.split("<h3>Worst</h3>")[1].split("<h3>Best</h3>"):
        names = re.findall(r'<button class="link">(.*?)</button>', part.split("<h2")[0])
        assert len(names) == len(set(names)) == CLIPS // 2


def test_a_run_without_ranks_still_has_its_metrics(runs):
    for seed in range(3):
        shutil.rmtree(runs / "a" / f"seed-{seed}")
    page = page_of(runs / "a")
    assert "R@10" in page
    assert data_of(page)["queries"] == []
    assert 'id="index"' not in page


def test_results_of_earlier_versions_have_a_page(tmp_path):
    write_run(tmp_path, change={"trainable_parameters": None})
    content = json.loads((tmp_path / "results.json").read_text())
    for changed in (content, {key: content[key] for key in ("config", "protocol", "seeds")}):
        (tmp_path / "results.json").write_text(json.dumps(changed))
        assert "3 seeds (0, 1, 2), 0 parameters" in page_of(tmp_path)


def test_comparisons_are_said_in_words(runs):
    out = runs / "pages" / "page.html"
    assert report.main([str(runs / "a"), str(runs / "b"), "--out", str(out)]) == 0
    page = out.read_text()
    assert "clotho-a against clotho-b" in page
    assert "chance, p = " in page


def test_runs_of_other_terms_or_queries_are_refused(runs):
    write_run(runs / "c", name="clotho-c", clips=CLIPS, protocol={"fused": True})
    write_run(runs / "d", name="clotho-d", clips=CLIPS)
    with pytest.raises(UsageError, match=r"protocol\.fused"):
        page_of(runs / "a", runs / "c")
    with pytest.raises(UsageError):
        page_of(runs / "a", runs / "d")
    with pytest.raises(UsageError):
        page_of(*[runs / "a"] * 7)


def test_the_published_sizes_fit_five_megabytes(tmp_path):
    """AudioCaps: 816 clips, 5 captions each, three runs of three seeds side by side."""
    draw = np.random.default_rng(0)
    captions = [["a dog barks while a man is speaking and birds sing " * 2] * 5] * 816
    scored = SimpleNamespace(
        similarities=draw.normal(size=(816 * 5, 816)).astype(np.float32),
        query_masks=np.ones((816, 5)),
        weights={"audio": np.full(816 * 5, 0.4), "vggsound": np.full(816 * 5, 0.6)},
    )
    names = [f"{'y' * 11}_{n}_30000" for n in range(816)]
    found = ranks_of(scored, names, captions=captions)
    for name in "abc":
        seeds = {str(seed): {**found.metrics(), "best_epoch": 2} for seed in range(3)}
        write_run(tmp_path / name, name=f"clotho-{name}", ranks=False, change={"seeds": seeds})
        for seed in range(3):
            save_ranks(tmp_path / name / f"seed-{seed}", found)
    page = page_of(tmp_path / "a", tmp_path / "b", tmp_path / "c")
    assert len(page.encode()) < 5_000_000


def test_too_large_a_page_drops_the_scores_then_is_refused(runs, monkeypatch):
    full = len(page_of(runs / "a").encode())
    monkeypatch.setattr(pages, "LARGEST", full - 1)
    assert "scores" not in data_of(page_of(runs / "a"))["runs"][0]
    monkeypatch.setattr(pages, "LARGEST", 1000)
    with pytest.raises(UsageError):
        page_of(runs / "a")


# Sounds


def write_wav(path, rate=44_100, channels=2):
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(bytes(2 * channels * rate // 10))


def test_sounds_are_found_by_name_with_and_without_suffix(tmp_path):
    for name in ("one.wav", "two.ogg", "with/slash.wav", "größe 音.flac", "notes.txt"):
        write_wav(tmp_path / name)
    clips = ["one", "one.wav", "two", "with/slash", "with/slash.wav", "größe 音", "notes", "../x"]
    found = find_sounds(tmp_path, clips)
    assert set(found) == {*clips} - {"notes", "../x"}
    assert found["one"] == found["one.wav"] == tmp_path / "one.wav"
    with pytest.raises(UsageError):
        find_sounds(tmp_path / "nowhere", clips)


def test_links_are_relative_and_copies_whole(tmp_path):
    write_wav(tmp_path / "My sounds" / "a #1.wav")
    path = tmp_path / "My sounds" / "a #1.wav"
    assert link_to(path, tmp_path / "pages" / "p.html") == "../My%20sounds/a%20%231.wav"
    copied = copy_of(path)
    assert copied.startswith("data:audio/wav;base64,")
    assert base64.b64decode(copied.split(",")[1]) == path.read_bytes()


def test_what_no_browser_plays_is_copied_as_wav(tmp_path):
    soundfile = pytest.importorskip("soundfile")
    soundfile.write(tmp_path / "a.aiff", np.zeros((100, 3)), 8000)
    content = base64.b64decode(copy_of(tmp_path / "a.aiff").split(",")[1])
    assert content[:4] == b"RIFF"


def test_the_command_links_or_copies(tmp_path, capsys):
    write_run(tmp_path / "a", clips=CLIPS)
    write_wav(tmp_path / "sounds" / "clip 3.wav")
    out = tmp_path / "page.html"
    call = [str(tmp_path / "a"), "--out", str(out), "--sounds", str(tmp_path / "sounds")]
    assert report.main(call) == 0
    assert data_of(out.read_text())["sounds"] == {"3": "sounds/clip%203.wav"}
    assert report.main([*call, "--embed"]) == 0
    assert data_of(out.read_text())["sounds"]["3"].startswith("data:audio/wav")
    assert report.main([str(tmp_path / "a"), "--embed"]) == 2
    (tmp_path / "empty").mkdir()
    assert report.main([*call[:-1], str(tmp_path / "empty")]) == 2
    assert capsys.readouterr().err.count("error:") == 2


# Charts


def test_a_line_is_drawn_where_its_points_are():
    chart = line_chart("t", Axes("x", "y", most=100), [Series("a", [(0, 0), (10, 100)])])
    assert 'points="46.0,240.0 548.0,12.0"' in chart
    assert line_chart("t", Axes("x", "y"), [Series("a", [])]) == ""


def test_bars_are_as_high_as_their_values():
    chart = bar_chart("t", Axes("x", "y", most=100), ["1", "2"], [("a", [100, 50])])
    heights = [float(height) for height in re.findall(r'<rect.*? height="([\d.]+)"', chart)]
    assert heights == [228.0, 114.0]


def test_charts_escape_names():
    chart = bar_chart("<t>", Axes("<x>", "<y>"), ["<l>"], [("<s>", [1.0])])
    assert not [name for name in "txyls" if f"<{name}>" in chart]


# In a browser


def browser():
    return shutil.which("chromium") or shutil.which("chromium-browser")


def dom_of(path):
    """The page after its script ran, as a browser has it."""
    call = [browser(), "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]
    address = f"{path.as_uri()}#open=2"
    done = subprocess.run([*call, address], capture_output=True, timeout=120, check=True)
    return done.stdout.decode()


@pytest.mark.browser
@pytest.mark.slow
@pytest.mark.skipif(browser() is None, reason="needs Chromium")
def test_a_browser_shows_the_queries_and_runs_nothing_foreign(runs):
    out = runs / "page.html"
    assert report.main([str(runs / "a"), str(runs / "b"), "--out", str(out)]) == 0
    dom = dom_of(out)
    assert dom.count('class="row"') == 2 * CLIPS
    assert dom.count('aria-expanded="true"') == 2
    assert dom.count('class="right"') == 4  # the own clip once a run in each opened query
    assert "<title>2 runs side by side</title>" in dom  # no caption has changed it
    assert f"1 to {2 * CLIPS} of {2 * CLIPS} queries" in dom
    assert not Elements(dom).all("img")
