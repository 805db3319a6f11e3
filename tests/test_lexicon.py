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
from ppo_codet5.helpers import language
from ppo_codet5.helpers.language import Lexicon, changed_words, tokenize

WORDS = [
    ("function", "NN"), ("children", "NNS"), ("check", "VB"), ("returns", "VBZ"), ("largest", "JJS"), ("possibly", "RB")
]  # fmt: skip


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
    assert set(lexicon.synonyms("check", "VB")) == {"ascertain", "determine"}
    assert lexicon.synonyms("returns", "VBZ") == ("gives",)  # not "yields", which makes a generator
    assert lexicon.synonyms("returned", "VBN") == ("given",)
    assert lexicon.synonyms("calculating", "VBG") == ("computing",)
    assert set(lexicon.synonyms("chosen", "VBN")) == {"opted", "selected"}
    assert "established" not in lexicon.synonyms("found", "VBD")  # of the verb "to found"
    assert set(lexicon.synonyms("largest", "JJS")) == {"biggest", "greatest"}
    assert lexicon.synonyms("bigger", "JJR") == ("larger",)
    assert set(lexicon.synonyms("functions", "NNS")) == {"procedures", "routines", "subroutines"}
    assert "kids" in lexicon.synonyms("children", "NNS")
    assert set(lexicon.synonyms("possibly", "RB")) == {"maybe"}  # "perhaps" is a stop word
    for word, tag in WORDS:
        assert lexicon.synonyms(word, tag)
        assert word not in lexicon.synonyms(word, tag)
        assert all(synonym.isalpha() and synonym.islower() for synonym in lexicon.synonyms(word, tag))


@pytest.mark.parametrize(
    ("word", "tag", "other"),
    [
        ("check", "VB", "checker"),  # a derivation
        ("return", "VB", "regress"),  # rare senses of one or the other
        ("convert", "VB", "commute"),
        ("check", "VB", "control"),
        ("calculate", "VB", "estimate"),
        ("price", "NN", "damage"),
        ("letter", "NN", "missive"),  # rare words
        ("buses", "NNS", "charabancs"),
        ("seats", "NNS", "posteriors"),  # far by vector
        ("string", "NN", "chain"),  # terms of programming
        ("list", "NN", "listing"),
        ("product", "NN", "merchandise"),
    ],
)
def test_synonyms_that_a_reader_would_not_take(lexicon: Lexicon, word: str, tag: str, other: str) -> None:
    pos = {"N": "n", "V": "v"}[tag[0]]
    base = {"buses": "bus", "seats": "seat", "charabancs": "charabanc", "posteriors": "posterior"}
    synsets = lexicon._wordnet.synsets(base.get(word, word), pos)
    assert any(base.get(other, other) in synset.lemma_names() for synset in synsets)  # WordNet does offer it
    assert other not in lexicon.synonyms(word, tag)


def test_the_table_of_terms_names_synonyms_of_wordnet_only(lexicon: Lexicon) -> None:
    for pos, terms in language.lexicon._TERMS.items():
        for lemma, names in terms.items():
            offered = {name for synset in lexicon._wordnet.synsets(lemma, pos) for name in synset.lemma_names()}
            assert set(names.split()) <= offered, lemma
            assert set(lexicon.synonyms(lemma, {"n": "NN", "v": "VB", "a": "JJ"}[pos])) == set(names.split())


def test_the_same_term_in_any_form_is_fixed(lexicon: Lexicon) -> None:
    for word, tag in [("string", "NN"), ("strings", "NNS"), ("String", "NN"), ("multiplying", "VBG"), ("odd", "JJ")]:
        assert lexicon.synonyms(word, tag) == ()


def test_how_usual_a_sense_is(lexicon: Lexicon) -> None:
    synsets = lexicon._wordnet.synsets("letter", "n")  # five senses, two of them seen in tagged text
    assert [round(lexicon._usual("letter", synset), 2) for synset in synsets] == [0.67, 0.33, 0, 0, 0]
    assert lexicon._usual("missive", synsets[0]) == 1.0  # its only one


def test_the_context_ranks_and_keeps_words_apart(lexicon: Lexicon) -> None:
    alone = lexicon.synonyms("function", "NN")
    assert alone == ("procedure", "routine", "subroutine")
    assert lexicon.synonyms("function", "NN", ["recursive"]) == ("procedure", "subroutine", "routine")
    assert lexicon.synonyms("function", "NN", ["function"]) == alone
    assert "greatest" not in lexicon.synonyms("largest", "JJS", ["the", "Greatest"])
    assert lexicon.synonyms("check", "VB", ["zzqx"]) == lexicon.synonyms("check", "VB")


def test_synonyms_take_the_words_capitals(lexicon: Lexicon) -> None:
    lower = lexicon.synonyms("check", "VB")
    assert lexicon.synonyms("Check", "VB") == tuple(word.capitalize() for word in lower)
    assert lexicon.synonyms("CHECK", "VB") == tuple(word.upper() for word in lower)


@pytest.mark.parametrize(
    ("word", "tag"),
    [
        ("the", "DT"),
        ("Python", "NNP"),
        ("7", "CD"),
        ("zzqx", "NN"),
        ("given", "VB"),
        (".", "."),
        ("", "NN"),
        ("er", "JJR"),
    ],
)
def test_words_without_synonyms(lexicon: Lexicon, word: str, tag: str) -> None:
    assert lexicon.synonyms(word, tag) == ()


def test_similarity_is_the_cosine_of_the_vectors(lexicon: Lexicon) -> None:
    assert lexicon.similarity("list", "list") == 1.0
    assert lexicon.similarity("big", "Large") == lexicon.similarity("large", "BIG") > 0.5
    assert lexicon.similarity("large", "big") > lexicon.similarity("large", "teapot")
    assert lexicon.similarity("list", "zzqxzzqx") == 0.0


def test_own_vectors_rank_the_synonyms(tmp_path: Path) -> None:
    from gensim.models import KeyedVectors

    vectors = KeyedVectors(vector_size=2)
    rows = {"function": [1, 0], "routine": [1, 0.5], "procedure": [1, 0.1], "code": [0, 1], "choose": [1, 0]}
    vectors.add_vectors(list(rows), np.array(list(rows.values()), dtype=np.float32))
    vectors.save(str(tmp_path / "vectors.kv"))
    own = Lexicon(word_vectors=str(tmp_path / "vectors.kv"))
    assert own.synonyms("function", "NN") == ("procedure", "routine", "subroutine")  # the last has no vector
    assert own.synonyms("function", "NN", ["code"])[0] == "routine"
    assert own.synonyms("choose", "VB") == ()  # "select" has none: not known to be near


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
