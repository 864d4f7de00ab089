"""People at a run's side: they answer as an evaluator, are shown suggestions, and steer the run from their page."""
