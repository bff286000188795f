"""Compiled kernels: proximity, rollout and maximum flow as numba functions over arrays."""
