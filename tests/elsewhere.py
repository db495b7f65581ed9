"""A device that is not the CPU, for machines that have none: tensors with values that say they are somewhere else.

`there(x)` holds the values of `x` and says that its device is `meta`, so code that asks for a device takes the branch
that a GPU would. Inside `with Elsewhere():` whatever is made with `device=` that place lies there too, and an operation
that mixes a tensor from there with one of the CPU fails, as it would on a GPU. Numbers (tensors without axes) may mix,
as they may on a GPU; indices may not, which a GPU would copy over and wait for. Plain `meta` tensors have no values, so
code that looks at one stops there; this goes on.

`somewhere(place)` is for tests that hold on a real card too, where there is one: `elsewhere`, or `cuda`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

META = torch.device("meta")
_MOVES = {torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default}


_NO_CARD = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA card here")
PLACES = ["elsewhere", pytest.param("cuda", marks=_NO_CARD)]
"""What `somewhere` takes."""


class MixedDevicesError(RuntimeError):
    """An operation got tensors of two devices."""


class _There(torch.Tensor):
    held: torch.Tensor

    @staticmethod
    def __new__(cls, values: torch.Tensor) -> _There:
        out = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            values.shape,
            strides=values.stride(),
            storage_offset=values.storage_offset(),
            dtype=values.dtype,
            device=META,
        )
        out.held = values
        return out

    def tolist(self) -> Any:
        return self.held.tolist()

    def numpy(self, *, force: bool = False) -> Any:
        if not force:
            raise TypeError("can't convert a tensor of another device to numpy; use .cpu() first")
        return self.held.numpy()

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        return f"there({self.held!r})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


class Elsewhere(TorchFunctionMode):
    """While it is entered, what is made on the device `meta` lies there."""

    def __enter__(self) -> Elsewhere:
        self._operations = _Operations()
        self._operations.__enter__()
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._operations.__exit__(*error)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.Tensor.new_tensor and isinstance(args[0], _There):  # these three copy data past any dispatch
            return there(args[0].held.new_tensor(*args[1:], **kwargs))
        if func in (torch.tensor, torch.as_tensor) and kwargs.get("device") == META and not torch.is_tensor(args[0]):
            return there(torch.tensor(*args, **{**kwargs, "device": "cpu"}))
        return func(*args, **kwargs)


class _Operations(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


def there(x: torch.Tensor) -> torch.Tensor:
    """A copy of `x` that lies elsewhere."""
    return _There(x.detach().clone())


@contextmanager
def somewhere(place: str) -> Iterator[torch.device]:
    """A device that is not the CPU, where networks can be brought with `.to` and models be loaded.

    Views of tensors that only say where they are cannot be made in inference mode: elsewhere it is `no_grad`. On a card
    convolutions keep all digits of float32 meanwhile, which torch would round to ten bits.
    """
    if place == "elsewhere":
        with pytest.MonkeyPatch.context() as patched, Elsewhere():
            patched.setattr(torch.inference_mode, "__enter__", _without_gradients)
            patched.setattr(torch.inference_mode, "__exit__", _as_before)
            yield META
        return
    rounded = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield torch.device(place, 0)
    finally:
        torch.backends.cudnn.allow_tf32 = rounded


def _without_gradients(mode: Any) -> None:
    mode.before = torch.is_grad_enabled()
    torch.set_grad_enabled(False)


def _as_before(mode: Any, *_: Any) -> None:
    torch.set_grad_enabled(mode.before)


def back(x: torch.Tensor) -> torch.Tensor:
    """The values of a tensor that must lie elsewhere."""
    assert isinstance(x, _There), f"made on {x.device}"
    return x.held


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    tensors = [x for x in tree_flatten((args, kwargs))[0] if isinstance(x, torch.Tensor)]
    away = any(isinstance(x, _There) for x in tensors)
    asked = kwargs.get("device")
    if func in _MOVES:
        away = away if asked is None else torch.device(asked) == META
        away = isinstance(args[0], _There) if func is torch.ops.aten.copy_.default else away
    elif away and any(not isinstance(x, _There) and x.dim() for x in tensors):
        shapes = [("there" if isinstance(x, _There) else "CPU", tuple(x.shape)) for x in tensors]
        raise MixedDevicesError(f"{func} mixes devices: {shapes}")
    else:
        away = (away and asked is None) or (asked is not None and torch.device(asked) == META)
    plain = tree_map(lambda x: x.held if isinstance(x, _There) else x, (args, kwargs))
    given = {name: torch.device("cpu") if name == "device" and x is not None else x for name, x in plain[1].items()}
    out = func(*plain[0], **given)
    if func._schema.is_mutable and not isinstance(out, (tuple, list)):
        return args[0] if out is plain[0][0] else out
    return tree_map(lambda x: _There(x) if away and isinstance(x, torch.Tensor) else x, out)
