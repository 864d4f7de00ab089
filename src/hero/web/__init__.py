"""The labelling page and its JSON API: a process of its own, which never imports torch.

It talks to the run through the label store and the image files alone. `python -m hero.web DESK` starts it, and so does
`server.serve`; docs/api.md is its contract.
"""
