"""Block swap: frozen blocks whose matrices lie in main memory, and come to the GPU each time their block runs.

They never go back, for they do not change. While a block runs, its modules have copies in the place of their matrices,
and what autograd needs of those it keeps itself: under gradient checkpointing nothing, until the block runs again on
the way back. So nothing here has to know of a backward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from turbo_fetch.errors import SpecError

AT_ONCE: Final = 2
"""How many swapped blocks are on the GPU: the one that runs, and the one that is on its way."""
_PIECE_BYTES: Final = 1 << 30
_ALIGNED_BYTES: Final = 512

_Matrix = tuple[nn.Module, str, nn.Parameter]
"""A parameter, with its module and its name there."""


def repeated_blocks(model: nn.Module) -> list[nn.Module]:
    """Return the blocks that a model is made of, as far as its library names them."""
    # Not all models name what they repeat; none splits it over devices, and embeddings neither, which are in no list.
    names = getattr(model, "_repeated_blocks", None) or getattr(model, "_no_split_modules", None) or ()
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
    return [block for blocks in lists for block in blocks if type(block).__name__ in names]


def check_block_swap(denoiser: nn.Module, count: int) -> None:
    """Refuse to swap more blocks than there are. Raises SpecError."""
    there = len(repeated_blocks(denoiser))
    if count > there:
        raise SpecError(
            f"train.blocks_to_swap = {count}, but this {type(denoiser).__name__} has {there} blocks; "
            f"expected at most {there}"
        )


def chosen_blocks(model: nn.Module, count: int) -> list[nn.Module]:
    """Return which blocks are swapped: far apart, so that each is copied while those before it compute."""
    blocks = repeated_blocks(model)
    return [blocks[(2 * place + 1) * len(blocks) // (2 * count)] for place in range(count)]


def swapped_matrices(block: nn.Module) -> Iterator[_Matrix]:
    """Yield the frozen matrices of a block; what is smaller stays on the GPU."""
    for owner in block.modules():
        for name, parameter in owner.named_parameters(recurse=False):
            if _is_swapped(parameter):
                yield owner, name, parameter


def _is_swapped(parameter: nn.Parameter) -> bool:
    return parameter.dim() > 1 and not parameter.requires_grad


def swap_blocks(model: Any, blocks: Collection[nn.Module], device: torch.device) -> None:
    """Have the matrices of blocks, which are in main memory, come to a GPU as they run, until `unswap_blocks`."""
    model.block_swap = BlockSwap(blocks, device)


def unswap_blocks(model: nn.Module) -> None:
    """Make a model one like any other again, if blocks of it are swapped; their matrices are in main memory."""
    swap: BlockSwap | None = model.__dict__.pop("block_swap", None)
    if swap is not None:
        swap.end()


def swapped_bytes(model: nn.Module) -> tuple[int, int]:
    """Return how many bytes of a model lie in main memory to be swapped, and how many of them are pinned."""
    swap: BlockSwap | None = model.__dict__.get("block_swap")
    return (0, 0) if swap is None else (swap.bytes, swap.pinned_bytes)


@dataclass(frozen=True)
class _Coming:
    """A block whose matrices are on their way, and what tells when they are there."""

    block: int
    copies: list[nn.Parameter]
    there: torch.cuda.Event


class BlockSwap:
    """Blocks with what brings their matrices to a GPU.

    The next block is copied on a stream of its own while one computes. Which is next is what came last time after the
    same two: that holds in both directions, and at their ends. A wrong guess costs time, and nothing else.
    """

    def __init__(self, blocks: Collection[nn.Module], device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)
        self._blocks = [list(swapped_matrices(block)) for block in blocks]
        self.pinned_bytes = _pin(self._blocks)
        self._recent = (-1, -1)
        self._next: dict[tuple[int, int], int] = {}
        self._coming: _Coming | None = None
        self._owners = {owner for matrices in self._blocks for owner, _, _ in matrices}
        for owner in self._owners:
            _hold_back(owner)
        self._hooks = [
            hook
            for number, block in enumerate(blocks)
            for hook in (
                block.register_forward_pre_hook(partial(self._enter, number)),
                # Also where checkpointing breaks off a block that has made all that is needed of it.
                block.register_forward_hook(partial(self._leave, number), always_call=True),
            )
        ]

    @property
    def bytes(self) -> int:
        """Of all swapped matrices."""
        return sum(parameter.nbytes for matrices in self._blocks for _, _, parameter in matrices)

    def end(self) -> None:
        """Leave the blocks as they were."""
        for hook in self._hooks:
            hook.remove()
        for owner in self._owners:
            del owner._apply
        self._await(self._coming)
        self._coming = None

    def _enter(self, block: int, *_given: Any) -> None:
        coming = self._coming
        if coming is None or coming.block != block:
            # The memory of a wrong guess is not free before it has arrived.
            self._await(coming)
            coming = self._sent(block)
        self._await(coming)
        for (owner, name, _), copy in zip(self._blocks[block], coming.copies, strict=True):
            setattr(owner, name, copy)
        self._next[self._recent] = block
        self._recent = (self._recent[1], block)
        following = self._next.get(self._recent)
        self._coming = None if following is None else self._sent(following)

    def _leave(self, block: int, *_given: Any) -> None:
        for owner, name, parameter in self._blocks[block]:
            setattr(owner, name, parameter)

    def _sent(self, block: int) -> _Coming:
        # Their memory may have been that of tensors with which the GPU still computes.
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        copies = [_moved(parameter, self._copied) for _, _, parameter in self._blocks[block]]
        return _Coming(block, copies, self._stream.record_event())

    def _copied(self, tensor: Tensor) -> Tensor:
        # Made outside of the stream, since it is freed among what computes.
        copy = torch.empty_like(tensor, device=self._device)
        with torch.cuda.stream(self._stream):
            return copy.copy_(tensor, non_blocking=True)

    def _await(self, coming: _Coming | None) -> None:
        if coming is not None:
            torch.cuda.current_stream(self._device).wait_event(coming.there)


def _moved(parameter: nn.Parameter, move: Callable[[Tensor], Tensor]) -> nn.Parameter:
    """Return a parameter with each tensor that it is made of moved; a quantised one is of several."""
    data: Any = parameter.data
    if is_traceable_wrapper_subclass(data):
        names, context = data.__tensor_flatten__()
        parts = {name: move(getattr(data, name)) for name in names}
        data = type(data).__tensor_unflatten__(parts, context, data.size(), data.stride())
    else:
        data = move(data)
    return nn.Parameter(data, requires_grad=False)


def _hold_back(owner: Any) -> None:
    """Have a module's matrices stay when it is moved, with all that it is a part of; the rest of it moves."""
    names = [name for name, parameter in owner.named_parameters(recurse=False) if _is_swapped(parameter)]

    def without_matrices(function: Any, recurse: bool = True) -> Any:
        kept = {name: owner._parameters[name] for name in names}
        owner._parameters.update(dict.fromkeys(names))
        try:
            return type(owner)._apply(owner, function, recurse)
        finally:
            owner._parameters.update(kept)

    owner._apply = without_matrices


def _pin(blocks: list[list[_Matrix]]) -> int:
    """Put matrices into pinned memory, from which is copied while the GPU computes; returns how many bytes.

    Where there is no more of it, as in WSL, the rest stays where it is, which is slower and as right.
    """
    memory = _PinnedMemory(sum(parameter.nbytes for block in blocks for _, _, parameter in block))
    for block in blocks:
        for place, (owner, name, parameter) in enumerate(block):
            try:
                pinned = _moved(parameter, memory.holding)
            except RuntimeError:
                return memory.used_bytes
            setattr(owner, name, pinned)
            block[place] = owner, name, pinned
    return memory.used_bytes


class _PinnedMemory:
    """Pinned memory in pieces of a power of two, to which PyTorch rounds up each that it makes."""

    def __init__(self, wanted_bytes: int) -> None:
        self.used_bytes = 0
        self._wanted_bytes = wanted_bytes
        self._piece = torch.empty(0, dtype=torch.uint8)
        self._start = 0

    def holding(self, tensor: Tensor) -> Tensor:
        """Return the same in pinned memory. Raises RuntimeError if there is no more."""
        size = tensor.nbytes
        if self._start + size > len(self._piece):
            room = max(size, min(self._wanted_bytes - self.used_bytes, _PIECE_BYTES))
            self._piece = torch.empty(1 << (room - 1).bit_length(), dtype=torch.uint8, pin_memory=True)
            self._start = 0
        part = self._piece[self._start : self._start + size].view(tensor.dtype)
        self._start += -(-size // _ALIGNED_BYTES) * _ALIGNED_BYTES
        self.used_bytes += size
        return part.as_strided(tensor.size(), tensor.stride()).copy_(tensor)
