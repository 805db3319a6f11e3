"""``python -m ppo_codet5.helpers.assets [MODEL ...]``: fetch these models and what every profile needs beside them."""

import sys

from . import MODELS, AssetError, fetch_all

try:
    fetch_all(sys.argv[1:] or MODELS[:1])
except AssetError as error:
    sys.exit(f"error: {error}")
