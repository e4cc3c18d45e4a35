"""Digests as words."""

import hashlib
import itertools
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitnet.release.words import WORDS_THREE, WORDS_TWO, group_hex, to_words, words_to_bytes

# SHA-256 of each list: whoever changes a word changes what printed sheets mean.
DIGESTS = {
    "two": "876fe0fe4e3c2081cbd2faaa8bcae910da30491ca1bcaae5f93b2f289b169c38",
    "three": "9ee0d34a24b3296047144f87949cbe3d580d178555004244f520bfae6a2217fa",
}


@pytest.mark.parametrize(("name", "words"), [("two", WORDS_TWO), ("three", WORDS_THREE)])
def test_word_list_any_is_complete_and_unchanged(name: str, words: tuple[str, ...]) -> None:
    """Paper sheets outlive versions of this package."""
    assert len(words) == len(set(words)) == 256
    assert list(words) == sorted(words)
    assert all(re.fullmatch("[a-z]{4,12}", word) for word in words)
    assert hashlib.sha256(" ".join(words).encode()).hexdigest() == DIGESTS[name]


def test_word_lists_have_nothing_in_common_and_no_near_spellings() -> None:
    """A word heard wrongly must not be another word of the list."""
    assert not set(WORDS_TWO) & set(WORDS_THREE)
    for words in (WORDS_TWO, WORDS_THREE):
        assert len({word[:4] for word in words}) == 256
        for one, other in itertools.pairwise(words):
            assert one[:4] != other[:4]


@given(st.binary(max_size=64))
def test_words_any_are_read_back(data: bytes) -> None:
    """What is read over the telephone must name one digest."""
    assert words_to_bytes(to_words(data)) == data


def test_words_exchanged_or_left_out_are_noticed() -> None:
    """The two lists alternate for this."""
    words = to_words(hashlib.sha384(b"").digest())
    assert words_to_bytes([words[1], words[0], *words[2:]]) is None
    assert words_to_bytes(words[:5] + words[6:]) is None


def test_hex_groups_hold_every_digit() -> None:
    """A digit that is not shown is not compared."""
    digest = hashlib.sha384(b"").hexdigest()
    assert "".join(group_hex(digest)) == digest
    assert len(group_hex(digest)) == 12
