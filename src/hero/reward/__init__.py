"""Feedback into a number per image."""
