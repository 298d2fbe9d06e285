"""A folder in, words in, recordings and moments out; scores are those of the model."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from search.embedder import Embedder
from search.index import Index, IndexedFile, Stamp, UnusableIndexError
from search.load import load_embedder
from search.retriever import Retriever, clock
from search.scoring import Span
from search_runs import EXPERTS, make_folder, make_run, tone, write_sound
from surroundings import working_in
from utils.errors import CheckpointError, DataError, UsageError
from utils.extraction_record import ExtractionRecord, write_run_records

ROOT = Path(__file__).resolve().parent.parent
NAMES = ["a.wav", "b.wav", "birds/c.wav", "birds/d.wav"]
DOCS = ROOT / "docs" / "search.md"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("runs") / "ce")


@pytest.fixture
def folder(tmp_path):
    return make_folder(tmp_path / "sounds")


@pytest.fixture
def retriever(run, folder, tmp_path):
    found = Retriever.load(run)
    found.add(folder, index=tmp_path / "index")
    return found


def load(run):
    return load_embedder(run / "trained_model.pth")


FORMS = {
    "ce": {"form": "ce"},
    "moee": {"form": "moee"},
    "all": {"form": "moee", "changes": {"keep_missing_modalities": True}},
}


@pytest.fixture(scope="module", params=FORMS)
def embedder(request, tmp_path_factory):
    return load(make_run(tmp_path_factory.mktemp("run"), **FORMS[request.param]))


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32), data=st.data())
def test_scores_are_those_of_the_model_whatever_is_missing(embedder, seed, data, tmp_path_factory):
    draw = np.random.default_rng(seed)
    widths = {expert.name: expert.width for expert in embedder.config.experts}
    subsets = st.sampled_from([EXPERTS, EXPERTS[:1], EXPERTS[1:]])
    had = data.draw(st.lists(subsets, min_size=1, max_size=6))
    clips = [
        {n: draw.normal(size=(int(draw.integers(1, 50)), widths[n])).astype("f4") for n in names}
        for names in had
    ]
    texts = ["a dog barks", "rain", "a bell rings while somebody walks"]
    text = torch.zeros(3, 1, embedder.config.text.max_tokens, 300)
    for row, words in zip(text, embedder.encoder.encode(texts), strict=True):
        row[0, : len(words)] = torch.from_numpy(words)
    experts = {
        e.name: torch.zeros(len(clips), e.max_tokens, e.width) for e in embedder.config.experts
    }
    available = {name: torch.tensor([float(name in clip) for clip in clips]) for name in EXPERTS}
    for index, clip in enumerate(clips):
        for name, tokens in clip.items():
            kept = tokens[: experts[name].shape[1]]
            experts[name][index, : len(kept)] = torch.from_numpy(kept)
    with torch.inference_mode():
        expected = embedder.model(text, experts, available).numpy()

    index = Index(tmp_path_factory.mktemp("index"), embedder.width, {})
    embedded = embedder.embed_clips(clips)
    moment = np.array([[0.0, 1.0]])
    index.add(
        [
            IndexedFile(
                str(n), Stamp(1, n), 1.0, type(embedded)(*(x[[n]] for x in embedded)), moment
            )
            for n in range(len(clips))
        ]
    )
    found = index.search(embedder.embed_texts(texts), len(clips))
    index.close()
    for row, hits in zip(expected, found, strict=True):
        assert len(hits) == len(clips)
        for hit in hits:
            assert hit.score == pytest.approx(row[int(hit.file)], abs=1e-5)


def test_results_say_where_when_and_how_much(retriever, folder):
    results = retriever.search("a dog barks", k=3)
    assert [result.rank for result in results] == [1, 2, 3]
    assert [r.score for r in results] == sorted((r.score for r in results), reverse=True)
    for result in results:
        assert result.path == folder.resolve() / result.file
        assert result.start == 0
        assert result.end == pytest.approx(1 + 0.5 * (1 + NAMES.index(result.file)))
        assert list(result.experts) == list(EXPERTS)
        assert sum(result.experts.values()) == pytest.approx(1)
    assert results[0].file in repr(results)
    sims = retriever.similarity("a dog barks", [result.path for result in results])
    np.testing.assert_allclose(sims[0], [r.score for r in results], atol=1e-5)


def test_files_are_added_changed_and_removed(run, folder, tmp_path, monkeypatch):
    def update():
        retriever = Retriever.load(run)
        changes = retriever.add(folder, index=tmp_path / "index")
        return changes[:3], {result.file for result in retriever.search("rain")}

    names = set(NAMES)
    assert update() == ((4, 0, 0), names)
    write_sound(folder / "a.wav", tone(900, 2))
    write_sound(folder / "new.wav", tone(1000, 2))
    (folder / "b.wav").unlink()
    assert update() == ((2, 1, 2), names - {"b.wav"} | {"new.wav"})
    monkeypatch.setattr(Embedder, "extract", None)  # nothing is computed again
    assert update() == ((0, 0, 4), names - {"b.wav"} | {"new.wav"})


def test_filters(retriever):
    assert {r.file for r in retriever.search("rain", only="birds/*")} == {
        "birds/c.wav",
        "birds/d.wav",
    }
    assert {r.file for r in retriever.search("rain", only="b.w")} == {"b.wav"}
    assert retriever.search("rain", only="nothing") == []


def test_like_leaves_the_sound_itself_out_and_finds_as_many_as_asked(retriever, folder):
    found = retriever.like(folder / "a.wav", k=3)
    assert {result.file for result in found} == {"b.wav", "birds/c.wav", "birds/d.wav"}
    assert [result.rank for result in found] == [1, 2, 3]


def test_folders_are_searched_as_one(retriever, tmp_path):
    retriever.add(make_folder(tmp_path / "more", ("x.wav", "y.wav")), index=tmp_path / "more index")
    scores = [result.score for result in retriever.search("rain", k=6)]
    assert len(scores) == 6
    assert scores == sorted(scores, reverse=True)


def test_a_query_is_cut_as_captions_are(retriever):
    limit = retriever.embedder.config.text.max_tokens
    words = [f"word{n}" for n in range(2 * limit)]
    whole, cut = retriever.embed_text([" ".join(words), " ".join(words[:limit])]).vectors
    np.testing.assert_allclose(whole, cut, atol=1e-6)


def test_like_finds_the_copy_of_a_sound_first(retriever, folder, tmp_path):
    copy = shutil.copy(folder / "birds" / "c.wav", tmp_path / "elsewhere.wav")
    best = retriever.like(copy, k=2)
    assert best[0].file == "birds/c.wav"
    assert best[0].score == pytest.approx(1, abs=1e-5)
    others = retriever.like(folder / "birds" / "c.wav", k=9)
    assert "birds/c.wav" not in {result.file for result in others}
    assert [result.rank for result in others] == [1, 2, 3]


def test_a_moment_of_a_long_recording_is_found(run, tmp_path):
    quiet = np.random.default_rng(0).normal(0, 0.003, 16_000 * 60).astype("f4")
    sound = tone(1500, 4)
    quiet[16_000 * 42 : 16_000 * 46] += sound
    write_sound(tmp_path / "long" / "hour.wav", quiet)
    write_sound(tmp_path / "beep.wav", sound)
    retriever = Retriever.load(run, window=4, hop=2)
    retriever.add(tmp_path / "long", index=tmp_path / "index")
    (best,) = retriever.like(tmp_path / "beep.wav")
    assert (best.start, best.end) == (42, 46)
    write_sound(tmp_path / "long" / "other.wav", sound)
    retriever.add(tmp_path / "long")
    (same,) = retriever.like(tmp_path / "long" / "hour.wav", moment=(42, 46))
    assert same.file == "other.wav"
    assert same.score > 0.95
    (tmp_path / "long" / "other.wav").unlink()
    whole = Retriever.load(run, window=0)
    whole.add(tmp_path / "long", index=tmp_path / "other")
    (best,) = whole.like(tmp_path / "beep.wav")
    assert (best.start, best.end) == (0, 60)


@given(seconds=st.floats(0.01, 4000), window=st.floats(0.5, 60), hop=st.floats(0.1, 30))
def test_windows_cover_a_recording_and_stay_inside(seconds, window, hop):
    moments = Span(window, min(hop, window)).moments(seconds)
    starts, ends = moments.T
    assert starts[0] == 0
    assert ends[-1] == pytest.approx(seconds)
    assert (starts[1:] <= ends[:-1] + 1e-9).all()
    assert ((ends - starts) <= window + 1e-9).all()


def test_windows_by_hand():
    assert Span(10, 5).moments(22).tolist() == [[0, 10], [5, 15], [10, 20], [12, 22]]
    assert Span(10, 5).moments(10).tolist() == [[0, 10]]
    assert [clock(s) for s in (0, 59.6, 1832, 36_000)] == ["00:00", "01:00", "30:32", "600:00"]


def test_unreadable_recordings_are_left_out_once(run, folder, tmp_path, caplog):
    (folder / "broken.wav").write_bytes(b"RIFF nothing")
    (folder / "empty.flac").write_bytes(b"")
    changes = Retriever.load(run).add(folder, index=tmp_path / "index")
    assert set(changes.unreadable) == {"broken.wav", "empty.flac"}
    assert "broken.wav" in caplog.text
    assert Retriever.load(run).add(folder, index=tmp_path / "index") == (0, 0, 6, {})


def test_mistakes_are_refused(run, folder, tmp_path, retriever):
    (tmp_path / "none").mkdir()
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "x.wav").write_bytes(b"no sound")
    for place in ("missing", "none", "bad"):
        with pytest.raises(DataError, match=place):
            Retriever.load(run).add(tmp_path / place, index=tmp_path / f"index {place}")
    for query in ("", "  "):
        with pytest.raises(UsageError):
            retriever.search(query)
    for wrong in ({"k": 0},):
        with pytest.raises(UsageError):
            retriever.search("rain", **wrong)
    with pytest.raises(UsageError, match=r"r\.add"):
        Retriever.load(run).search("rain")
    with pytest.raises(UsageError, match="missing"):
        Retriever.load(tmp_path / "missing")
    with pytest.raises(UsageError):
        Retriever.load(run, hop=0)
    with pytest.raises(DataError, match="no_such"):
        retriever.like(tmp_path / "no_such.wav")


def test_an_index_of_another_model_is_refused(run, folder, tmp_path):
    Retriever.load(run).add(folder, index=tmp_path / "index")
    other = make_run(tmp_path / "other", seed=1)
    with pytest.raises(UnusableIndexError, match="model"):
        Retriever.load(other).add(folder, index=tmp_path / "index")
    with pytest.raises(UnusableIndexError, match="window"):
        Retriever.load(run, window=3).add(folder, index=tmp_path / "index")
    with pytest.raises(UnusableIndexError, match="folder"):
        Retriever.load(run).add(make_folder(tmp_path / "sounds2"), index=tmp_path / "index")


def test_runs_that_cannot_search_say_so(tmp_path, folder):
    run = make_run(tmp_path / "run")
    torch.save({"state_dict": {}}, run / "trained_model.pth")
    with pytest.raises(CheckpointError):
        Retriever.load(run).search("rain") if Retriever.load(run).add(folder) else None
    text = (run / "config.json").read_text()
    run = make_run(tmp_path / "w2v")
    (run / "config.json").write_text(text.replace('"ngrams"', '"w2v"'))
    with pytest.raises(UsageError, match="word_vectors"):
        Retriever.load(run).embedder  # noqa: B018


def test_a_model_of_experts_that_nothing_computes_is_refused(run, folder, tmp_path, monkeypatch):
    monkeypatch.setattr("audio.extractors.EXTRACTORS", {})
    with pytest.raises(UsageError, match="logmel, modulation"):
        Retriever.load(run).add(folder, index=tmp_path / "index")


def test_a_run_of_other_extractors_is_refused(folder, tmp_path):
    run = make_run(tmp_path / "run")
    records = {name: one.record() for name, one in load(run).extractors.items()}
    write_run_records(run, records)
    Retriever.load(run).add(folder, index=tmp_path / "index")
    write_run_records(run, records | {"logmel": ExtractionRecord("logmel", version=99)})
    (tmp_path / "sounds" / "a.wav").touch()
    with pytest.raises(DataError, match="version 99"):
        Retriever.load(run).add(folder, index=tmp_path / "index")


def test_the_default_model_answers_without_a_run(run, folder, tmp_path, monkeypatch):
    safetensors = pytest.importorskip("safetensors.torch")
    default = tmp_path / "default"
    default.mkdir()
    monkeypatch.setattr("search.load.DEFAULT", default)
    with pytest.raises(UsageError, match="default"):
        Retriever.load()
    shutil.copy(run / "config.json", default)
    state = torch.load(run / "trained_model.pth", weights_only=True)["state_dict"]
    safetensors.save_file(state, default / "trained_model.safetensors")
    found, expected = Retriever.load(), Retriever.load(run)
    np.testing.assert_array_equal(
        found.embed_text("rain").vectors, expected.embed_text("rain").vectors
    )
    (default / "trained_model.safetensors").write_bytes(b"damaged")
    with pytest.raises(DataError, match=r"trained_model\.safetensors"):
        Retriever.load().embed_text("rain")


def test_a_run_keeps_the_record_of_its_text_encoder(tmp_path):
    run = make_run(tmp_path / "run")
    record = {
        "encoder": {"type": "CharacterNgrams"},
        "identity": load(run).encoder.identity,
        "words": 1,
        "dropped": 0,
    }
    (run / "text_encoder.json").write_text(json.dumps(record))
    assert load(run).encoder.identity == record["identity"]
    record["identity"] = {"encoder": "another"}
    (run / "text_encoder.json").write_text(json.dumps(record))
    with pytest.raises(DataError, match=r"text_encoder\.json"):
        load(run)


def test_the_lines_of_the_docs(run, folder, tmp_path):
    """Runs the first Python block of docs/search.md as it stands."""
    (code,) = re.findall(r"```python\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)[:1]
    with working_in(tmp_path):
        Path("RUN").symlink_to(run)
        Path("FOLDER").symlink_to(folder)
        shutil.copy(folder / "a.wav", "FILE.wav")
        names: dict = {}
        exec(compile(code, str(DOCS), "exec"), names)
    assert names["r"].folders == [folder.resolve()]
