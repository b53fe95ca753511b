"""How fast this machine multiplies matrices: the yardstick for the engine's updates."""

from __future__ import annotations

import time

import torch

SIDE = {"cpu": 3072, "cuda": 8192}  # rows and columns


def rate(device: str, precision: str, repeats: int = 8) -> float:
    """Operations per second of a large square product, the best of several; 2 n³ operations a product."""
    side, kind = SIDE[device], getattr(torch, precision)
    left, right = (torch.randn(side, side, device=device, dtype=kind) for _ in range(2))
    best = float("inf")
    for _ in range(repeats):
        _wait(device)
        started = time.perf_counter()
        torch.matmul(left, right)
        _wait(device)
        best = min(best, time.perf_counter() - started)
    return 2 * side**3 / best


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()
