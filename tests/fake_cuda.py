"""A GPU that is not there: tensors with real numbers in main memory that say, and are held to, a device of CUDA.

PyTorch's own FakeTensorMode has the rules but no numbers, and cannot go backward without a GPU. Here every storage
carries the device that it claims to be on. Each operation is checked as CUDA checks it, autocast is that of CUDA, and
generators and conversions refuse what they refuse there. What a stream of its own copies is garbage until it is waited
for. Not rehearsed: kernels, and compiled code.
"""

from __future__ import annotations

import math
import weakref
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
import torch.utils._python_dispatch
import torch.utils.checkpoint
from torch import Tensor
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from turbo_fetch.dreambooth.training.cuda_autocast import as_cuda_casts

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)

_aten = torch.ops.aten
_ACROSS = {
    _aten.copy_.default,
    _aten._foreach_copy_.default,
    _aten._to_copy.default,
    _aten.set_.source_Storage,
}
"""Operations that take tensors of several devices."""
_INDEXING = {
    _aten.index.Tensor,
    _aten.index_put.default,
    _aten.index_put_.default,
    _aten._unsafe_index.Tensor,
    _aten._unsafe_index_put.default,
}
"""Whose second argument is a list of indices, which may be on the CPU."""


class DeviceMismatch(RuntimeError):
    """What CUDA would refuse."""


@dataclass
class Witness:
    """What ran: the types and devices of what each kind of module computed, and on what."""

    computed: dict[str, set[tuple[torch.dtype, str]]] = field(default_factory=lambda: defaultdict(set))
    """By class of the model that a convolution or matrix belongs to: type and device of its output."""
    pinned: int = 0
    """How many tensors were put into pinned memory."""
    copied_beside: int = 0
    """How many tensors were copied from pinned memory while the GPU computes, and were waited for."""
    pinnable_bytes: float = math.inf
    """How much more memory can be made that is pinned."""
    live_bytes: int = 0
    peak_bytes: int = 0
    """Of the GPU."""
    _inside: list[str] = field(default_factory=list)

    def enter(self, module: Any, _inputs: Any) -> None:
        """Take note that a model's part begins to run."""
        if type(module).__name__ in MODELS:
            self._inside.append(type(module).__name__)

    def pin(self, size: int) -> None:
        """Take note of new memory that is pinned. Raises RuntimeError if there is no more."""
        if size > self.pinnable_bytes:
            raise RuntimeError("CUDA error: out of memory")
        self.pinnable_bytes -= size

    def allocate(self, storage: torch.UntypedStorage) -> None:
        """Take note that a tensor is put on the GPU, until it is freed."""
        size = storage.nbytes()
        self.live_bytes += size
        self.peak_bytes = max(self.peak_bytes, self.live_bytes)
        weakref.finalize(storage, self._free, size)

    def forget_peak(self) -> None:
        """Count the most anew."""
        self.peak_bytes = self.live_bytes

    def _free(self, size: int) -> None:
        self.live_bytes -= size

    def leave(self, module: Any, _inputs: Any, output: Any) -> None:
        """Take note of what a module made; nothing, if it was stopped by an exception."""
        if type(module).__name__ in MODELS:
            self._inside.pop()
        elif (
            output is not None
            and self._inside
            and isinstance(module, torch.nn.Conv2d | torch.nn.Conv3d | torch.nn.Linear)
        ):
            self.computed[self._inside[-1]].add((output.dtype, device_of(output).type))


DENOISERS = {
    "UNet2DConditionModel",
    "SD3Transformer2DModel",
    "FluxTransformer2DModel",
    "Flux2Transformer2DModel",
    "QwenImageTransformer2DModel",
    "ZImageTransformer2DModel",
}
MODELS = DENOISERS | {
    "Encoder",
    "Decoder",
    "QwenImageEncoder3d",
    "QwenImageDecoder3d",
    "CLIPTextModel",
    "CLIPTextModelWithProjection",
    "T5EncoderModel",
    "Qwen2_5_VLForConditionalGeneration",
    "Qwen3ForCausalLM",
    "Qwen3Model",
    "Mistral3ForConditionalGeneration",
    "ViTModel",
}


def device_of(tensor: Tensor) -> torch.device:
    """Return the device that a tensor claims to be on."""
    with torch._C.DisableTorchFunction():
        real = tensor.device
        if real.type != "cpu" or tensor.layout != torch.strided:
            return real
        return getattr(tensor.untyped_storage(), "claimed", CPU)


def put_on(tensor: Tensor, device: torch.device) -> Tensor:
    """Let the storage of a tensor claim to be on `device`."""
    with torch._C.DisableTorchFunction():
        if tensor.device.type == "cpu" and tensor.layout == torch.strided:
            storage: Any = tensor.untyped_storage()
            if device.type == "cuda" and getattr(storage, "claimed", CPU) != device:
                for witness in _WITNESSES:
                    witness.allocate(storage)
            storage.claimed = device
    return tensor


def common_device(function: Any, args: Sequence[Any], kwargs: Any) -> torch.device:
    """Return where the result of an operation is. Raises DeviceMismatch if its inputs are not together."""
    if function in _INDEXING:
        indices = [index for index in args[1] if isinstance(index, Tensor)]
        where = device_of(args[0])
        wrong = [index for index in indices if device_of(index) not in (CPU, where)]
        if wrong:
            raise DeviceMismatch(
                f"indices should be either on cpu or on the same device as the indexed tensor ({where})"
            )
        args = (args[0], *args[2:])
    tensors = list(_tensors((*args, *kwargs.values())))
    if function in _ACROSS:
        return device_of(tensors[0])
    # A number in a tensor goes with everything, but not as the tensor that an operation changes.
    binding = [tensor for tensor in tensors if tensor.dim() > 0 or device_of(tensor) != CPU]
    devices = {device_of(tensor) for tensor in binding}
    changed = function._schema.is_mutable and tensors and tensors[0].dim() == 0
    if len(devices) > 1 or (changed and devices and device_of(tensors[0]) not in devices):
        found = sorted(str(device_of(tensor)) for tensor in tensors)
        raise DeviceMismatch(
            f"{function}: expected all tensors to be on the same device, but found {', '.join(found)}"
        )
    return devices.pop() if devices else CPU


def _tensors(values: Iterable[Any]) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)


class _Operations(TorchDispatchMode):
    """Holds each operation to the rules, and lets its result be where its inputs are."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # It takes much of the time, and nothing is compiled.
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        device = common_device(func, args, kwargs)
        if func is _aten.zeros.default and torch._C._current_graph_task_id() != -1:
            # Autograd's own, for gradients that did not come: made for the device that is really there.
            device = CUDA
        if _STREAMS[-1].is_beside:
            return _STREAMS[-1].copy(func, args, kwargs)
        result = func(*args, **kwargs)
        if device != CPU:
            for made in _tensors((result,)):
                put_on(made, device)
        return result


class Stream:
    """A stream: what is copied in one beside the usual one is there when it is waited for, and garbage until then."""

    def __init__(self, device: Any = None, is_beside: bool = True) -> None:
        self.is_beside = is_beside
        self._copies: list[tuple[Tensor, Tensor]] = []

    def copy(self, function: Any, args: Any, kwargs: Any) -> Any:
        """Copy later, but at once from memory that is not pinned. Raises DeviceMismatch for all but copies."""
        made, source = args[:2]
        if function is not _aten.copy_.default or not (args[2:] or kwargs.values()):
            raise DeviceMismatch(f"{function} is on a stream that only copies")
        if not getattr(source.untyped_storage(), "is_pinned", False):
            return made.copy_(source)
        self._copies.append((made, source))
        made.view(torch.uint8).fill_(255)
        return made

    def record_event(self) -> SimpleNamespace:
        """Return what can be waited for: what is copied until now."""
        copies, self._copies = self._copies, []
        return SimpleNamespace(copies=copies)

    def wait_event(self, event: SimpleNamespace) -> None:
        """Have what comes later wait for an event."""
        with torch._C.DisableTorchFunction(), torch.utils._python_dispatch._disable_current_modes():
            for made, source in event.copies:
                made.copy_(source)
        for witness in _WITNESSES:
            witness.copied_beside += len(event.copies)
        event.copies.clear()

    def wait_stream(self, stream: Stream) -> None:
        """Have what comes later wait for another stream."""
        assert not stream.is_beside

    def is_capturing(self) -> bool:
        """Return whether it is recorded."""
        return False


_STREAMS = [Stream(is_beside=False)]
"""The current one is the last."""


@contextmanager
def _in_stream(stream: Stream) -> Iterator[None]:
    _STREAMS.append(stream)
    try:
        yield
    finally:
        _STREAMS.pop()


class Generator(torch.Generator):
    """A generator that says a device."""

    claimed: torch.device

    def __new__(cls, device: Any = "cpu") -> Generator:
        made = super().__new__(cls, device="cpu")  # type: ignore[call-arg]
        made.claimed = torch.device(device)
        if made.claimed.type == "cuda":
            made.claimed = _device(made.claimed)
        return made

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return self.claimed


def _device(wanted: Any) -> torch.device:
    if isinstance(wanted, int):
        return torch.device("cuda", wanted)
    device = torch.device(wanted)
    return CUDA if device == torch.device("cuda") else device


def _on_gpu(tensor: Tensor) -> bool:
    return device_of(tensor).type == "cuda"


_GETTER = type(Tensor.dtype.__get__)  # type: ignore[attr-defined]


def _answers_itself(kind: Any) -> bool:
    """Return whether a kind of tensor is a library's, which comes before autocast on a GPU, and after a mode here."""
    return kind is not Tensor and kind.__torch_function__ is not torch._C._disabled_torch_function_impl


class _Functions(TorchFunctionMode):
    """Answers what Python asks of devices."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        special = _SPECIAL.get(func)
        if special is not None:
            return special(self, *args, **kwargs)
        if type(func) is _GETTER:
            return func(*args)
        before = args
        args, kwargs = as_cuda_casts(func, args, kwargs, _on_gpu)
        if args is not before and any(map(_answers_itself, types)):
            raise DeviceMismatch(f"autocast does not reach {func.__name__} of {types}, which answers itself")
        return _made_on_device(func, args, kwargs)


def _made_on_device(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Call what may make tensors on a device that it is told."""
    wanted = kwargs.pop("device", None)
    device = None if wanted is None else _device(wanted)
    generator = kwargs.get("generator")
    if generator is not None:
        source = args[0] if args and isinstance(args[0], Tensor) else None
        place = device or (CPU if source is None else device_of(source))
        if generator.device.type != place.type:
            raise DeviceMismatch(
                f"Expected a '{place.type}' device type for generator but found '{generator.device.type}'"
            )
    if kwargs.pop("pin_memory", False):
        if device not in (None, CPU):
            raise DeviceMismatch("only dense CPU tensors can be pinned")
        pinned = func(*args, **kwargs)
        for witness in _WITNESSES:
            witness.pin(pinned.nbytes)
        pinned.untyped_storage().is_pinned = True
        return pinned
    if device is None:
        return func(*args, **kwargs)
    if device.type == "meta":
        return func(*args, **kwargs, device=device)
    made = func(*args, **kwargs, device=CPU)
    if not isinstance(made, Tensor) or device_of(made) == device:
        return made
    is_of_a_tensor = next(_tensors(args), None) is not None
    return put_on(made.clone() if is_of_a_tensor else made, device)


def _to(_mode: Any, tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    if args and isinstance(args[0], Tensor):
        args = (device_of(args[0]), args[0].dtype, *args[1:])
    if args and isinstance(args[0], int) and not isinstance(args[0], bool):
        args = (_device(args[0]), *args[1:])
    copy = bool(kwargs.pop("copy", False))
    parsed: Any = torch._C._nn._parse_to(*args, **kwargs)
    device, dtype, _, layout = parsed
    return _moved(tensor, None if device is None else _device(device), dtype, layout, copy)


def _moved(
    tensor: Tensor,
    device: torch.device | None,
    dtype: torch.dtype | None = None,
    layout: Any = None,
    copy: bool = False,
) -> Tensor:
    options: dict[str, Any] = {} if layout is None else {"memory_format": layout}
    # Past what a subclass makes of it, which has called this.
    if device is not None and device.type == "meta":
        return Tensor.to(tensor, device, dtype or tensor.dtype, **options)
    before = device_of(tensor)
    moved = Tensor.to(tensor, dtype or tensor.dtype, copy=copy, **options)
    if device is None or device == before:
        return moved
    if moved.is_meta:
        raise NotImplementedError("Cannot copy out of meta tensor; no data!")
    if moved.untyped_storage()._cdata == tensor.untyped_storage()._cdata:
        moved = moved.clone()
    return put_on(moved, device)


def _for_numpy(name: str) -> Any:
    plain = getattr(Tensor, name)

    def convert(_mode: Any, tensor: Tensor, *args: Any, **kwargs: Any) -> Any:
        if _on_gpu(tensor):
            raise TypeError(
                f"can't convert {device_of(tensor)} device type tensor to numpy. Use Tensor.cpu() to copy it to "
                "host memory first."
            )
        return plain(tensor, *args, **kwargs)

    return convert


def _pinned(_mode: Any, tensor: Tensor, *_: Any) -> Tensor:
    if _on_gpu(tensor):
        raise DeviceMismatch("cannot pin 'torch.cuda.FloatTensor'; only dense CPU tensors can be pinned")
    for witness in _WITNESSES:
        witness.pinned += 1
    return tensor.clone()


def _padded(_mode: Any, sequences: list[Tensor], *args: Any, **kwargs: Any) -> Tensor:
    """Pad together what it makes room for by their type alone, not by where they are."""
    return put_on(torch._C._nn.pad_sequence(sequences, *args, **kwargs), device_of(sequences[0]))


_WITNESSES: list[Witness] = []
"""Those of the contexts that last."""
_SPECIAL: dict[Any, Any] = {
    torch._C._nn.pad_sequence: _padded,
    Tensor.device.__get__: lambda _, tensor: device_of(tensor),
    Tensor.is_cuda.__get__: lambda _, tensor: _on_gpu(tensor),  # type: ignore[attr-defined]
    Tensor.is_cpu.__get__: lambda _, tensor: device_of(tensor).type == "cpu",  # type: ignore[attr-defined]
    Tensor.get_device: lambda _, tensor: device_of(tensor).index if _on_gpu(tensor) else -1,
    Tensor.to: _to,
    Tensor.cuda: lambda _, tensor, device=CUDA, *rest, **options: _moved(tensor, _device(device)),
    Tensor.cpu: lambda _, tensor, *rest, **options: _moved(tensor, CPU),
    Tensor.pin_memory: _pinned,
    Tensor.numpy: _for_numpy("numpy"),
    Tensor.__array__: _for_numpy("__array__"),
}


_run_backward = torch.autograd._engine_run_backward  # type: ignore[attr-defined]


def _with_functions(run: Any) -> Any:
    # Whoever handles `backward` is without the mode, which is to see what is computed again on the way back.
    def seen(*args: Any, **kwargs: Any) -> Any:
        with _Functions():
            return run(*args, **kwargs)

    return seen


@contextmanager
def fake_cuda(capability: tuple[int, int] = (8, 0), memory_bytes: int = 24 << 30) -> Iterator[Witness]:
    """Have a GPU while the context lasts."""
    witness = Witness()
    with ExitStack() as stack:
        _WITNESSES.append(witness)
        stack.callback(_WITNESSES.remove, witness)
        for name, value in _card(capability, memory_bytes).items():
            stack.enter_context(patch.object(torch.cuda, name, value))
        for name, value in _ACCELERATOR.items():
            stack.enter_context(patch.object(torch.accelerator, name, value))
        stack.enter_context(patch.object(torch, "Generator", Generator))
        stack.enter_context(
            patch.object(torch.autograd, "_engine_run_backward", _with_functions(_run_backward))
        )
        checks = torch.utils.checkpoint._allowed_determinism_checks_to_fns
        stack.enter_context(patch.dict(checks, {"default": lambda x: (x.shape, x.dtype, device_of(x))}))
        # Compiled code is for the device that is really there.
        stack.enter_context(torch.compiler.set_stance("force_eager"))
        hooks = (
            register_module_forward_pre_hook(witness.enter),
            register_module_forward_hook(witness.leave, always_call=True),
        )
        for hook in hooks:
            stack.callback(hook.remove)
        stack.enter_context(_Operations())  # type: ignore[no-untyped-call]
        stack.enter_context(_Functions())
        yield witness


_ACCELERATOR: dict[str, Any] = {
    "is_available": lambda: True,
    "current_accelerator": lambda check_available=False: torch.device("cuda"),
    "device_count": lambda: 1,
    "current_device_index": lambda: 0,
    "set_device_index": lambda device: None,
    "current_stream": lambda device=None: _STREAMS[-1],
}


def _card(capability: tuple[int, int], memory_bytes: int) -> dict[str, Any]:
    properties = SimpleNamespace(
        name="a GPU that is not there",
        total_memory=memory_bytes,
        major=capability[0],
        minor=capability[1],
        multi_processor_count=100,
    )
    state = torch.Generator("cpu").get_state

    return {
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "set_device": lambda device: None,
        "get_device_capability": lambda device=None: capability,
        "get_device_properties": lambda device=None: properties,
        "get_device_name": lambda device=None: properties.name,
        # PyTorch says yes of every card that can hold the type, be it by emulation.
        "is_bf16_supported": lambda including_emulation=True: including_emulation or capability >= (8, 0),
        "mem_get_info": lambda device=None: (memory_bytes, memory_bytes),
        "empty_cache": lambda: None,
        "synchronize": lambda device=None: None,
        "Stream": Stream,
        "stream": _in_stream,
        "current_stream": lambda device=None: _STREAMS[-1],
        "get_rng_state": lambda device=0: state(),
        "get_rng_state_all": lambda: [state()],
        "set_rng_state": lambda new, device=0: None,
        "set_rng_state_all": lambda new: None,
        "manual_seed": lambda seed: None,
        "manual_seed_all": lambda seed: None,
        "memory_stats": lambda device=None: {},
        "max_memory_allocated": lambda device=None: _WITNESSES[-1].peak_bytes,
        "reset_peak_memory_stats": lambda device=None: _WITNESSES[-1].forget_peak(),
    }
