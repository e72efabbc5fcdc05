"""Frozen matrices held in 8 or 4 bits: less of the card under a LoRA, which learns beside them in fp32.

Matrix by matrix, each already on its device, so that neither main memory nor the card holds the whole twice. Weights
become the same bits each time, so that a run resumes exactly. They compute in the type that autocast would have any
matrix compute in, and nothing but the few bits is kept for the way back.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Final, Literal

import torch
from torch import Tensor, nn

from turbo_fetch.errors import MissingExtra

Quantisation = Literal["int8", "fp8", "nf4"]

PACKAGES: Final[Mapping[Quantisation, str]] = {"int8": "torchao", "fp8": "torchao", "nf4": "bitsandbytes"}
"""Which package holds weights so."""
_TORCHAO: Final[Mapping[Quantisation, str]] = {
    "int8": "Int8WeightOnlyConfig",
    "fp8": "Float8WeightOnlyConfig",
}
_NF4_BLOCK: Final = 64
"""Numbers that share a scale."""


def check_quantisation(kind: Quantisation | Literal["auto"]) -> None:
    """Refuse what this installation cannot hold weights as; `auto` is always there. Raises MissingExtra."""
    if kind != "auto" and find_spec(PACKAGES[kind]) is None:
        raise MissingExtra(PACKAGES[kind], "quantised", f"train.base_precision = {kind!r}")


def quantise(
    module: nn.Module, kind: Quantisation, device: torch.device, back: Collection[nn.Module] = ()
) -> None:
    """Hold the frozen matrices of a module, which go to `device`, in fewer bits; the rest stays as it is.

    Those in `back` return to main memory.
    """
    for owner, name, linear in list(frozen_matrices(module)):
        linear.to(device)
        held = _as_nf4(linear) if kind == "nf4" else _with_torchao(linear, kind)
        setattr(owner, name, held.to("cpu") if linear in back else held)


def frozen_matrices(module: nn.Module) -> Iterator[tuple[nn.Module, str, nn.Linear]]:
    """Yield each frozen matrix with the module and the name under which it is found.

    Those outside of the repeated blocks, as time and output, are few, and what they do to a result is much.
    """
    for name, linear in module.named_modules():
        parents = [module.get_submodule(name[: place.start()]) for place in re.finditer(r"\.", name)]
        is_repeated = any(isinstance(parent, nn.ModuleList) for parent in parents)
        if type(linear) is nn.Linear and is_repeated and not linear.weight.requires_grad:
            yield parents[-1], name.rpartition(".")[2], linear


def bytes_saved(module: nn.Module, kind: Quantisation) -> dict[int, int]:
    """Return how many bytes less each matrix of a module takes once it is quantised, by its `id`."""
    weights = {id(linear.weight): linear.weight for _, _, linear in frozen_matrices(module)}
    return {key: weight.nbytes - _quantised_bytes(weight, kind) for key, weight in weights.items()}


def _quantised_bytes(weight: torch.Tensor, kind: Quantisation) -> int:
    if kind == "nf4":
        # A byte is the scale of a block.
        return weight.numel() // 2 + weight.numel() // _NF4_BLOCK
    return weight.numel() + len(weight) * weight.element_size()


def _as_nf4(linear: nn.Linear) -> nn.Module:
    from bitsandbytes.nn.modules import Linear4bit, Params4bit

    made: Any = Linear4bit(
        linear.in_features,
        linear.out_features,
        bias=linear.bias is not None,
        compute_dtype=linear.weight.dtype,
        quant_type="nf4",
        device="meta",
    )
    made.weight = Params4bit(linear.weight.data, requires_grad=False, quant_type="nf4", module=made)
    made.bias = linear.bias
    made.register_forward_pre_hook(_as_computed)
    # Quantised on the way to its device.
    quantised: nn.Module = made.to(linear.weight.device)
    return quantised


def _as_computed(_linear: nn.Module, given: tuple[Tensor]) -> tuple[Tensor]:
    # bitsandbytes would give its result the type of what it is given, which autocast leaves in fp32 after a norm.
    return (given[0].to(_computed_type(given[0])),)


def _with_torchao(linear: nn.Linear, kind: Quantisation) -> nn.Module:
    torchao: Any = import_module("torchao.quantization")
    torchao.quantize_(linear, getattr(torchao, _TORCHAO[kind])())
    made = _Quantised(linear.in_features, linear.out_features, bias=False, device="meta")
    made.weight, made.bias = linear.weight.requires_grad_(False), linear.bias
    # torchao has made a cycle of the old one, which would keep the matrix on the card until that is collected.
    linear.register_parameter("weight", None)
    return made


class _Quantised(nn.Linear):
    """A frozen linear map whose matrix is of torchao."""

    def forward(self, given: Tensor) -> Tensor:
        """See torch.nn.Linear."""
        made: Tensor = _Product.apply(given.to(_computed_type(given)), self.weight, self.bias)
        return made


class _Product(torch.autograd.Function):
    """A product with a quantised matrix, which is made whole again on the way back.

    torchao's own keeps it whole until then, with all others of a model, and sums what does not fit fp16 unscaled.
    """

    @staticmethod
    def forward(context: Any, given: Tensor, matrix: Any, bias: Tensor | None) -> Tensor:
        """Return it, plus a frozen bias, in the type of what is given."""
        context.save_for_backward(matrix)
        dtype = given.dtype
        return nn.functional.linear(given, matrix.dequantize(dtype), None if bias is None else bias.to(dtype))

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        """Return the gradient of what was given."""
        (matrix,) = context.saved_tensors
        return gradient @ matrix.dequantize(gradient.dtype), None, None


def _computed_type(given: Tensor) -> torch.dtype:
    kind = given.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else given.dtype
