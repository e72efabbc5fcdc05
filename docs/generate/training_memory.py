"""The page of what to set so that training fits a card, from the estimates in bench/results/dreambooth-memory.json."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

RESULT = Path(__file__).resolve().parents[2] / "bench" / "results" / "dreambooth-memory.json"
CARDS_GB = (8, 12, 16, 24)
MARGIN = 1.1
"""As `doctor --train` has it."""

WORDS = {
    "nothing": "as it is",
    "gradient_checkpointing = true": "checkpointing",
    'and base_precision = "int8"': "{before}, int8",
    'or base_precision = "nf4"': "checkpointing, nf4",
    "half of the blocks swapped": "half",
    "all blocks swapped": "all",
    'and optimiser.kind = "adamw8bit"': "checkpointing, 8-bit",
    "and optimiser.fused_backward = true, clip = 0": "checkpointing, 8-bit, fused",
    "and sample_every = 0": "{before}, no samples",
    "and resolution = 512": "{before}, 512 pixels",
}
"""What a rung of the ladder is called in a cell, by what is set."""

INTRODUCTION = """\
# What fits a card

What to set in `[train]` so that training fits a GPU of so much memory, from the least change on. **Estimated, not
measured**: by `turbo-fetch doctor --train`, over the published configs of each model, in bf16, for a batch of one
image without class images, with samples, at the resolution of the family and without training text encoders. A cell
has the estimated peak in GB of 10⁹ bytes; it is said to fit if a tenth more is there. The estimate was 4 to 10 %
below what others measured on GPUs, see [Memory](training.md#memory). For your own spec, machine, and class images,
which double a batch, ask `doctor --train`.

"""

LEGEND = """
| In the table | In the spec |
|---|---|
| as it is | |
| checkpointing | `gradient_checkpointing = true` |
| int8, nf4 | `base_precision = "int8"`, `"nf4"` |
| half, all | checkpointing, and `blocks_to_swap` = half or all of the model's blocks, which lie in main memory |
| 8-bit | `optimiser.kind = "adamw8bit"` |
| fused | `optimiser.fused_backward = true`, `optimiser.clip = 0` |
| no samples | `sample_every = 0` |
| 512 pixels | `resolution = 512` |

The text encoders run before the denoiser is loaded, in bf16, and are not quantised: where they alone are too large,
only swapped blocks help, since theirs are swapped too. `full` is left out for models whose weights and smallest
optimiser state, 6 bytes for each number, do not fit 24 GB.
"""


def training_memory_page() -> str:
    """Return the page."""
    models: Mapping[str, Any] = json.loads(RESULT.read_text())["models"]
    header = " | ".join(f"{card} GB" for card in CARDS_GB)
    lines = [f"| Model | `method` | {header} |", "|---" * (2 + len(CARDS_GB)) + "|"]
    for name, model in models.items():
        for method, rungs in model["methods"].items():
            cells = " | ".join(_cell(rungs, card) for card in CARDS_GB)
            key, _, rest = method.partition(",")
            lines.append(f"| {name} | `{key}`{rest} | {cells} |")
    return INTRODUCTION + "\n".join(lines) + "\n" + LEGEND


def _cell(rungs: Sequence[Mapping[str, Any]], card_gb: int) -> str:
    before = ""
    for rung in rungs:
        before = WORDS[rung["set"]].format(before=before)
        peak_gb = max(rung["peaks"].values()) / 1e9
        if peak_gb * MARGIN <= card_gb:
            return f"{before}: {peak_gb:.1f}"
    encode_gb = rungs[-1]["peaks"]["encode"] / 1e9
    if encode_gb * MARGIN > card_gb:
        return f"no: encoding takes {encode_gb:.1f}"
    return f"no: at least {min(max(rung['peaks'].values()) for rung in rungs) / 1e9:.1f}"
