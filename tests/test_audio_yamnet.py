"""YAMNet: windows, tokens and tags, with a network of our own in the place of LiteRT's."""

import numpy as np
import pytest

from audio import yamnet
from audio.yamnet import CLASSES, Yamnet, read_classes
from sounds import tone
from utils.errors import DataError, ProjectError


class Interpreter:
    """Answers as LiteRT does: the embedding is the window's mean level times a ramp."""

    def __init__(self, window=15_600):
        self.window = window
        rng = np.random.default_rng(0)
        self.weight = rng.integers(-127, 128, (CLASSES, 1024)).astype(np.int8)
        self.bias = rng.normal(size=CLASSES).astype(np.float32)
        self.seen = []

    def get_input_details(self):
        return [{"index": 0, "shape": np.array([self.window])}]

    def get_tensor_details(self):
        plain = {"scales": np.zeros(0)}
        scaled = {"scales": np.array([0.01], np.float32)}
        return [
            {"index": 0, "shape": np.array([self.window]), "quantization_parameters": plain},
            {"index": 1, "shape": np.array([CLASSES, 1024]), "quantization_parameters": scaled},
            {"index": 2, "shape": np.array([CLASSES]), "quantization_parameters": plain},
            {"index": 3, "shape": np.array([1, 1024]), "quantization_parameters": plain},
        ]

    def set_tensor(self, index, values):
        assert index == 0
        assert values.shape == (self.window,)
        assert values.dtype == np.float32
        self.seen.append(values.copy())

    def invoke(self):
        self.embedding = np.abs(self.seen[-1]).mean() * np.linspace(0, 1, 1024, dtype=np.float32)

    def get_tensor(self, index):
        return {1: self.weight, 2: self.bias, 3: self.embedding[None] if index == 3 else None}[
            index
        ]


@pytest.fixture
def made(monkeypatch, tmp_path):
    monkeypatch.setattr(yamnet, "_interpreter", lambda path: Interpreter())
    (tmp_path / "yamnet.tflite").write_bytes(b"network")
    table = "index,mid,display_name\n" + "".join(
        f'{n},/m/{n},"Class {n}, of all"\n' for n in range(CLASSES)
    )
    (tmp_path / "classes.csv").write_text(table)
    return Yamnet(tmp_path / "yamnet.tflite", extra={"yamnet_classes": tmp_path / "classes.csv"})


@pytest.mark.parametrize(
    ("samples", "count"), [(200, 1), (15_600, 1), (15_601, 2), (23_280, 2), (23_281, 3)]
)
def test_windows_overlap_and_the_last_is_padded(made, samples, count):
    wave = tone(3)[:samples]
    assert made.tokens(wave).shape == (count, 1024)
    for index, window in enumerate(made._interpreter.seen):
        part = wave[index * 7_680 :][:15_600]
        np.testing.assert_array_equal(window[: len(part)], part)
        assert not window[len(part) :].any()


def test_blocks_give_the_tokens_of_the_whole(made, monkeypatch):
    monkeypatch.setattr("audio.extractor.CHUNK", 5.0)
    wave = tone(21.3)
    found = made.tokens_of_blocks(np.split(wave, [7, 50_000, 200_000]))
    np.testing.assert_array_equal(found, made.tokens(wave))


def test_tags_are_the_classes_with_the_highest_mean_score(made):
    tokens = np.random.default_rng(1).normal(size=(4, 1024)).astype(np.float32)
    logits = tokens @ (made._interpreter.weight.astype(np.float32) * 0.01).T
    scores = 1 / (1 + np.exp(-(logits + made._interpreter.bias)))
    np.testing.assert_allclose(made.scores(tokens), scores, atol=1e-5)
    best = scores.mean(axis=0).argsort()[::-1][:3]
    tags = made.tags(tokens, 3)
    assert [tag.name for tag in tags] == [f"Class {n}, of all" for n in best]
    np.testing.assert_allclose([tag.score for tag in tags], scores.mean(axis=0)[best], atol=1e-5)


def test_another_network_is_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(yamnet, "_interpreter", lambda path: Interpreter(window=1_000))
    (tmp_path / "other.tflite").write_bytes(b"network")
    with pytest.raises(DataError, match=r"other\.tflite"):
        Yamnet(tmp_path / "other.tflite")


@pytest.mark.parametrize("text", ["", "index,mid,display_name\n0,/m/x,Speech\n", "<html>\n" * 522])
def test_another_table_of_classes_is_refused(tmp_path, text):
    (tmp_path / "classes.csv").write_text(text)
    with pytest.raises(DataError, match=r"classes\.csv"):
        read_classes(tmp_path / "classes.csv")


def test_a_missing_library_is_named_with_the_command(monkeypatch, tmp_path):
    monkeypatch.setitem(__import__("sys").modules, "ai_edge_litert.interpreter", None)
    (tmp_path / "yamnet.tflite").write_bytes(b"network")
    with pytest.raises(ProjectError, match=r"requirements/yamnet\.txt"):
        Yamnet(tmp_path / "yamnet.tflite")
