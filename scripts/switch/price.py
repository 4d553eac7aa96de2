"""What the questions of a receipt would cost at the list price of other models."""

import json
import sys
from pathlib import Path

from overt import chat, prices, settings

receipt, *models = sys.argv[1:]
totals = json.loads(Path(receipt).read_text())["totals"]
usage = chat.Usage(totals["tokens_in"], totals["tokens_out"])
for model in models:
    found = prices.cost(model, usage, settings.load())
    cost = "unknown" if found.usd is None else f"${found.usd:.4f}"
    print(f"{model:27} {cost}  {found.source}, {found.day}")
