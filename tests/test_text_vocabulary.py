"""A vocabulary made from captions spells every caption without an unknown word."""

from hypothesis import given
from hypothesis import strategies as st

from text.vocabulary import vocabulary_of, write_vocabulary
from text.wordpiece import WordPieces

CAPTIONS = ["a dog barks", "a Dog", "a bell rings", "café"]


def test_common_words_are_whole_and_come_first():
    pieces = vocabulary_of(CAPTIONS)
    assert pieces[:4] == ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    words = [piece for piece in pieces if len(piece) > 1 and piece[0] not in "[#"]
    assert words == ["dog", "barks", "bell", "cafe", "rings"]
    assert len(pieces) == len(set(pieces))


def test_rare_words_are_spelt(tmp_path):
    assert write_vocabulary(tmp_path / "vocab.txt", CAPTIONS, least=2) == len(
        vocabulary_of(CAPTIONS, least=2)
    )
    vocabulary = WordPieces.read(tmp_path / "vocab.txt")
    assert vocabulary.pieces("dog bell") == ["dog", "b", "##e", "##l", "##l"]


@given(st.lists(st.text(alphabet="abcdé 'X-", max_size=12), max_size=5))
def test_no_caption_has_an_unknown_word(captions):
    vocabulary = WordPieces(vocabulary_of(captions, least=2))
    for caption in captions:
        assert "[UNK]" not in vocabulary.pieces(caption)
