"""`bobot train RECIPE`: from corpora to a finished model, going on where an earlier run stopped."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from bobot.messages import tr


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = tr("example: bobot train recipes/bobot-mini.toml")
    parser.add_argument(
        "recipe", type=Path, help=tr("a TOML recipe, for example recipes/bobot-mini.toml")
    )
    parser.add_argument(
        "--data",
        type=Path,
        default=Path("../shared/corpus"),
        help=tr("the folder that holds the corpora the recipe names (default: ../shared/corpus)"),
    )
    parser.add_argument(
        "--out",
        type=Path,
        help=tr("the folder for checkpoints and the model (default: runs/ and the recipe's name)"),
    )


def run(args: argparse.Namespace) -> int:
    from bobot.training import load_recipe, run_recipe

    recipe = load_recipe(args.recipe)
    out = args.out or Path("runs") / recipe.name
    run_recipe(recipe, args.data, out, lambda line: print(line, file=sys.stderr, flush=True))
    print(out)
    return 0
