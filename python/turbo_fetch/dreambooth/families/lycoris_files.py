"""LoKr (arXiv 2309.14859) and LoHa (arXiv 2108.06098) in files, with the names that LyCORIS gave their parts.

diffusers does not read them, so what is read is added to the weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import torch
from torch import Tensor

from turbo_fetch.errors import ModelError

LOKR: Final = ("lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2")
LOHA: Final = ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2")
PARTS: Final = (*LOKR, *LOHA)
"""Parts of a module, as peft names them too."""
ALPHA: Final = "alpha"


def is_lycoris(keys: Mapping[str, Any]) -> bool:
    """Return whether weights by their names are of a LoKr or LoHa."""
    return any(key.rpartition(".")[2] in PARTS for key in keys)


def stored_parts(parts: Mapping[str, Tensor], alpha: float, rank: int) -> dict[str, Tensor]:
    """Return the parts of a module that peft trained as files hold them, with their alpha.

    Of a LoKr whose factors are both whole, readers find no rank and no scale, so that it is put into the first.
    """
    if "lokr_w1" in parts and "lokr_w2" in parts:
        scaled = parts["lokr_w1"] * (alpha / rank)
        return {**parts, "lokr_w1": scaled, ALPHA: torch.tensor(float(rank))}
    return {**parts, ALPHA: torch.tensor(float(alpha))}


def weight_change(parts: Mapping[str, Tensor], shape: Sequence[int]) -> Tensor:
    """Return what the parts of a module in a file add to its weight, which has this shape. Raises ModelError."""
    known = {name: part.float() for name, part in parts.items()}
    unknown = sorted(known.keys() - {*PARTS, ALPHA})
    if unknown:
        raise ModelError(f"has {', '.join(unknown)}; expected the parts of a LoKr or LoHa alone")
    try:
        change, rank = _hadamard(known) if "hada_w1_a" in known else _kronecker(known)
        # Without a rank, both factors are whole and nothing is scaled.
        scale = float(known[ALPHA]) / rank if ALPHA in known and rank else 1.0
        return scale * change.reshape(tuple(shape))
    except (KeyError, RuntimeError) as error:
        shapes = ", ".join(f"{name} {tuple(part.shape)}" for name, part in sorted(known.items()))
        raise ModelError(f"has {shapes}, which do not make a weight of {tuple(shape)}") from error


def _hadamard(parts: Mapping[str, Tensor]) -> tuple[Tensor, int]:
    """Return the product of two low-rank matrices, element by element, and their rank."""
    first = _factor(parts["hada_w1_a"], parts["hada_w1_b"], parts.get("hada_t1"))
    second = _factor(parts["hada_w2_a"], parts["hada_w2_b"], parts.get("hada_t2"))
    return first * second, len(parts["hada_w1_b"])


def _kronecker(parts: Mapping[str, Tensor]) -> tuple[Tensor, int]:
    """Return the Kronecker product of two factors, and the rank of the one that has one; 0 if both are whole."""
    rank = 0
    factors = []
    for name in ("lokr_w1", "lokr_w2"):
        if name in parts:
            factors.append(parts[name])
        else:
            rank = len(parts[f"{name}_b"])
            core = parts.get("lokr_t2") if name == "lokr_w2" else None
            factors.append(_factor(parts[f"{name}_a"], parts[f"{name}_b"], core))
    first, second = factors
    return torch.kron(first.reshape(*first.shape, *[1] * (second.ndim - 2)), second), rank


def _factor(left: Tensor, right: Tensor, core: Tensor | None) -> Tensor:
    """Return a matrix of low rank, or a kernel [out, in, h, w] by Tucker's decomposition if there is a core."""
    return left @ right if core is None else torch.einsum("ij...,ip,jr->pr...", core, left, right)
