"""Changing a run to test what a picture says: ablation, patching, exact edges, sweeps over all heads, and gradients."""
