"""oneDNN's operators that torch.compile uses, each tried once; None where it does not work.

They have no backward and run on processors alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

Operator = Callable[..., Any]


def _linear() -> Operator | None:
    """``linear(x, weight, None, "none", [], "")``: the product x @ weight.T."""
    try:
        linear = torch.ops.mkldnn._linear_pointwise
        trial = torch.eye(2)
        return linear if torch.equal(linear(trial, trial, None, "none", [], ""), trial) else None
    except (AttributeError, RuntimeError, TypeError):
        return None


def _convolution_relu() -> Operator | None:
    """``convolution(x, weight, bias, padding, stride, dilation, groups, "relu", [], "")``."""
    try:
        convolution = torch.ops.mkldnn._convolution_pointwise
        torch.get_autocast_dtype("cpu")  # since torch 2.4; whoever calls this asks
        trial = torch.full((1, 1, 1, 1), -1.0)
        found = convolution(trial, trial, None, [0, 0], [1, 1], [1, 1], 1, "relu", [], "")
        return convolution if float(found) == 1 else None
    except (AttributeError, RuntimeError, TypeError):
        return None


LINEAR = _linear()
CONVOLUTION_RELU = _convolution_relu()
