"""``python -m ppo_codet5.helpers.assets [NAME ...]``: fetch these, by default what the laptop profile uses."""

import sys

from . import ASSETS, MODELS, AssetError, fetch

names = sys.argv[1:] or [MODELS[0], "minilm", "glove", "wordnet", "tagger"]
if unknown := [name for name in names if name not in ASSETS]:
    sys.exit(f"error: no asset {unknown[0]!r}: there are {', '.join(ASSETS)}")
try:
    fetch(names)
except AssetError as error:
    sys.exit(f"error: {error}")
