"""Records of extractors, and the refusal to mix them."""

from dataclasses import asdict

import pytest

from utils.errors import DataError
from utils.extraction_record import (
    ExtractionRecord,
    read_record,
    read_run_records,
    record_path,
    refuse_mix,
    write_record,
    write_run_records,
)
from utils.files import write_json

RECORD = ExtractionRecord("vggish", 1, "ab" * 32, {"pca": False})


def test_a_record_comes_back_as_it_was(tmp_path):
    features = tmp_path / "vggish-raw.hickle"
    assert read_record(features) is None
    write_record(features, RECORD)
    assert record_path(features).name == "vggish-raw.hickle.json"
    assert read_record(features) == RECORD


@pytest.mark.parametrize(
    "value",
    [[], {}, {"extractor": 1, "version": 1, "weights_sha256": None, "options": {}},
     {"extractor": "x", "version": True, "weights_sha256": None, "options": {}},
     {"extractor": "x", "version": 1, "weights_sha256": 3, "options": {}},
     {"extractor": "x", "version": 1, "weights_sha256": None, "options": []},
     {**asdict(RECORD), "more": 1}],
)  # fmt: skip
def test_what_is_no_record_is_an_error_naming_the_file(tmp_path, value):
    write_json(tmp_path / "a.pkl.json", value)
    with pytest.raises(DataError, match=r"a\.pkl\.json"):
        read_record(tmp_path / "a.pkl")


@pytest.mark.parametrize(
    "other",
    [
        ExtractionRecord("vggish", 2, "ab" * 32, {"pca": False}),
        ExtractionRecord("vggish", 1, "cd" * 32, {"pca": False}),
        ExtractionRecord("vggish", 1, "ab" * 32, {"pca": True}),
        ExtractionRecord("other", 1, None),
    ],
)
def test_different_extractors_are_refused_and_both_named(other):
    with pytest.raises(DataError) as caught:
        refuse_mix({"audio": RECORD}, {"audio": other}, places=("run.pth", "data/Mine"))
    for part in ("audio", "run.pth", "data/Mine", str(RECORD), str(other)):
        assert part in str(caught.value)


def test_equal_unknown_and_other_experts_pass():
    places = ("a", "b")
    refuse_mix({"audio": RECORD}, {"audio": RECORD}, places=places)
    refuse_mix({"audio": RECORD}, {"audio": None, "vggsound": RECORD}, places=places)
    refuse_mix({"audio": None}, {"audio": RECORD}, places=places)


def test_a_run_keeps_the_records_of_its_experts(tmp_path):
    assert read_run_records(tmp_path) == {}
    write_run_records(tmp_path, {"audio": RECORD, "speech": None})
    assert read_run_records(tmp_path) == {"audio": RECORD}
    write_json(tmp_path / "extractors.json", ["no", "records"])
    with pytest.raises(DataError, match=r"extractors\.json"):
        read_run_records(tmp_path)
