"""The rules by which the rehearsal and the estimate stand for a GPU are those of PyTorch's fake tensors."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional

from fake_cuda import DeviceMismatch, device_of, fake_cuda
from turbo_fetch.dreambooth.training.cuda_autocast import cuda_autocast

Operation = Callable[..., Tensor]

PAIRS: dict[str, Operation] = {
    "add": lambda a, b: a + b,
    "add to": lambda a, b: a.add_(b),
    "where": lambda a, b: torch.where(a > 0, a, b),
    "cat": lambda a, b: torch.cat([a.reshape(-1), b.reshape(-1)]),
    "matmul": lambda a, b: a.reshape(1, -1)[:, :1] @ b.reshape(1, -1)[:, :1],
    "copy": lambda a, b: a.copy_(b),
    "clamp": lambda a, b: torch.minimum(a, b),
    "lerp": lambda a, b: torch.lerp(a, b, 0.5),
    "embedding": lambda a, b: functional.embedding((a * 0).long().reshape(-1), b.reshape(-1, 1)),
}
SHAPES: tuple[tuple[int, ...], ...] = ((), (3,))


def _outcome(operation: Operation, make: Callable[[tuple[int, ...], str], Tensor], case: Any) -> str:
    """Return where the result is, or that it is refused."""
    (first, second), (here, there) = case
    try:
        made = operation(make(first, here), make(second, there))
    except (RuntimeError, IndexError, TypeError):
        return "refused"
    return str(made.device)


@pytest.mark.parametrize("name", PAIRS)
def test_devices_are_mixed_as_pytorch_allows(name: str) -> None:
    for case in product(product(SHAPES, SHAPES), product(("cpu", "cuda"), ("cpu", "cuda"))):
        with FakeTensorMode():
            expected = _outcome(PAIRS[name], lambda shape, device: torch.ones(shape, device=device), case)
        with fake_cuda():
            found = _outcome(PAIRS[name], lambda shape, device: torch.ones(shape, device=device), case)
        assert found == expected, case


UNDER_AUTOCAST: dict[str, Operation] = {
    "linear": lambda a: functional.linear(a, a),
    "matmul": lambda a: a @ a,
    "bmm": lambda a: torch.bmm(a[None], a[None]),
    "baddbmm": lambda a: torch.baddbmm(a[None], a[None], a[None]),
    "einsum": lambda a: torch.einsum("ij,jk->ik", a, a),
    "conv2d": lambda a: functional.conv2d(a[None, None], a[None, None]),
    "attention": lambda a: functional.scaled_dot_product_attention(
        a[None, None], a[None, None], a[None, None]
    ),
    "layer_norm": lambda a: functional.layer_norm(a, a.shape[-1:]),
    "group_norm": lambda a: functional.group_norm(a[None], 2),
    "rms_norm": lambda a: functional.rms_norm(a, a.shape[-1:]),
    "softmax": lambda a: a.softmax(-1),
    "functional softmax": lambda a: functional.softmax(a, dim=-1),
    "power": lambda a: a**2,
    "pow": lambda a: a.pow(2),
    "exp": torch.exp,
    "rsqrt": torch.rsqrt,
    "sum": lambda a: a.sum(),
    "cumsum": lambda a: a.cumsum(0),
    "norm": lambda a: a.norm(),
    "vector norm": lambda a: torch.linalg.vector_norm(a),
    "mse_loss": lambda a: functional.mse_loss(a, a),
    "interpolate": lambda a: functional.interpolate(a[None, None], scale_factor=2.0, mode="nearest"),
    "bilinear": lambda a: functional.interpolate(a[None, None], scale_factor=2.0, mode="bilinear"),
    "silu": functional.silu,
    "gelu": functional.gelu,
    "sigmoid": torch.sigmoid,
    "mean": lambda a: a.mean(),
    "cat": lambda a: torch.cat([a, a.float()]),
    "addcmul": lambda a: torch.addcmul(a, a, a.float()),
    "embedding": lambda a: functional.embedding(torch.zeros(2, dtype=torch.long, device=a.device), a),
}


@pytest.mark.parametrize("name", UNDER_AUTOCAST)
def test_types_under_autocast_are_those_of_cuda(name: str) -> None:
    operation = UNDER_AUTOCAST[name]
    for given, half in product(
        (torch.float32, torch.float16, torch.bfloat16), (torch.float16, torch.bfloat16)
    ):
        if given not in (torch.float32, half):
            continue
        with FakeTensorMode():
            torch.set_autocast_enabled("cuda", True)
            torch.set_autocast_dtype("cuda", half)
            try:
                expected = operation(torch.ones(4, 4, device="cuda", dtype=given)).dtype
            finally:
                torch.set_autocast_enabled("cuda", False)
        with cuda_autocast(half):
            found = operation(torch.ones(4, 4, dtype=given)).dtype
        assert found == expected, (given, half)


def test_what_a_gpu_refuses_is_refused() -> None:
    with fake_cuda():
        on_gpu = torch.ones(2, device="cuda")
        with pytest.raises(TypeError, match="to numpy"):
            on_gpu.numpy()
        with pytest.raises(DeviceMismatch, match="device type for generator"):
            torch.randn(2, device="cuda", generator=torch.Generator())
        with pytest.raises(DeviceMismatch, match="same device"):
            torch.nn.Linear(2, 2)(on_gpu)
        # PyTorch's fake tensors let this pass; its kernels do not.
        with pytest.raises(DeviceMismatch, match="indices should be either on cpu or on the same device"):
            torch.ones(3)[torch.zeros(1, dtype=torch.long, device="cuda")]
        assert device_of(on_gpu[torch.zeros(1, dtype=torch.long)]).type == "cuda"
        layer = torch.nn.Linear(2, 2).to("cuda")
        layer(on_gpu).sum().backward()
        assert layer.weight.grad is not None
        assert {device_of(layer.weight.grad).type, device_of(on_gpu.cpu()).type} == {"cuda", "cpu"}
