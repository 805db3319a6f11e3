"""Words: which part of speech they are, what may stand in their place, and how near two of them are.

What is done with it (which words change, how often) is the method and stands in the notebook.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Sequence
from difflib import SequenceMatcher
from functools import cache, cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from .. import assets

if TYPE_CHECKING:
    from gensim.models import KeyedVectors
    from nltk.corpus.reader.wordnet import Synset, WordNetCorpusReader
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
_WORDNET_FILES = {"n": "noun", "v": "verb", "a": "adj", "r": "adv"}
# What these words mean in a programming task WordNet lists late ("left" is not what remains, a "pair" no duo), so that
# its order of senses says nothing. Which of its synonyms a programmer would use, if any:
_TERMS = {
    "n": {
        **dict.fromkeys(["case", "encoding", "folder", "heap", "mode", "pair", "percent", "perimeter"], ""),
        **dict.fromkeys(["product", "range", "remainder", "sort", "underscore"], ""),
        "answer": "result",
        "beginning": "start",
        "function": "procedure routine subroutine",
        "person": "individual",
        "position": "location place",
        "start": "beginning",
        "sum": "total",
        "total": "sum",
    },
    "v": {
        **dict.fromkeys(["evaluate", "float", "number", "print"], ""),
        "check": "ascertain determine",
        "combine": "merge",
        "contain": "hold",
        "convert": "change",
        "create": "make produce",
        "decide": "determine",
        "join": "connect link",
        "merge": "combine unite",
        "replace": "exchange substitute",
        "return": "give",  # a function that yields is a generator
        "reverse": "invert",
        "split": "divide",
        "subtract": "deduct",
        "swap": "switch",
        "write": "compose",
    },
    "a": {
        **dict.fromkeys(["integral", "left", "magic", "prime", "rational", "total"], ""),
        "consecutive": "successive",
        "great": "big large",
        "large": "big great",
        "near": "close",
    },
    "r": {},
}
# Of all other words: how usual the common sense must be, how near the vectors, and how frequent the synonym.
_LEAST_SHARE = 0.2
_LEAST_COSINE = 0.55
_MOST_RARE = 30_000


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
    looked up in lower case; their words must stand in the order of their frequency, as in the models named. Data is
    fetched and loaded on first use.
    """

    def __init__(self, word_vectors: str = "glove") -> None:
        self.word_vectors = word_vectors
        self._synonyms = lru_cache(maxsize=None)(self._find_synonyms)
        self._direction = lru_cache(maxsize=None)(self._find_direction)
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
        # Rounded, so that a different BLAS does not turn the order of near-equal synonyms.
        return round(float(self._direction(a.lower()) @ self._direction(b.lower())), 5)

    def synonyms(self, word: str, tag: str, context: Sequence[str] = ()) -> tuple[str, ...]:
        """What may stand in place of ``word`` so that a reader understands the same, the best first.

        ``tag``: the word's Penn tag. ``context``: other words of the text. WordNet's synonyms with the same part of
        speech are put into the form that the tag names (plural, past, gerund, comparative ...) and into the word's
        capitals. Left out are phrases, what stands in the context already, forms and derivations of the word (check,
        checker), rare words (letter, missive), those far from it by vector, and those whose sense in common is rare
        for either (convert, commute). Terms of programming have a table of their own, ``_TERMS``.

        The rank is the sum of the cosine with the word, the cosine with the mean of the context's vectors, and how
        usual the common sense is (``_usual``; 1 in the table); ties in alphabetical order. Empty for proper nouns
        and for tags other than nouns, verbs, adjectives and adverbs.
        """
        around = {other.lower() for other in context} - {word.lower()}
        scores = {form: score for form, score in self._synonyms(word.lower(), tag).items() if form not in around}
        if around and len(scores) > 1:
            mean = np.sum([self._direction(other) for other in sorted(around)], axis=0)
            mean /= np.linalg.norm(mean) or 1.0
            scores = {form: round(score + float(self._direction(form) @ mean), 5) for form, score in scores.items()}
        found = sorted(scores, key=lambda form: (-scores[form], form))
        if len(word) > 1 and word.isupper():
            return tuple(synonym.upper() for synonym in found)
        return tuple(synonym.capitalize() if word[:1].isupper() else synonym for synonym in found)

    def _find_synonyms(self, word: str, tag: str) -> dict[str, float]:
        """Synonyms in the form of ``tag``, each with the part of its rank that does not depend on a context."""
        if tag not in _BASE_TAGS | _INFLECTED_TAGS:
            return {}
        pos, universal = _POS[tag[0]]
        found: dict[str, float] = {}
        for lemma in _lemmas(word, tag, universal):
            terms = _TERMS[pos].get(lemma)
            # the reader also tries endings of its own: "class" as plural of "clas"
            senses = [synset for synset in self._wordnet.synsets(lemma, pos) if lemma in synset.lemma_names()]
            for name in sorted({name for synset in senses for name in synset.lemma_names()}):
                cosine = self.similarity(lemma, name)
                if terms is not None:
                    usual = float(name in terms.split())
                elif cosine >= _LEAST_COSINE and self._may_replace(name, lemma):
                    common = (synset for synset in senses if name in synset.lemma_names())
                    usual = sum(self._usual(lemma, synset) * self._usual(name, synset) for synset in common)
                else:
                    usual = 0.0
                form = self._inflect(name, tag) if usual >= _LEAST_SHARE else ""
                if form and form != word:
                    found[form] = round(cosine + usual, 5)
        return found

    def _may_replace(self, name: str, lemma: str) -> bool:
        """Whether a lemma is a frequent word, not of the same stem."""
        # no phrases ("single_valued_function"), names ("Python"), abbreviations ("a.k.a."), nor "as" for "equally"
        plain = name.isalpha() and name.islower() and not self.is_stop_word(name)
        return plain and not _akin(name, lemma) and self._order(name) < _MOST_RARE

    def _usual(self, lemma: str, synset: Synset) -> float:
        """How likely a lemma is used in a sense, in [0, 1]: by Zipf's law over the senses seen in tagged text.

        WordNet lists the senses in the order of their counts in tagged text, and says how many were seen there at
        all. (The counts themselves are in a file that not every copy of WordNet has.)
        """
        pos = synset.pos().replace("s", "a")  # satellite adjectives
        rank = 1 + self._wordnet.synsets(lemma, pos).index(synset)
        seen = self._seen[pos].get(lemma, 1)
        return 1 / rank / sum(1 / n for n in range(1, seen + 1)) if rank <= seen else 0.0

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

    def _find_direction(self, word: str) -> npt.NDArray[np.float64]:
        """The word's vector at length 1; zeros if it has none."""
        if word not in self._vectors:
            return np.zeros(self._vectors.vector_size)
        vector = self._vectors[word].astype(np.float64)
        return vector / (np.linalg.norm(vector) or 1.0)

    def _find_tags(self, words: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(tag for _, tag in self._tagger.tag(list(words)))

    @cached_property
    def _tagger(self) -> PerceptronTagger:
        return _load_tagger(assets.perceptron_tagger())

    @cached_property
    def _wordnet(self) -> WordNetCorpusReader:
        return _load_wordnet(assets.wordnet())

    @cached_property
    def _seen(self) -> dict[str, dict[str, int]]:
        return _load_seen(assets.wordnet())

    @cached_property
    def _vectors(self) -> KeyedVectors:
        from gensim.models import KeyedVectors

        return KeyedVectors.load(str(assets.word_vectors(self.word_vectors)), mmap="r")


# Seconds each: once for all lexicons of a process.


@cache
def _load_tagger(folder: Path) -> PerceptronTagger:
    from nltk.tag.perceptron import PerceptronTagger

    parts = (
        json.loads((folder / f"averaged_perceptron_tagger_eng.{part}.json").read_text(encoding="utf-8"))
        for part in ("weights", "tagdict", "classes")
    )
    tagger = PerceptronTagger(load=False)
    tagger.decode_json_params(parts)
    return tagger


@cache
def _load_wordnet(folder: Path) -> WordNetCorpusReader:
    import nltk
    from nltk.corpus.reader.wordnet import WordNetCorpusReader

    if (data := str(folder.parent.parent)) not in nltk.data.path:
        nltk.data.path.append(data)  # NLTK refuses to read files that are not under its data path

    class EnglishWordNet(WordNetCorpusReader):
        def map_wn(self, version: str = "wordnet") -> None:
            """No mapping to other languages' wordnets: building it takes seconds and files we have no use for."""

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The multilingual functions are not available")
        return EnglishWordNet(str(folder), None)


@cache
def _load_seen(folder: Path) -> dict[str, dict[str, int]]:
    """By part of speech and lemma, how many of its senses were seen in tagged text, if that is more than one."""
    seen: dict[str, dict[str, int]] = {}
    for pos, name in _WORDNET_FILES.items():
        lines = (folder / f"index.{name}").read_text(encoding="utf-8").splitlines()
        # wndb(5WN): lemma, pos, synset_cnt, ..., tagsense_cnt, and as many offsets as there are synsets
        fields = (line.split() for line in lines if not line.startswith(" "))  # a licence on top
        counts = ((field[0], int(field[-1 - int(field[2])])) for field in fields)
        seen[pos] = {lemma: count for lemma, count in counts if count > 1}
    return seen


def _is_word(match: re.Match[str]) -> bool:
    word = match["word"] or ""
    letters = word.translate(_JOINERS).isalpha()  # to "re", signs such as ½ are letters too
    return letters and (len(word) > 1 or word in "aAI") and not _CAMEL_CASE.match(word)


def _lemmas(word: str, tag: str, universal: str) -> list[str]:
    """Dictionary forms whose form for ``tag`` is ``word``: "found" as VBD is "find", not the verb "to found"."""
    from lemminflect import getInflection, getLemma

    lemmas = [lemma.lower() for lemma in getLemma(word, universal) if lemma]  # of the adjective "er" it is ""
    return [lemma for lemma in lemmas if word in getInflection(lemma, tag)]


def _akin(a: str, b: str) -> bool:
    """Whether two words have a stem in common: one holds the other, or all letters but one of the shorter agree."""
    stem = min(len(a), len(b)) - 1
    return a in b or b in a or a[:stem] == b[:stem]
