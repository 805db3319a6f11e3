"""Words: which part of speech they are, what may stand in their place, and how near two of them are.

What is done with it (which words change, how often) is the method and stands in the notebook.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Sequence
from difflib import SequenceMatcher
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING

from .. import assets

if TYPE_CHECKING:
    from gensim.models import KeyedVectors
    from nltk.corpus.reader.wordnet import WordNetCorpusReader
    from nltk.tag.perceptron import PerceptronTagger

_TOKEN = re.compile(
    r"""
    (?<!\w)(?P<quote>['"`]) (?=\S) [^\n]*? (?<=\S)(?P=quote) (?!\w)      # quoted text, on one line
    | \w+ :// \S+ | \w+ (?: [.]\w+ )+                                     # a web address; math.sqrt, 2.5
    | (?P<word> [^\W\d_]+ (?: [-'\u2019][^\W\d_]+ )* ) (?! [\w(\[] )      # list, non-empty; not sum( or cost[
    | \w+ | \s+ | [^\w\s]
    """,
    re.VERBOSE,
)
_JOINERS = dict.fromkeys(map(ord, "-'\u2019"))
_CAMEL_CASE = re.compile(r"[^\W\d_]*[a-z][A-Z]")
# First letter of a Penn tag -> WordNet's part of speech (adjectives include satellites) and lemminflect's.
_POS = {"N": ("n", "NOUN"), "V": ("v", "VERB"), "J": ("a", "ADJ"), "R": ("r", "ADV")}
_BASE_TAGS = frozenset({"NN", "VB", "VBP", "JJ", "RB"})
_INFLECTED_TAGS = frozenset({"NNS", "VBD", "VBG", "VBN", "VBZ", "JJR", "JJS", "RBR", "RBS"})


def tokenize(text: str) -> list[tuple[str, bool]]:
    """Cut ``text`` into (token, is_word) pairs; the tokens joined give ``text`` back, character by character.

    A word is letters alone, with inner hyphens and apostrophes. Not words: spaces, punctuation, numbers, single
    letters other than "a" and "I", quoted text (one token, with its quotes), web addresses, and what looks like
    code: names with digits, underscores, dots or inner capitals, and names right before "(" or "[".
    """
    return [(match[0], _is_word(match)) for match in _TOKEN.finditer(text)]


def changed_words(original: str, mutant: str) -> list[tuple[str, str]]:
    """The stretches in which two texts differ, as (before, after) pairs in order of appearance."""
    before, after = ([token for token, _ in tokenize(text)] for text in (original, mutant))
    matcher = SequenceMatcher(a=before, b=after, autojunk=False)
    return [
        ("".join(before[i:j]), "".join(after[k:m])) for kind, i, j, k, m in matcher.get_opcodes() if kind != "equal"
    ]


class Lexicon:
    """Part-of-speech tags, WordNet synonyms and word vectors. Deterministic; everything is cached per word.

    ``word_vectors``: ``"glove"``, the path of a saved gensim ``KeyedVectors``, or the name of a model of
    ``gensim.downloader`` such as ``"fasttext-wiki-news-subwords-300"``; see ``assets.word_vectors``. Vectors are
    looked up in lower case. Data is fetched and loaded on first use.
    """

    def __init__(self, word_vectors: str = "glove") -> None:
        self.word_vectors = word_vectors
        self._synonyms = lru_cache(maxsize=None)(self._find_synonyms)
        self._tags = lru_cache(maxsize=4096)(self._find_tags)

    tokenize = staticmethod(tokenize)

    @property
    def tagger_name(self) -> str:
        """Which tagger and where its weights are from; goes into a run's config."""
        source = assets.perceptron_tagger() / "SOURCE"
        return f"averaged_perceptron_tagger_eng ({source.read_text() if source.exists() else 'NLTK data'})"

    def tag(self, words: Sequence[str]) -> list[str]:
        """Penn Treebank tags of the words and punctuation marks of one text, in order; spaces left out."""
        return list(self._tags(tuple(words)))

    def is_stop_word(self, word: str) -> bool:
        """Whether gensim's list of 337 stop words has the word, in any case."""
        from gensim.parsing.preprocessing import STOPWORDS

        return word.lower() in STOPWORDS

    def similarity(self, a: str, b: str) -> float:
        """Cosine of the vectors of two words, in [-1, 1]; 0 if either has none."""
        a, b = a.lower(), b.lower()
        if a not in self._vectors or b not in self._vectors:
            return 0.0
        # Rounded, so that a different BLAS does not turn the order of near-equal synonyms.
        return round(float(self._vectors.similarity(a, b)), 5)

    def synonyms(self, word: str, tag: str) -> tuple[str, ...]:
        """What WordNet offers in place of ``word``, the nearest by word vector first.

        ``tag``: the word's Penn tag. Lemmas of all senses with the same part of speech, put into the form that the
        tag names (plural, past, gerund, comparative ...) and into the word's capitals; single words only, neither
        the word nor another form of it. Ranked by cosine, words without a vector last, ties in alphabetical order.
        Empty for proper nouns and for tags other than nouns, verbs, adjectives and adverbs.
        """
        found = self._synonyms(word.lower(), tag)
        if len(word) > 1 and word.isupper():
            return tuple(synonym.upper() for synonym in found)
        return tuple(synonym.capitalize() for synonym in found) if word[:1].isupper() else found

    def _find_synonyms(self, word: str, tag: str) -> tuple[str, ...]:
        if tag not in _BASE_TAGS | _INFLECTED_TAGS:
            return ()
        from lemminflect import getAllInflections

        pos, universal = _POS[tag[0]]
        lemmas = _lemmas(word, tag, universal)
        forms = {word, *lemmas}
        for lemma in lemmas:
            forms.update(form for group in getAllInflections(lemma, upos=universal).values() for form in group)
        candidates = {
            name
            for lemma in lemmas
            for synset in self._wordnet.synsets(lemma, pos)
            if lemma in synset.lemma_names()  # the reader also tries endings of its own: "class" as plural of "clas"
            for name in synset.lemma_names()
            # no phrases ("single_valued_function"), names ("Python"), abbreviations ("a.k.a.") or symbols ("n")
            if len(name) > 1 and name.isalpha() and name.islower() and name not in forms
        }
        inflected = {form for name in candidates if (form := self._inflect(name, tag)) and form not in forms}
        return tuple(sorted(inflected, key=lambda form: (-self._rank(word, form), form)))

    def _inflect(self, lemma: str, tag: str) -> str:
        """The form of ``lemma`` for a Penn tag, the most common one if there are several; empty if it has none."""
        if tag in _BASE_TAGS:
            return lemma
        from lemminflect import getInflection

        # Forms in the dictionary only: by rule, "beautiful" would become "beautifulest" and "regalia" "regalias".
        forms = [form for form in getInflection(lemma, tag, inflect_oov=False) if form.isalpha()]
        if tag == "NNS" and lemma in forms:
            # "information", "software": the dictionary allows a plural that nobody writes. Words stand in the
            # order of their frequency in the vectors' vocabulary.
            forms = [form for form in forms if form != lemma and self._order(form) < 20 * self._order(lemma)]
        return min(forms, key=self._order, default="")

    def _order(self, word: str) -> float:
        return self._vectors.key_to_index.get(word, float("inf"))

    def _rank(self, word: str, other: str) -> float:
        return self.similarity(word, other) if other in self._vectors else -2.0  # below every cosine

    def _find_tags(self, words: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(tag for _, tag in self._tagger.tag(list(words)))

    @cached_property
    def _tagger(self) -> PerceptronTagger:
        from nltk.tag.perceptron import PerceptronTagger

        folder = assets.perceptron_tagger()
        parts = (
            json.loads((folder / f"averaged_perceptron_tagger_eng.{part}.json").read_text(encoding="utf-8"))
            for part in ("weights", "tagdict", "classes")
        )
        tagger = PerceptronTagger(load=False)
        tagger.decode_json_params(parts)
        return tagger

    @cached_property
    def _wordnet(self) -> WordNetCorpusReader:
        import nltk
        from nltk.corpus.reader.wordnet import WordNetCorpusReader

        folder = assets.wordnet()
        if (data := str(folder.parent.parent)) not in nltk.data.path:
            nltk.data.path.append(data)  # NLTK refuses to read files that are not under its data path

        class EnglishWordNet(WordNetCorpusReader):
            def map_wn(self, version: str = "wordnet") -> None:
                """No mapping to other languages' wordnets: building it takes seconds and files we have no use for."""

        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The multilingual functions are not available")
            return EnglishWordNet(str(folder), None)

    @cached_property
    def _vectors(self) -> KeyedVectors:
        from gensim.models import KeyedVectors

        return KeyedVectors.load(str(assets.word_vectors(self.word_vectors)), mmap="r")


def _is_word(match: re.Match[str]) -> bool:
    word = match["word"] or ""
    letters = word.translate(_JOINERS).isalpha()  # to "re", signs such as ½ are letters too
    return letters and (len(word) > 1 or word in "aAI") and not _CAMEL_CASE.match(word)


def _lemmas(word: str, tag: str, universal: str) -> list[str]:
    """Dictionary forms whose form for ``tag`` is ``word``: "found" as VBD is "find", not the verb "to found"."""
    from lemminflect import getInflection, getLemma

    return [lemma.lower() for lemma in getLemma(word, universal) if word in getInflection(lemma, tag)]
