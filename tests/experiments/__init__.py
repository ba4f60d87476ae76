"""Experiments that take tens of minutes: run by hand, their figures in RESULTS.md."""
