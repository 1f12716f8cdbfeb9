"""Latency: which rows are measured, measured in fresh processes, compared, and limited."""
