"""Interventions: change a run to test a picture, by ablation, patching, exact edges, sweeps over all heads, and gradients."""
