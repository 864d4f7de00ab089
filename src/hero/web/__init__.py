"""The labelling page and its JSON API: a separate process, which never imports torch.

It communicates with the run only through the label store and the image files. `python -m hero.web DESK` starts it, and
so does `server.serve`; docs/api.md is its contract.
"""
