"""Seeds of epochs and processes."""

from __future__ import annotations


def mix_seed(seed: int, epoch: int, rank: int) -> int:
    """Mix three numbers to one seed, so that neighbouring ones give unrelated streams."""
    value = (seed * 0x9E3779B97F4A7C15 + epoch * 0xBF58476D1CE4E5B9 + rank * 0x94D049BB133111EB) % 2**64
    value ^= value >> 31
    return (value * 0xD6E8FEB86659FD93) % 2**63
