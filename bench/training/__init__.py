"""Training one trial: arithmetic, activations, the loop, cross-validation."""
