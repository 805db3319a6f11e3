"""Lexicon: tokens that join back to the text, synonyms in the word's own form, one ranking everywhere."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from ppo_codet5.helpers.language import Lexicon, changed_words, tokenize

WORDS = [("find", "VB"), ("list", "NN"), ("numbers", "NNS"), ("returns", "VBZ"), ("largest", "JJS"), ("quickly", "RB")]


def words(text: str) -> list[str]:
    return [token for token, is_word in tokenize(text) if is_word]


@settings(deadline=None)
@example("A\u00bc")
@given(st.text() | st.text(alphabet="ab_1 .-'\"`([\n/:\u2019\u00e9"))
def test_tokens_join_to_the_text_and_words_are_letters(text: str) -> None:
    tokens = tokenize(text)
    assert "".join(token for token, _ in tokens) == text
    assert all(token for token, _ in tokens)
    for word in words(text):
        assert word.replace("-", "").replace("'", "").replace("\u2019", "").isalpha()


def test_what_is_a_word() -> None:
    assert words("Write a function to find the non-empty lists' sum.") == (
        ["Write", "a", "function", "to", "find", "the", "non-empty", "lists", "sum"]
    )
    assert words("I don't sort") == ["I", "don't", "sort"]
    for code in ("remove_Occ", "x", "n", "3rd", "math.sqrt", "TreeNode", "https://example.org/check-sum", "2", "..."):
        assert words(f"see {code} here") == ["see", "here"], code
    assert words("call sum(values) or cost[0]") == ["call", "values", "or"]
    assert words("the word 'hello world' and \"two words\" or `some code` end") == ["the", "word", "and", "or", "end"]
    assert words("the list's end and the lists' start") == ["the", "list's", "end", "and", "the", "lists", "start"]


def test_changed_words_are_found() -> None:
    assert changed_words("Find the largest number.", "Discover the biggest number.") == (
        [("Find", "Discover"), ("largest", "biggest")]
    )
    assert changed_words("a b", "a b") == []
    assert changed_words("one", "one two") == [("", " two")]


def test_tags_follow_the_context(lexicon: Lexicon) -> None:
    text = ["Write", "a", "function", "to", "sort", "the", "given", "list", "of", "2", "largest", "strings", "."]
    assert lexicon.tag(text) == (["VB", "DT", "NN", "TO", "VB", "DT", "VBN", "NN", "IN", "CD", "JJS", "NNS", "."])
    assert lexicon.tag(["A", "sort", "of", "list"])[1] == "NN"
    assert lexicon.tag(["to", "list", "them"])[1] == "VB"
    assert lexicon.tag([]) == []
    assert lexicon.tagger_name.startswith("averaged_perceptron_tagger_eng (")


def test_synonyms_keep_part_of_speech_and_form(lexicon: Lexicon) -> None:
    assert {"discover", "detect", "determine"} <= set(lexicon.synonyms("find", "VB"))
    assert {"discovered", "saw", "got"} <= set(lexicon.synonyms("found", "VBD"))
    assert "established" not in lexicon.synonyms("found", "VBD")  # of the verb "to found"
    assert "discovering" in lexicon.synonyms("finding", "VBG")
    assert {"yields", "gives"} <= set(lexicon.synonyms("returns", "VBZ"))
    assert set(lexicon.synonyms("largest", "JJS")) == {"biggest", "greatest", "heaviest"}
    assert lexicon.synonyms("bigger", "JJR")[0] == "larger"
    assert "chains" in lexicon.synonyms("strings", "NNS") and "chain" in lexicon.synonyms("string", "NN")
    assert "rapidly" in lexicon.synonyms("quickly", "RB")
    assert "indices" not in lexicon.synonyms("indexes", "NNS")
    for word, tag in WORDS:
        assert word not in lexicon.synonyms(word, tag)
        assert all(synonym.isalpha() and synonym.islower() for synonym in lexicon.synonyms(word, tag))


def test_synonyms_take_the_words_capitals(lexicon: Lexicon) -> None:
    lower = lexicon.synonyms("find", "VB")
    assert lexicon.synonyms("Find", "VB") == tuple(word.capitalize() for word in lower)
    assert lexicon.synonyms("FIND", "VB") == tuple(word.upper() for word in lower)


@pytest.mark.parametrize(
    ("word", "tag"),
    [("the", "DT"), ("Python", "NNP"), ("7", "CD"), ("zzqx", "NN"), ("given", "VB"), (".", "."), ("", "NN")],
)
def test_words_without_synonyms(lexicon: Lexicon, word: str, tag: str) -> None:
    assert lexicon.synonyms(word, tag) == ()


def test_synonyms_are_ranked_by_cosine(lexicon: Lexicon) -> None:
    for word, tag in WORDS:
        cosines = [lexicon.similarity(word, synonym) for synonym in lexicon.synonyms(word, tag)]
        known = [cosine for cosine in cosines if cosine != 0.0]
        assert known and known == sorted(known, reverse=True)


def test_similarity_is_the_cosine_of_the_vectors(lexicon: Lexicon) -> None:
    assert lexicon.similarity("list", "list") == 1.0
    assert lexicon.similarity("big", "Large") == lexicon.similarity("large", "BIG") > 0.5
    assert lexicon.similarity("large", "big") > lexicon.similarity("large", "teapot")
    assert lexicon.similarity("list", "zzqxzzqx") == 0.0


def test_own_vectors_rank_the_synonyms(tmp_path: Path, lexicon: Lexicon) -> None:
    from gensim.models import KeyedVectors

    vectors = KeyedVectors(vector_size=2)
    vectors.add_vectors(
        ["find", "rule", "witness", "notice"], np.array([[1, 0], [1, 0.1], [1, 0.2], [-1, 0]], dtype=np.float32)
    )
    vectors.save(str(tmp_path / "vectors.kv"))
    own = Lexicon(word_vectors=str(tmp_path / "vectors.kv"))
    ranked = own.synonyms("find", "VB")
    assert ranked[:3] == ("rule", "witness", "notice")
    assert list(ranked[3:]) == sorted(ranked[3:])  # no vector: last, in alphabetical order
    assert set(ranked) == set(lexicon.synonyms("find", "VB"))


def test_stop_words(lexicon: Lexicon) -> None:
    assert lexicon.is_stop_word("the") and lexicon.is_stop_word("The") and lexicon.is_stop_word("find")
    assert not lexicon.is_stop_word("list")


def test_the_same_in_another_process(lexicon: Lexicon) -> None:
    code = f"""if True:
        from ppo_codet5.helpers.language import Lexicon
        lexicon = Lexicon()
        print([lexicon.synonyms(word, tag) for word, tag in {WORDS!r}])
    """
    env = {**os.environ, "PYTHONHASHSEED": "12345", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == repr([lexicon.synonyms(word, tag) for word, tag in WORDS])
    assert done.stderr == ""
