"""Sharing a GPU: which share is chosen, and that a process does not exceed it."""

from types import SimpleNamespace

import pytest
import torch

from wpm.cluster.gpu_share import CONTEXT_BYTES, HEADROOM, SHARES, choose_share, limit_memory

GIB = 2**30


@pytest.mark.parametrize(
    ("peak", "share"), [(0.5, 1 / 8), (10, 1 / 6), (30, 1 / 2), (33, 1.0), (79, 1.0), (200, 1.0)]
)
def test_smallest_share_that_holds_the_peak_with_headroom(peak: float, share: float) -> None:
    chosen = choose_share(int(peak * GIB), 80 * GIB)
    assert chosen == share
    if share < 1:
        assert chosen * 80 * GIB >= HEADROOM * peak * GIB + CONTEXT_BYTES
        smaller = [s for s in SHARES if s < chosen]
        assert all(s * 80 * GIB < HEADROOM * peak * GIB + CONTEXT_BYTES for s in smaller)


@pytest.mark.parametrize(
    ("share", "limited"),
    [
        (0.25, [0.25 - 1 / 16]),  # a sixteenth of the card is the process's context
        (0.1, [0.05]),
        (1.0, []),
        (2.0, []),
        (0.0, []),
    ],
)
def test_memory_is_capped_to_the_share_without_the_context(
    share: float, limited: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[float] = []
    card = SimpleNamespace(total_memory=16 * CONTEXT_BYTES)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda: card)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", calls.append)
    limit_memory(share)
    assert calls == limited


def test_without_a_gpu_nothing_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    limit_memory(0.5)
