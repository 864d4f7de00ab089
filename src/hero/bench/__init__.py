"""Benchmarks: each is one resumable command whose output is committed beside the figures that quote it."""
