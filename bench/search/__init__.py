"""The search: one coordinator that owns the study, and executors that train its trials."""
