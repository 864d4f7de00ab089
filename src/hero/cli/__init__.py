"""The command line. Thin: it turns options into a configuration, calls the library and prints the result.

Everything that can be wrong with the options is checked before a model is loaded; torch and diffusers are
imported inside the commands that need them, so that help, lists and errors in the settings appear at once.
"""

from hero.cli import bench, evaluate, inspect, resume, share, studio, train
from hero.cli.app import app, main

__all__ = ["app", "main"]

# In the order of `hero --help`.
app.command()(train.train)
app.command()(resume.resume)
app.command()(resume.label)
app.command()(studio.studio)
app.command()(evaluate.evaluate)
app.command()(evaluate.generate)
app.command()(evaluate.report)
app.command()(share.export)
app.command()(inspect.tasks)
app.add_typer(share.feedback_app, name="feedback")
app.add_typer(bench.bench_app, name="bench")
app.command()(inspect.rounds)
app.command()(inspect.doctor)
