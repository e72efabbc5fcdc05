"""What CUDA's autocast does to the types of operations, for tensors that are not on a GPU.

PyTorch's autocast of processors keeps other operations in half precision (normalisations, softmax), so that neither
memory nor types are those of a GPU. The lists are those of PyTorch's documentation, "Autocast Op Reference, CUDA".
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map, tree_map_only

HALF: Final = frozenset({torch.float16, torch.bfloat16})


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


_LOWER: Final = _names(
    """conv1d conv2d conv3d conv_tbc conv_transpose1d conv_transpose2d conv_transpose3d convolution prelu addmm addmv
    addr matmul einsum mm mv linear addbmm baddbmm bmm chain_matmul multi_dot vecdot rmatmul
    scaled_dot_product_attention"""
)
"""Run in the type of autocast."""
_FP32: Final = _names(
    """acos asin cosh erfinv exp expm1 log log10 log2 log1p reciprocal rsqrt sinh tan pow rpow softplus layer_norm
    native_layer_norm group_norm rms_norm cosine_similarity cosine_embedding_loss poisson_nll_loss nll_loss
    hinge_embedding_loss kl_div l1_loss smooth_l1_loss huber_loss mse_loss margin_ranking_loss
    multilabel_margin_loss soft_margin_loss triplet_margin_loss multi_margin_loss dist pdist cdist renorm logsumexp
    binary_cross_entropy_with_logits interpolate prod softmax log_softmax cumprod cumsum vector_norm matrix_norm sum
    norm cross_entropy"""
)
"""Run in fp32."""
_WIDEST: Final = _names(
    """addcdiv addcmul atan2 bilinear cross dot vdot grid_sample grid_sampler index_put tensordot scatter_add"""
)
"""Run in the widest type among their inputs."""


def as_cuda_casts(
    function: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    on_gpu: Callable[[Tensor], bool] = lambda tensor: True,
) -> tuple[tuple[Any, ...], Mapping[str, Any]]:
    """Return the arguments as CUDA's autocast, if it is enabled, would hand them on; `on_gpu` says of which tensors."""
    name = getattr(function, "__name__", "").strip("_").removeprefix("linalg_")
    if not torch.is_autocast_enabled("cuda") or name not in _LOWER | _FP32 | _WIDEST:
        return args, kwargs

    def is_cast(tensor: Tensor) -> bool:
        return tensor.is_floating_point() and tensor.dtype != torch.float64 and on_gpu(tensor)

    dtype = torch.get_autocast_dtype("cuda") if name in _LOWER else torch.float32
    if name in _WIDEST:
        dtype = _widest(args, is_cast)
    elif name in _FP32 and kwargs.get("dtype") is not None:
        return args, kwargs

    def cast(tensor: Tensor) -> Tensor:
        return tensor.to(dtype) if is_cast(tensor) else tensor

    return tree_map_only(Tensor, cast, args), tree_map_only(Tensor, cast, dict(kwargs))


def _widest(args: Iterable[Any], is_cast: Callable[[Tensor], bool]) -> torch.dtype:
    found: list[torch.dtype] = []
    tree_map(
        lambda leaf: found.append(leaf.dtype) if isinstance(leaf, Tensor) and is_cast(leaf) else None, args
    )
    return (
        torch.float32 if torch.float32 in found or len(set(found)) > 1 else next(iter(found), torch.float32)
    )


@contextmanager
def cuda_autocast(dtype: torch.dtype) -> Iterator[None]:
    """While it lasts, operations on tensors of any device have the types of a GPU's under autocast as `dtype`."""
    before = torch.is_autocast_enabled("cuda"), torch.get_autocast_dtype("cuda")
    torch.set_autocast_enabled("cuda", dtype in HALF)
    torch.set_autocast_dtype("cuda", dtype)
    try:
        with _Casts():
            yield
    finally:
        torch.set_autocast_enabled("cuda", before[0])
        torch.set_autocast_dtype("cuda", before[1])


class _Casts(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.backward:
            # What is computed again on the way back is to be cast too; PyTorch's own function would leave the mode.
            with self:
                torch.autograd.Variable._execution_engine.run_backward(
                    args,
                    tuple(map(torch.ones_like, args)),
                    False,
                    False,
                    (),
                    allow_unreachable=True,
                    accumulate_grad=True,
                )
            return None
        args, kwargs = as_cuda_casts(func, args, kwargs or {})
        if func is scaled_dot_product_attention and next(iter((*args, *kwargs.values()))).is_meta:
            return _fused_attention(*args, **kwargs)
        return func(*args, **kwargs)


def _fused_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    **_: Any,
) -> Tensor:
    """Keep for the way back what the fused kernels of a GPU keep; of tensors without content, all weights would be."""
    made: Tensor = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        query, key, value, dropout_p, is_causal, attn_mask=attn_mask, scale=scale
    )[0]
    return made
