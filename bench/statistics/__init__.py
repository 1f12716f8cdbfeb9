"""How sure a score is, and which of two models is better: see docs/statistics.md."""
