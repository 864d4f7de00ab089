"""One module per task, each with `judge(image) -> Judgement`: plain image analysis, no model.

Judges are written against drawn scenes and tested on generated pictures too, degraded as a small
autoencoder degrades them.
"""
