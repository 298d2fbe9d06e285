"""Reading sounds: every format, rate and number of channels, and files that are none."""

import os
import tracemalloc

import numpy as np
import pytest
import soundfile

from audio.reading import RATES, read, read_blocks, sound_length
from sounds import tone, write_tone
from utils.errors import DataError, ProjectError

FORMATS = {
    "wav": {"subtype": "PCM_16"},
    "float.wav": {"subtype": "FLOAT"},
    "flac": {},
    "ogg": {},
    "opus": {"format": "OGG", "subtype": "OPUS"},
    "mp3": {},
    "aiff": {},
    "au": {},
    "caf": {},
    "w64": {},
}


@pytest.mark.parametrize("ending", FORMATS)
@pytest.mark.parametrize("channels", [1, 2])
def test_formats_and_channels_give_the_same_sound(tmp_path, ending, channels):
    path = tmp_path / f"a.{ending}"
    write_tone(path, 1.5, 48_000, channels, **FORMATS[ending])
    wave = read(path, 16_000)
    assert wave.dtype == np.float32
    assert wave.ndim == 1
    assert len(wave) == pytest.approx(24_000, abs=100)
    expected = tone(1.5, 16_000)
    middle = slice(4_000, 20_000)
    lag = max(range(-60, 61), key=lambda n: float(expected[middle] @ np.roll(wave, n)[middle]))
    difference = np.roll(wave, lag)[middle] - expected[middle]
    assert np.sqrt(np.mean(difference**2)) < 0.02
    assert sound_length(path) == pytest.approx(1.5, abs=0.05)


@pytest.mark.parametrize("rate", [8_000, 11_025, 16_000, 22_050, 44_100, 96_000])
def test_resampling_keeps_a_tone(tmp_path, rate):
    write_tone(tmp_path / "a.wav", 2.0, rate, subtype="FLOAT", frequency=1000)
    wave = read(tmp_path / "a.wav", 16_000)
    assert len(wave) == pytest.approx(32_000, abs=2)
    spectrum = np.abs(np.fft.rfft(wave * np.hanning(len(wave))))
    assert spectrum.argmax() / 2.0 == pytest.approx(1000, abs=1)


def test_channels_are_averaged(tmp_path):
    left, right = tone(0.5), tone(0.5, frequency=700, seed=1)
    soundfile.write(tmp_path / "a.wav", np.stack([left, right], 1), 16_000, subtype="FLOAT")
    np.testing.assert_allclose(read(tmp_path / "a.wav", 16_000), (left + right) / 2, atol=1e-7)


@pytest.mark.parametrize("rate", [16_000, 44_100])
def test_a_part_is_the_part_of_the_whole(tmp_path, rate):
    write_tone(tmp_path / "a.flac", 3.0, rate)
    whole = read(tmp_path / "a.flac", 16_000)
    part = read(tmp_path / "a.flac", 16_000, start=1.0, seconds=0.5)
    assert len(part) == pytest.approx(8_000, abs=2)
    np.testing.assert_allclose(part[200:7_800], whole[16_200:23_800], atol=2e-3)
    with pytest.raises(DataError, match=r"a\.flac"):
        read(tmp_path / "a.flac", 16_000, start=3.5)


def test_blocks_make_the_whole(tmp_path, monkeypatch):
    write_tone(tmp_path / "a.wav", 5.0, 44_100)
    whole = read(tmp_path / "a.wav", 16_000)
    monkeypatch.setattr("audio.reading.BLOCK", 0.7)
    blocks = list(read_blocks(tmp_path / "a.wav", 16_000))
    assert len(blocks) > 6
    np.testing.assert_array_equal(np.concatenate(blocks), whole)


def test_a_long_file_is_read_in_little_memory(tmp_path):
    path = tmp_path / "long.wav"
    with soundfile.SoundFile(path, "w", 8_000, 2, "PCM_16") as file:
        for _ in range(60):
            file.write(np.zeros((8_000 * 60, 2), np.int16))
    tracemalloc.start()
    try:
        total = sum(len(block) for block in read_blocks(path, 16_000))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert total == 3600 * 16_000
    assert peak < 40e6  # the hour as float32 takes 230 MB


def broken_files(folder):
    """Files that are no sounds: name -> path."""
    write_tone(folder / "whole.wav", 1.0)
    content = (folder / "whole.wav").read_bytes()
    write_tone(folder / "whole.flac", 1.0)
    write_tone(folder / "whole.mp3", 4.0)
    made = {
        "empty.wav": b"",
        "text.wav": b"not a sound\n" * 50,
        "header.wav": content[:44],
        "cut.wav": content[: len(content) // 2],
        "cut.flac": (folder / "whole.flac").read_bytes()[:4_000],
        "cut.mp3": (folder / "whole.mp3").read_bytes()[:6_000],
        "movie.mp4": b"\0\0\0\x18ftypmp42" + bytes(100),
        "raw.raw": bytes(1_000),
    }
    for name, data in made.items():
        (folder / name).write_bytes(data)
    soundfile.write(folder / "none.wav", np.zeros(0, np.float32), 16_000)
    soundfile.write(folder / "one.wav", np.zeros(1, np.float32), 16_000)
    bad = tone(0.5)
    bad[77] = np.nan
    soundfile.write(folder / "nan.wav", bad, 16_000, subtype="FLOAT")
    bad[77] = np.inf
    soundfile.write(folder / "infinite.wav", bad, 16_000, subtype="FLOAT")
    soundfile.write(folder / "loud.wav", tone(0.5) * 32_768, 16_000, subtype="FLOAT")
    soundfile.write(folder / "slow.wav", tone(0.5), RATES[0] - 1)
    (folder / "folder.wav").mkdir()
    os.mkfifo(folder / "pipe.wav")
    more = ["none", "one", "nan", "infinite", "loud", "slow", "folder", "pipe", "missing"]
    return {name: folder / name for name in [*made, *(f"{name}.wav" for name in more)]}


def test_what_is_no_sound_is_an_error_that_names_the_file(tmp_path):
    for name, path in broken_files(tmp_path).items():
        with pytest.raises(DataError) as caught:
            read(path, 16_000)
        assert name in str(caught.value), name


@pytest.mark.parametrize("claimed", [0xFFFF_FFFF, 0x7FFF_FFFF])
def test_a_header_written_before_the_sound_is_no_truncation(tmp_path, claimed):
    write_tone(tmp_path / "a.wav", 1.0)
    content = bytearray((tmp_path / "a.wav").read_bytes())
    at = content.find(b"data") + 4
    content[at : at + 4] = content[4:8] = claimed.to_bytes(4, "little")
    (tmp_path / "b.wav").write_bytes(content)
    assert len(read(tmp_path / "b.wav", 16_000)) == 16_000


def test_the_ending_does_not_matter_when_the_content_is_a_sound(tmp_path):
    write_tone(tmp_path / "a.wav", 0.5)
    (tmp_path / "a.wav").rename(tmp_path / "a.unknown")
    assert len(read(tmp_path / "a.unknown", 16_000)) == 8_000


@pytest.mark.parametrize("library", ["soundfile", "soxr"])
def test_a_missing_library_is_named_with_the_command(tmp_path, monkeypatch, library):
    write_tone(tmp_path / "a.wav", 0.5)
    monkeypatch.setitem(__import__("sys").modules, library, None)
    with pytest.raises(ProjectError, match=rf"{library}.*requirements/search\.txt"):
        read(tmp_path / "a.wav", 8_000)
