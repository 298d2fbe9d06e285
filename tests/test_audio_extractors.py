"""Extractors: front ends against brute force, published names, tokens of blocks, weights."""

import json
import math

import numpy as np
import pytest
import scipy.signal
import torch
from torch import nn

from audio import aisfx, vggish, vggsound
from audio.aisfx import Aisfx, AisfxNet
from audio.extractors import EXTRACTORS, build_extractors
from audio.mel import mel_triangles, to_mel
from audio.vggish import PCA, VGGish, VGGishNet
from audio.vggsound import VGGSound, VGGSoundNet
from audio.weights import SOURCES, locate_weights, read_weights, weight_source
from sounds import tone
from utils.errors import ConfigError, DataError, DownloadError, UsageError

RATE = 16_000


class Summary(nn.Module):
    """In place of a big network: a few numbers of each patch, repeated to its width."""

    def __init__(self, width, group=1):
        super().__init__()
        self.scale = nn.Parameter(torch.arange(1, width + 1) / width)
        self.group = group

    def forward(self, patches):
        flat = patches.flatten(1)
        numbers = flat.mean(1, keepdim=True) + flat.std(1, keepdim=True)
        tokens = numbers * self.scale
        steps = torch.arange(self.group) / self.group
        return tokens if self.group == 1 else tokens[:, None] + steps[:, None]


@pytest.fixture
def small_networks(monkeypatch, tmp_path):
    """Extractors whose front ends are real and whose networks are small: name -> extractor."""
    made = {}
    for name, kind in EXTRACTORS.items():
        if name == "yamnet":
            continue
        path = tmp_path / f"{name}.pth"
        if kind.needs_weights:
            network = Summary(kind.width, kind.group)
            state = network.state_dict()
            torch.save(
                ({f"embedding_net.{k}": v for k, v in state.items()}, {})
                if name == "aisfx"
                else state,
                path,
            )
            monkeypatch.setattr(kind, "build", staticmethod(lambda state, n=network: n))
        made[name] = kind(path)
    return made


# VGGish


def brute_force_log_mel(wave):
    """The spec word by word: (frames, 64)."""
    n = np.arange(400)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * n / 400)
    k = np.arange(257)[:, None]
    real, imaginary = np.cos(2 * np.pi * k * n / 512), np.sin(2 * np.pi * k * n / 512)
    mel = [1127 * math.log(1 + (bin_ * RATE / 512) / 700) for bin_ in range(257)]
    low, high = (1127 * math.log(1 + f / 700) for f in (125, 7500))
    edges = [low + (high - low) * i / 65 for i in range(66)]
    rows = []
    for start in range(0, len(wave) - 399, 160):
        frame = wave[start : start + 400].astype(np.float64) * window
        magnitude = np.hypot(real @ frame, imaginary @ frame)
        row = []
        for band in range(64):
            left, centre, right = edges[band : band + 3]
            total = 0.0
            for bin_ in range(1, 257):
                up = (mel[bin_] - left) / (centre - left)
                down = (right - mel[bin_]) / (right - centre)
                total += max(0.0, min(up, down)) * magnitude[bin_]
            row.append(math.log(total + 0.01))
        rows.append(row)
    return np.array(rows)


def test_vggish_front_end_equals_a_brute_force_transform():
    wave = tone(2.2, frequency=700, level=0.8)
    patches = vggish.log_mel_patches(torch.from_numpy(wave))
    assert patches.shape == (2, 1, 96, 64)
    expected = brute_force_log_mel(wave)[: 2 * 96].reshape(2, 1, 96, 64)
    np.testing.assert_allclose(patches.numpy(), expected, atol=1e-4)


@pytest.mark.parametrize(
    ("samples", "count"), [(160, 1), (15_599, 1), (15_600, 1), (30_959, 1), (30_960, 2)]
)
def test_vggish_drops_incomplete_patches_and_pads_only_a_first(samples, count):
    wave = torch.from_numpy(tone(4)[:samples])
    patches = vggish.log_mel_patches(wave)
    assert patches.shape == (count, 1, 96, 64)
    if samples < 15_600:
        padded = torch.cat([wave, torch.zeros(15_600 - samples)])
        assert torch.equal(patches, vggish.log_mel_patches(padded))


def test_vggish_has_the_published_names_and_size():
    with torch.device("meta"):
        state = VGGishNet().state_dict()
    layers = [f"features.{n}" for n in (0, 3, 6, 8, 11, 13)]
    layers += [f"embeddings.{n}" for n in (0, 2, 4)]
    assert list(state) == [f"{layer}.{kind}" for layer in layers for kind in ("weight", "bias")]
    assert sum(tensor.numel() for tensor in state.values()) == 72_141_184
    assert state["embeddings.0.weight"].shape == (4096, 12_288)


def test_vggish_flattens_channels_last():
    """The first linear layer sees (6, 4, 512): time, frequency, channel."""
    with torch.device("meta"):
        network = VGGishNet()
    network.features = nn.Identity()
    network.embeddings = nn.Identity()
    maps = torch.arange(512 * 6 * 4.0).reshape(1, 512, 6, 4)
    flat = network(maps)[0]
    assert flat[:3].tolist() == [maps[0, channel, 0, 0].item() for channel in range(3)]
    assert flat[512].item() == maps[0, 0, 0, 1].item()


def test_pca_is_projection_clipping_and_8_bits():
    pca = PCA()
    rng = np.random.default_rng(0)
    vectors, means = rng.normal(size=(128, 128)) / 8, rng.normal(size=(128, 1))
    pca.load_state_dict(
        {
            "pca_eigen_vectors": torch.from_numpy(vectors).float(),
            "pca_means": torch.from_numpy(means).float(),
        }
    )
    tokens = rng.normal(size=(5, 128)).astype(np.float32)
    expected = np.clip((vectors @ (tokens.T - means)).T, -2, 2)
    expected = np.round((expected + 2) * 255 / 4)
    found = pca(torch.from_numpy(tokens)).numpy()
    assert (np.abs(found - expected) <= 1).all()
    assert (found == expected).mean() > 0.99
    assert {found.min(), found.max()} == {0, 255}


def test_pca_is_an_option_and_part_of_the_record(small_networks, tmp_path):
    state = {"pca_eigen_vectors": torch.eye(128), "pca_means": torch.zeros(128, 1)}
    torch.save(state, tmp_path / "pca.pth")
    plain = small_networks["vggish"]
    with_pca = VGGish(tmp_path / "vggish.pth", extra={"vggish_pca": tmp_path / "pca.pth"})
    tokens = with_pca.tokens(tone(2))
    assert set(np.unique(tokens % 1)) == {0.0}
    assert plain.record() != with_pca.record()
    assert with_pca.record().options == {"pca": True}


# VGGSound


def test_vggsound_front_end_equals_a_brute_force_transform():
    wave = tone(10, level=1.5)
    x = np.clip(wave.astype(np.float64), -1, 1)
    window = scipy.signal.get_window(("tukey", 0.25), 512)
    columns = []
    for start in (0, 159 * 500, 159 * 1003):
        frame = x[start : start + 512]
        spectrum = np.fft.rfft((frame - frame.mean()) * window)
        power = np.abs(spectrum) ** 2 / (RATE * (window**2).sum())
        power[1:-1] *= 2
        columns.append(np.log(power + 1e-7))
    found = vggsound.spectrogram(wave).numpy()
    assert found.shape == (257, 1004)
    assert found.mean() == pytest.approx(0, abs=1e-4)
    assert found.std() == pytest.approx(1, abs=1e-4)
    raw = np.stack(columns, axis=1)
    slope, offset = np.polyfit(raw.ravel(), found[:, [0, 500, 1003]].ravel(), 1)
    np.testing.assert_allclose(found[:, [0, 500, 1003]], raw * slope + offset, atol=1e-3)


@pytest.mark.parametrize("vlad", [False, True])
def test_vggsound_has_the_published_names(vlad):
    with torch.device("meta"):
        state = VGGSoundNet(vlad=vlad).state_dict()
    head = (
        {"avgpool.conv.weight", "avgpool.conv.bias", "avgpool.centroids", "fc_.weight", "fc_.bias"}
        if vlad
        else {"fc.weight", "fc.bias"}
    )
    norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    names = {"conv1.weight", *(f"bn1.{one}" for one in norm), *head}
    for layer in range(1, 5):
        for block in range(2):
            place = f"layer{layer}.{block}"
            names |= {f"{place}.conv{n}.weight" for n in (1, 2)}
            names |= {f"{place}.bn{n}.{one}" for n in (1, 2) for one in norm}
            if layer > 1 and block == 0:
                names |= {f"{place}.downsample.0.weight"}
                names |= {f"{place}.downsample.1.{one}" for one in norm}
    assert set(state) == {f"audnet.{name}" for name in names}
    network = VGGSoundNet(vlad=vlad) if not vlad else None
    if network is not None:
        assert sum(p.numel() for p in network.parameters()) == 11_170_240 + 512 * 309 + 309


@pytest.mark.parametrize(
    ("seconds", "tokens"),
    [(0.05, 1), (3, 10), (10, 32), (10.01, 32), (10.4, 34), (13, 42), (20, 64)],
)
def test_vggsound_tokens_are_those_of_the_sound_itself(small_networks, seconds, tokens):
    assert small_networks["vggsound"].tokens(tone(seconds)).shape == (tokens, 512)


def test_vggsound_repeats_short_sounds():
    wave = tone(2.0)
    assert torch.equal(vggsound.spectrogram(wave), vggsound.spectrogram(np.tile(wave, 5)))
    with torch.inference_mode():
        maps = VGGSoundNet().eval()(vggsound.spectrogram(wave)[None, None])
    assert maps.shape == (1, 32, 512)


def test_vggsound_loads_both_releases(tmp_path):
    for vlad in (False, True):
        path = tmp_path / f"{vlad}.pth.tar"
        network = VGGSoundNet(vlad=vlad)
        torch.save({"epoch": 3, "model_state_dict": network.state_dict()}, path)
        loaded = VGGSound(path).network.state_dict()
        assert all(torch.equal(loaded[k], v) for k, v in network.state_dict().items())


# aisfx


def test_aisfx_front_end_equals_a_brute_force_transform():
    wave = tone(0.2, 44_100, level=0.5)
    levels = aisfx.log_mel(torch.from_numpy(wave)).numpy()
    frames = (len(wave) - 2048) // 1024 + 1
    assert levels.shape == (frames, 96)
    triangles = mel_triangles(96, low=0, high=22_050, rate=44_100, fft=2048)
    window = np.hanning(2048)
    for index in range(frames):
        frame = wave[index * 1024 :][:2048].astype(np.float64) * 10 ** (-0.3) * window
        bands = (np.abs(np.fft.rfft(frame)) ** 2) @ (triangles / triangles.sum(axis=0))
        expected = np.log10(1e4 * bands + 1) / 9.457798957824707
        np.testing.assert_allclose(levels[index], expected, atol=1e-4)


@pytest.mark.parametrize(("frames", "count"), [(1, 1), (100, 1), (149, 1), (150, 2), (200, 3)])
def test_aisfx_patches_overlap_by_half(frames, count):
    extractor = Aisfx.__new__(Aisfx)
    wave = tone((2048 + (frames - 1) * 1024) / 44_100, 44_100)
    levels = aisfx.log_mel(torch.from_numpy(wave))
    patches = extractor.patches(wave)
    assert patches.shape == (count, 100, 96)
    for index in range(count):
        part = levels[index * 50 : index * 50 + 100]
        assert torch.equal(patches[index, : len(part)], part)
        assert not patches[index, len(part) :].any()


def test_aisfx_network_has_the_size_of_the_package():
    with torch.device("meta"):
        network = AisfxNet()
    assert sum(p.numel() for p in network.parameters()) == 4_686_144


def test_triangles_are_straight_in_mel_and_leave_out_the_mean():
    weights = mel_triangles(64, low=125, high=7500, rate=RATE, fft=512)
    assert weights.shape == (257, 64)
    assert not weights[0].any()
    assert not weights[: int(125 / 31.25)].any()
    assert weights.max() <= 1
    covered = slice(10, 220)
    np.testing.assert_allclose(weights[covered].sum(axis=1), 1)  # neighbours add up to one
    assert float(to_mel(1000)) == pytest.approx(1127 * math.log(1 + 1000 / 700))


# All of them


@pytest.mark.parametrize("name", [name for name in EXTRACTORS if name != "yamnet"])
@pytest.mark.parametrize("seconds", [0.02, 1.0, 7.3])
def test_tokens_are_finite_of_the_width_said_and_as_many_as_said(small_networks, name, seconds):
    extractor = small_networks[name]
    tokens = extractor.tokens(tone(seconds, extractor.rate))
    assert tokens.dtype == np.float32
    assert tokens.shape[1] == extractor.width
    assert np.isfinite(tokens).all()
    per_window = extractor.group * extractor.window / extractor.step
    expected = seconds * extractor.tokens_per_second
    assert max(1, expected - 2 * per_window) <= len(tokens) <= max(1, expected + per_window)


@pytest.mark.parametrize("name", [name for name in EXTRACTORS if name != "yamnet"])
def test_a_batch_gives_what_each_sound_gives_alone(small_networks, name):
    extractor = small_networks[name]
    waves = [tone(seconds, extractor.rate, seed=n) for n, seconds in enumerate((0.3, 12, 0.05, 4))]
    for together, wave in zip(extractor(waves), waves, strict=True):
        np.testing.assert_allclose(together, extractor.tokens(wave), atol=1e-5)


@pytest.mark.parametrize("name", [name for name in EXTRACTORS if name != "yamnet"])
@pytest.mark.parametrize("seconds", [0.5, 31.7, 70.03])
def test_blocks_give_the_tokens_of_the_whole(small_networks, monkeypatch, name, seconds):
    monkeypatch.setattr("audio.extractor.CHUNK", 11.0)
    extractor = small_networks[name]
    rng = np.random.default_rng(0)
    wave = tone(seconds, extractor.rate)
    wave *= np.repeat(rng.uniform(0.05, 1, len(wave) // 4_000 + 1), 4_000)[: len(wave)].astype("f4")
    blocks = np.split(wave, np.sort(rng.integers(0, len(wave), 9)))
    whole = extractor.tokens(wave)
    found = extractor.tokens_of_blocks(blocks)
    assert found.shape == whole.shape
    np.testing.assert_allclose(found, whole, atol=2e-5)


def test_every_extractor_says_what_it_is():
    for name, kind in EXTRACTORS.items():
        assert kind.name == name
        assert kind.file.startswith(f"aggregated_{kind.expert}/")
        assert kind.window >= kind.step > 0
        assert kind.needs_weights == (name in json.loads(SOURCES.read_text()))


# Weights


def test_an_unknown_extractor_and_weights_of_nothing_are_refused():
    with pytest.raises(UsageError, match="vggish"):
        build_extractors(["vgish"])
    with pytest.raises(UsageError, match="aisfx"):
        build_extractors(["logmel"], {"aisfx": None})
    assert [one.name for one in build_extractors(["modulation", "logmel", "logmel"])] == [
        "modulation",
        "logmel",
    ]
    with pytest.raises(ConfigError, match="vggish"):
        weight_source("vggi")


def test_weights_are_verified_against_the_published_digits(tmp_path, monkeypatch):
    monkeypatch.setattr("audio.weights.FOLDER", tmp_path)
    (tmp_path / "vggish-10086976.pth").write_bytes(b"something else")
    with pytest.raises(DownloadError, match="10086976"):
        locate_weights("vggish")
    with pytest.raises(DataError, match="mine"):
        locate_weights("vggish", tmp_path / "mine.pth")


def test_weights_are_fetched_once_and_verified(tmp_path, monkeypatch):
    content = b"PK" + bytes(range(256)) * 50
    digest = __import__("hashlib").sha256(content).hexdigest()
    calls = []

    def fetch(url, path, *, check):
        calls.append(url)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        check(path)
        return type("Fetched", (), {"path": path})

    sources = tmp_path / "sources.json"
    entry = {"file": "w.pth", "url": "http://example.invalid/w.pth", "licence": "none"}
    sources.write_text(json.dumps({"net": {**entry, "sha256": digest}}))
    monkeypatch.setattr("audio.weights.SOURCES", sources)
    monkeypatch.setattr("audio.weights.fetch", fetch)
    for _ in range(2):
        assert locate_weights("net", folder=tmp_path / "weights").read_bytes() == content
    assert calls == [entry["url"]]
    sources.write_text(json.dumps({"net": {**entry, "file": "v.pth", "sha256": "00"}}))
    with pytest.raises(DownloadError, match="--weights net="):
        locate_weights("net", folder=tmp_path / "weights")


def test_a_package_that_is_missing_is_named_with_the_command(tmp_path, monkeypatch):
    sources = tmp_path / "sources.json"
    entry = {"file": "w", "package": "no_such_package", "requirement": "r.txt", "licence": "none"}
    sources.write_text(json.dumps({"net": entry}))
    monkeypatch.setattr("audio.weights.SOURCES", sources)
    with pytest.raises(DataError, match=r"--no-deps -r r\.txt"):
        locate_weights("net")


class Evil:
    def __reduce__(self):
        return (print, ("called",))


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04broken"])
def test_damaged_weights_are_an_error_naming_the_file(tmp_path, content):
    path = tmp_path / "w.pth"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"w\.pth"):
        read_weights(path)


def test_weights_never_run_anything(tmp_path, capsys):
    torch.save({"x": Evil()}, tmp_path / "w.pth")
    with pytest.raises(DataError, match=r"w\.pth"):
        read_weights(tmp_path / "w.pth")
    assert "called" not in capsys.readouterr().out


def test_numpy_numbers_beside_weights_are_read(tmp_path):
    content = ({"x": torch.ones(2)}, {"classes": (np.int64(3), np.float64(0.5))})
    torch.save(content, tmp_path / "w.pth")
    weights, more = read_weights(tmp_path / "w.pth")
    assert torch.equal(weights["x"], torch.ones(2))
    assert more == {"classes": (3, 0.5)}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda s: s.pop("audnet.conv1.weight"), "audnet.conv1.weight is missing"),
        (lambda s: s.update(other=torch.ones(1)), "other is not known"),
        (lambda s: s.update({"audnet.bn1.bias": torch.ones(3)}), "audnet.bn1.bias has shape"),
        (lambda s: s["audnet.bn1.bias"].fill_(np.nan), "audnet.bn1.bias holds NaN"),
    ],
)
def test_weights_of_another_network_are_refused_by_name(tmp_path, change, named):
    state = VGGSoundNet().state_dict()
    change(state)
    torch.save({"model_state_dict": state}, tmp_path / "w.pth")
    with pytest.raises(DataError, match=named):
        VGGSound(tmp_path / "w.pth")
