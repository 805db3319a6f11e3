"""Words and sentences: tags, synonyms and vectors of words (``lexicon.py``), vectors of texts (``embedding.py``)."""

from .embedding import Embedder
from .lexicon import Lexicon, changed_words, tokenize

__all__ = ["Embedder", "Lexicon", "changed_words", "tokenize"]
