"""Which operators work on a GPU takes, counted without one, and that none waits for it.

Tensors are fake: they have a shape and a device and no values, so whatever needs a value on the
host (`item`, `nonzero`, an index by a mask) is an error.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any
from unittest.mock import patch

import torch
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
)
from torch.utils._python_dispatch import TorchDispatchMode

WAITING = ("_local_scalar_dense", "nonzero", "item", "is_nonzero", "masked_select", "equal")


class _Counter(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func.name().split(".")[0]
        if name.removeprefix("aten::") in WAITING:
            raise AssertionError(f"{name} waits for the device")
        if name == "aten::index" and any(_is_mask(i) for i in args[1]):
            raise AssertionError(f"{name} by a mask waits for the device")
        try:
            output = func(*args, **kwargs)
        except (DataDependentOutputException, DynamicOutputShapeException):
            raise AssertionError(f"{name} waits for the device") from None
        arguments = {a.name: value for a, value in zip(func._schema.arguments, args, strict=False)}
        arguments |= kwargs
        if "non_blocking" in {a.name for a in func._schema.arguments}:
            crosses = {x.device for x in (*args, output) if isinstance(x, torch.Tensor)}
            if len(crosses) > 1 and not arguments.get("non_blocking"):
                raise AssertionError(f"{name} between devices waits: {crosses}")
        if name.startswith("aten::"):
            self.found[name] += 1
        return output


def _is_mask(index: Any) -> bool:
    return index is not None and index.dtype in (torch.bool, torch.uint8)


def operators(prepare: Callable[[], Any], work: Callable[[Any], object]) -> Counter[str]:
    """The operators of ``work(prepare())`` on fake tensors, by name; those of ``prepare`` do not
    count. AssertionError where one waits.
    """
    counter = _Counter()
    with ExitStack() as stack:
        stack.enter_context(patch.object(torch.Tensor, "pin_memory", lambda tensor: tensor))
        stack.enter_context(FakeTensorMode())
        prepared = prepare()
        with counter:
            work(prepared)
    return counter.found
