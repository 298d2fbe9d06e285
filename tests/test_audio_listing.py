"""Which sounds there are: folders and tables, as spreadsheets write them."""

import pytest

from audio.listing import column_of, list_sounds, read_table
from utils.errors import DataError


def make(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def test_a_folder_is_searched_to_its_depths(tmp_path):
    make(tmp_path, "b.WAV", "a b/ä 音.ogg", "a b/c/d.mp3", "movie.m4a", "notes.txt", ".hidden.wav")
    make(tmp_path, ".cache/e.wav", "index.csv")
    found = list_sounds(tmp_path)
    assert [sound.name for sound in found] == ["a b/c/d.mp3", "a b/ä 音.ogg", "b.WAV", "movie.m4a"]
    assert all(sound.path == tmp_path / sound.name for sound in found)


def test_links_to_folders_are_not_followed(tmp_path):
    make(tmp_path, "a.wav")
    (tmp_path / "again").symlink_to(tmp_path)
    assert [sound.name for sound in list_sounds(tmp_path)] == ["a.wav"]


@pytest.mark.parametrize("content", ["", "no sounds here"])
def test_a_folder_without_sounds_is_an_error(tmp_path, content):
    if content:
        (tmp_path / "notes.txt").write_text(content)
    with pytest.raises(DataError, match=tmp_path.name):
        list_sounds(tmp_path)


@pytest.mark.parametrize("name", ["back\\slash.wav", "line\nbreak.wav"])
def test_names_that_no_list_can_hold_are_refused(tmp_path, name):
    make(tmp_path, name)
    with pytest.raises(DataError, match="rename"):
        list_sounds(tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        "file,caption\na.wav,x\nb/c.wav,\n",
        "\ufefffile,caption\r\na.wav,x\r\nb/c.wav,y\r\n",
        'caption,FILE\n"a, ""quoted""\nline",a.wav\ny,b/c.wav\n',
        "file;caption\na.wav;x\nb/c.wav;y",
        "file\na.wav\n\nb/c.wav\n\n",
    ],
    ids=["plain", "spreadsheet", "quotes", "semicolons", "blank lines"],
)
def test_a_table_names_the_sounds_beside_it(tmp_path, text):
    (tmp_path / "index.csv").write_bytes(text.encode())
    found = list_sounds(tmp_path / "index.csv")
    assert [(s.name, s.path) for s in found] == [
        ("a.wav", tmp_path / "a.wav"),
        ("b/c.wav", tmp_path / "b/c.wav"),
    ]


def test_fields_keep_what_quotes_hold(tmp_path):
    path = tmp_path / "t.csv"
    path.write_bytes('\ufefffile,caption\r\na.wav,"Ein ""Hund"", bellt\r\nzweimal"\r\n'.encode())
    table = read_table(path)
    assert table.columns == ["file", "caption"]
    assert table.rows == [(2, ["a.wav", 'Ein "Hund", bellt\r\nzweimal'])]
    assert column_of(table, "caption", path) == 1


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"name,caption\na.wav,x\n",
        b"file,file\na.wav,b.wav\n",
        b"file,caption\n",
        b"file,caption\na.wav,x\na.wav,y\n",
        b"file,caption\n,x\n",
        b"file,caption\n/etc/a.wav,x\n",
        b"file,caption\n../a.wav,x\n",
        b"file,caption\na.wav,x, y\n",
        b'file,caption\na.wav,"x\n',
        "file,caption\nä.wav,x\n".encode("latin-1"),
        "file\na.wav\n".encode("utf-16"),
    ],
)
def test_a_table_that_cannot_be_meant_is_an_error_naming_it(tmp_path, content):
    (tmp_path / "t.csv").write_bytes(content)
    with pytest.raises(DataError, match=r"t\.csv"):
        list_sounds(tmp_path / "t.csv")


def test_neither_folder_nor_table(tmp_path):
    make(tmp_path, "a.wav")
    for place in (tmp_path / "a.wav", tmp_path / "missing"):
        with pytest.raises(DataError, match=place.name):
            list_sounds(place)
