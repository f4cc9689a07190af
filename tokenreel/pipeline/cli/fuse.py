"""`fuse train | embed | attend | ablate`: phase 2, token store to embeddings."""

from inspect import cleandoc
from pathlib import Path
from typing import Annotated

import typer

from tokenreel.pipeline.cli.console import run_app, say

app = typer.Typer(help=__doc__, no_args_is_help=True, add_completion=False)

Store = Annotated[Path | None, typer.Option(help="the store; by default the recipe's in stores/")]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda")]


@app.command()
def train(
    recipe: Annotated[str, typer.Argument(help="name of the recipe")] = "sample",
    words: Annotated[list[str] | None, typer.Argument(help="key=value of the recipe")] = None,
    *,
    store: Store = None,
    out: Annotated[Path | None, typer.Option(help="folder of the run")] = None,
    device: Device = "auto",
) -> None:
    """Train a recipe on a store and write its embeddings; run it again to go on."""
    from tokenreel.pipeline.training import train_recipe

    if "=" in recipe:  # `fuse train seed=1`: the recipe was left out
        recipe, words = "sample", [recipe, *(words or [])]
    result = train_recipe(recipe, words or [], store=store, out=out, device=device)
    say(f"run: {result.path}")


@app.command()
def recipes() -> None:
    """List the recipes: what each is, what it costs, what was published."""
    from tokenreel.pipeline.recipes import RECIPES

    for name, make in RECIPES.items():
        say(f"{name}\n    " + "\n    ".join(cleandoc(make.__doc__ or "").splitlines()))


def main() -> None:
    """Entry point of the console script."""
    run_app(app)
