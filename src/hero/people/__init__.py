"""Runs that people attend: they answer as an evaluator, are shown suggestions, and control the run from their page."""
