"""Copy a training's state to host memory, so that it can be written while training continues.

A state has thousands of small tensors. They are copied into one flat tensor for each type of
number, which is allocated and written in one piece; on a GPU's host it is page-locked, so that the
copies do not wait for one another.
"""

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class Snapshot:
    """The state of one moment; what it was taken from may change at once.

    Attributes:
        state: as it was, on the host. On a GPU its tensors are filled only after `wait`.
    """

    def __init__(self, state: Any) -> None:
        """Copy all tensors of dictionaries and lists in one another."""
        sizes: Counter[torch.dtype] = Counter()
        used: Counter[torch.dtype] = Counter()
        on_gpu = False

        def measure(tensor: Tensor) -> Tensor:
            nonlocal on_gpu
            sizes[tensor.dtype] += tensor.numel()
            on_gpu = on_gpu or tensor.is_cuda
            return tensor

        map_tensors(state, measure)
        flat = {
            dtype: torch.empty(size, dtype=dtype, pin_memory=on_gpu)
            for dtype, size in sizes.items()
        }

        def copy(tensor: Tensor) -> Tensor:
            # The same memory layout: optimisers use what is loaded as it is.
            strides = torch.empty_like(tensor, device="meta").stride()
            place = flat[tensor.dtype].as_strided(tensor.shape, strides, used[tensor.dtype])
            used[tensor.dtype] += tensor.numel()
            return place.copy_(tensor, non_blocking=True)

        self.state = map_tensors(state, copy)
        # The copies are queued before the next step's work, which changes the originals.
        self._copied = torch.cuda.current_stream().record_event() if on_gpu else None

    def wait(self) -> None:
        """Wait until a GPU's copies have arrived; any thread may call this."""
        if self._copied is not None:
            self._copied.synchronize()


def map_tensors(state: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Return the same dictionaries and lists with every tensor changed by a function."""
    if isinstance(state, Tensor):
        return change(state)
    if isinstance(state, dict):
        changed = type(state)((key, map_tensors(value, change)) for key, value in state.items())
        if hasattr(state, "__dict__"):  # a module's state has the versions of its layers there
            vars(changed).update(vars(state))
        return changed
    if isinstance(state, list):
        return [map_tensors(value, change) for value in state]
    return state
