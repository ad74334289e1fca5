"""Training: corpora and generators to tokens, tokens to weights, weights to one file.

Runs resume after kill -9.
`run_recipe` does a whole recipe; each module beside it is one of its steps.
"""

from bobot.training.pipeline import run_recipe
from bobot.training.recipe import Recipe, load_recipe

__all__ = ["Recipe", "load_recipe", "run_recipe"]
