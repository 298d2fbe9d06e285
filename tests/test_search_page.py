"""The page in a real browser: type, play, seek, keys, files, small screens, dark mode.

Needs Chromium (apt-get install chromium) and pip install -r requirements/browser.txt.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from search_runs import make_folder, make_run, tone, write_sound

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
playwright = pytest.importorskip("playwright.sync_api", reason="requirements/browser.txt")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="apt-get install chromium"),
]
ROOT = Path(__file__).resolve().parent.parent
HOSTILE = '<img src=x onerror="document.title=1">.wav'
LONG = "long/a very long name of a recording that has to be wrapped somewhere on a phone.wav"


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = make_folder(tmp_path_factory.mktemp("data") / "sounds")
    write_sound(root / HOSTILE, tone(700, 3))
    write_sound(root / LONG, np.concatenate([tone(100 * n, 9) for n in range(2, 12)]))
    return root


@pytest.fixture(scope="module")
def address(root, tmp_path_factory):
    run = make_run(tmp_path_factory.mktemp("run"))
    flags = ["--run", run, "--audio", root, "--index", root.parent / "index", "--port", "0"]
    server = subprocess.Popen(
        [sys.executable, ROOT / "misc" / "serve.py", *flags],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    with server:
        yield re.search(r"http://\S+", server.stdout.readline()).group()
        server.send_signal(signal.SIGINT)
    assert server.returncode == 0


@pytest.fixture(scope="module")
def chromium():
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(
            executable_path=CHROMIUM,
            args=["--no-sandbox", "--autoplay-policy=no-user-gesture-required"],
        )
        yield browser
        browser.close()


@pytest.fixture
def open_page(chromium, address):
    contexts, wrong = [], []

    def open_it(path="", *, width=1280, scheme="light"):
        context = chromium.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme
        )
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(20_000)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("dialog", lambda dialog: (wrong.append(dialog.message), dialog.dismiss()))
        own = (address, "data:", "blob:")
        page.on("request", lambda asked: asked.url.startswith(own) or wrong.append(asked.url))
        page.goto(address + path)
        page.wait_for_selector("#examples button", state="attached")
        return page

    yield open_it
    for context in contexts:
        context.close()
    assert not wrong


@pytest.fixture
def found(open_page):
    return search(open_page())


def search(page, query="a dog barks"):
    page.fill("#query", query)
    page.press("#query", "Enter")
    page.wait_for_selector(".result")
    return page


def position(page, result):
    return float(page.locator(".picture").nth(result).get_attribute("aria-valuenow"))


def wait_for_playing(page, result):
    page.wait_for_function(
        "n => document.querySelectorAll('.result')[n].classList.contains('playing')", arg=result
    )


def wait_for_status(page, words):
    page.wait_for_function(
        "w => document.querySelector('#status').textContent.includes(w)", arg=words
    )


def wait_for_first(page, name):
    page.wait_for_function("n => document.querySelector('h2').textContent === n", arg=name)


def index_of(page, name):
    return page.locator("h2").all_inner_texts().index(name)


def test_words_find_recordings(found):
    assert found.locator(".result").count() == 6
    assert set(found.locator("h2").all_inner_texts()) >= {"a.wav", "birds/c.wav", HOSTILE, LONG}
    assert "a dog barks" in found.locator("#status").inner_text()
    assert "?q=a%20dog%20barks" in found.url
    experts = found.locator(".experts").first.inner_text()
    assert sum(map(int, re.findall(r"(\d+) %", experts))) in (99, 100, 101)
    assert found.locator(".axis").first.inner_text()
    found.wait_for_function("() => document.querySelector('canvas').width > 50")
    found.go_back()
    found.wait_for_selector("#welcome", state="visible")
    found.go_forward()
    found.wait_for_selector(".result")


def test_the_found_moment_plays_by_ranges_one_sound_at_a_time(found):
    ranges = []

    def note(answer):
        if "/sound?" in answer.url:
            ranges.append((answer.status, answer.request.headers.get("range")))

    found.on("response", note)
    long = index_of(found, LONG)
    moment = found.locator(".moment").nth(long).inner_text()
    minutes, seconds = map(int, moment.split(" ")[0].split(":"))
    found.locator(".play").nth(long).click()
    wait_for_playing(found, long)
    assert position(found, long) == pytest.approx(60 * minutes + seconds, abs=2.5)
    other = index_of(found, "a.wav")
    found.locator(".play").nth(other).click()
    wait_for_playing(found, other)
    assert found.locator(".playing").count() == 1
    assert ranges
    assert all(status == 206 and asked.startswith("bytes=") for status, asked in ranges)


def test_a_click_into_the_picture_seeks(found):
    long = index_of(found, LONG)
    picture = found.locator(".picture").nth(long)
    low, high = (float(picture.get_attribute(f"aria-value{end}")) for end in ("min", "max"))
    size = picture.bounding_box()
    picture.click(position={"x": 0.75 * size["width"], "y": 20})
    wait_for_playing(found, long)
    assert position(found, long) == pytest.approx(low + 0.75 * (high - low), abs=2)
    assert found.locator(".head").nth(long).is_visible()


def test_everything_works_by_keyboard(found):
    def chosen():
        return found.evaluate(
            "[...document.querySelectorAll('.result')].indexOf(document.activeElement)"
        )

    keys = found.keyboard
    keys.press("ArrowDown")
    assert chosen() == 0
    keys.press("ArrowDown")
    keys.press("ArrowDown")
    keys.press("ArrowUp")
    assert chosen() == 1
    long = index_of(found, LONG)
    for _ in range(abs(long - 1)):
        keys.press("ArrowDown" if long > 1 else "ArrowUp")
    keys.press("Enter")
    wait_for_playing(found, long)
    keys.press(" ")
    found.wait_for_function("() => !document.querySelector('.playing')")
    before = position(found, long)
    keys.press("ArrowRight")
    keys.press("ArrowRight")
    found.wait_for_timeout(300)
    assert position(found, long) == pytest.approx(before + 2, abs=0.3)
    keys.press("ArrowLeft")
    found.wait_for_timeout(300)
    assert position(found, long) == pytest.approx(before + 1, abs=0.3)
    keys.press("/")
    assert found.evaluate("document.activeElement.id") == "query"
    keys.type("/ rain")
    assert found.input_value("#query") == "/ rain"


def test_similar_sounds_and_files(found, root):
    found.locator(".similar").nth(index_of(found, "birds/d.wav")).click()
    wait_for_status(found, "birds/d.wav")
    assert "birds/d.wav" not in found.locator("h2").all_inner_texts()
    found.set_input_files("#file", root / "b.wav")
    wait_for_status(found, "b.wav")
    wait_for_first(found, "b.wav")
    found.evaluate(
        """async () => {
          const answer = await fetch('sound?file=a.wav');
          const carried = new DataTransfer();
          carried.items.add(new File([await answer.blob()], 'dropped.wav'));
          for (const kind of ['dragenter', 'dragover', 'drop'])
            document.body.dispatchEvent(
              new DragEvent(kind, { dataTransfer: carried, bubbles: true, cancelable: true }));
        }"""
    )
    wait_for_status(found, "dropped.wav")
    wait_for_first(found, "a.wav")
    assert not found.locator("#drop").is_visible()


def test_bad_input_gets_one_clear_message(found, tmp_path):
    found.fill("#query", "   ")
    found.press("#query", "Enter")
    found.wait_for_selector("#welcome", state="visible")
    (tmp_path / "notes.wav").write_text("no sound")
    found.set_input_files("#file", tmp_path / "notes.wav")
    found.wait_for_selector("#status.error")
    assert "not a sound" in found.locator("#status").inner_text()
    assert found.locator(".result").count() == 0
    found.route("**/search?*", lambda route: route.abort())
    found.fill("#query", "rain")
    found.press("#query", "Enter")
    wait_for_status(found, "serve.py")


def test_names_are_shown_and_never_run(found):
    found.locator(".play").nth(index_of(found, HOSTILE)).click()
    wait_for_playing(found, index_of(found, HOSTILE))
    assert found.title() == "a dog barks – Find a sound"
    assert found.locator("img[src=x]").count() == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390, 320])  # 320: 1280 at 400 % zoom
def test_every_width_and_scheme_is_readable(open_page, width, scheme):
    page = search(open_page(width=width, scheme=scheme))
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    for selector in (".play", ".similar", ".picture", "#query"):
        box = page.locator(selector).first.bounding_box()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= width
        assert box["height"] >= 24
    for selector in ("h1", "h2", ".facts .score", ".axis span", ".experts .name", "#status"):
        assert contrast(page, selector) >= 4.5, selector


def contrast(page, selector):
    """Contrast of an element's text with what is behind it, as WCAG defines it."""
    colours = page.evaluate(
        """selector => {
          const element = document.querySelector(selector);
          let behind = element;
          const fill = () => getComputedStyle(behind).backgroundColor;
          while (fill() === 'rgba(0, 0, 0, 0)') behind = behind.parentElement;
          return [getComputedStyle(element).color, fill()];
        }""",
        selector,
    )
    lights = []
    for colour in colours:
        levels = np.array([int(part) for part in re.findall(r"\d+", colour)[:3]]) / 255
        linear = np.where(levels <= 0.03928, levels / 12.92, ((levels + 0.055) / 1.055) ** 2.4)
        lights.append(linear @ [0.2126, 0.7152, 0.0722])
    return (max(lights) + 0.05) / (min(lights) + 0.05)
