"""The command line: what can be typed, and what a fault of the settings looks like.

Every command imports what it needs when it runs, so that help, the version and a refusal come
at once; LlamaIndex alone takes seconds.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from ragsocket import __version__
from ragsocket.cli.models import models
from ragsocket.errors import ConfigError, RagsocketError

BAD_SETTINGS = 2
FAILED = 1
INTERRUPTED = 130

EPILOG = (
    "Flags are settings: RAGSOCKET_PORT in the environment and `port` in ragsocket.toml say the "
    "same as --port, which goes before both."
)

app = typer.Typer(
    name="ragsocket",
    help="Ask your own documents over a WebSocket, and stop the answer whenever you like.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    # Rich takes as long to load as everything else that help needs.
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

app.add_typer(models)

Host = Annotated[str | None, typer.Option(metavar="HOST", help="Address to listen on [127.0.0.1].")]
Port = Annotated[
    int | None, typer.Option(metavar="PORT", help="Port to listen on; 0 takes a free one [8000].")
]
Data = Annotated[
    Path | None, typer.Option(metavar="DIR", help="Folder of documents to answer from.")
]
StateDir = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="Where index and conversations are kept [.ragsocket]."),
]
LlmUrl = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        help="OpenAI-compatible server of the model, for example http://127.0.0.1:11434/v1.",
    ),
]
LlmModel = Annotated[
    str | None,
    typer.Option(
        metavar="NAME", help="Model to ask of that server; `none` answers with extracts [none]."
    ),
]
EmbedUrl = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        help="OpenAI-compatible server of embeddings; without, the built-in model if installed.",
    ),
]
EmbedModel = Annotated[
    str | None,
    typer.Option(
        metavar="NAME", help="Embedding model to ask of that server; `none`: words decide alone."
    ),
]
Workers = Annotated[
    int | None, typer.Option(metavar="N", help="Worker processes; one is all there is today [1].")
]


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"ragsocket {__version__}")
        raise typer.Exit


@app.callback()
def ragsocket(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    """Ask your own documents over a WebSocket, and stop the answer whenever you like."""


@app.command(epilog=EPILOG)
def serve(
    host: Host = None,
    port: Port = None,
    data: Data = None,
    llm_url: LlmUrl = None,
    llm_model: LlmModel = None,
    embed_url: EmbedUrl = None,
    embed_model: EmbedModel = None,
    state_dir: StateDir = None,
    workers: Workers = None,
    watch: Annotated[
        bool | None,
        typer.Option("--watch", help="Read the folder again whenever something in it changes."),
    ] = None,
    pull: Annotated[
        bool,
        typer.Option("--pull", help="First fetch the model that would run here, if it is absent."),
    ] = False,
) -> None:
    """Read the documents and answer questions until SIGTERM or Ctrl-C.

    The first Ctrl-C lets running answers finish, a second one cuts them; what was seen of them
    is stored either way.
    """
    from ragsocket.cli import listening, logs, state
    from ragsocket.cli.configure import check_folder, load_settings, unknown_variables

    settings = load_settings(
        host=host,
        port=port,
        data=data,
        llm_url=llm_url,
        llm_model=llm_model,
        embed_url=embed_url,
        embed_model=embed_model,
        state_dir=state_dir,
        workers=workers,
        watch=watch,
    )
    settings.check()
    if settings.data is not None:
        check_folder(settings.data)
    logs.configure()
    for name, advice in unknown_variables():
        logs.LOG.warning("%s in the environment has no effect: %s", name, advice)
    if pull:
        from ragsocket.cli.pulling import pull_if_absent

        pull_if_absent(settings)
    with (
        state.claimed(settings.state_dir),
        listening.bound(settings.host, settings.port) as sockets,
    ):
        # Loads the web framework, so it comes after everything that may be refused.
        from ragsocket.cli.serving import serve_until_told

        serve_until_told(settings, sockets)


@app.command(epilog=EPILOG)
def ingest(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of documents.")],
    state_dir: StateDir = None,
    embed_url: EmbedUrl = None,
    embed_model: EmbedModel = None,
) -> None:
    """Bring the index in line with a folder of documents.

    Takes in text, Markdown, HTML, PDF, Word, PowerPoint, Excel, CSV, JSON, notebooks and source
    code; what did not change is left alone, and what is gone is taken out. `serve --data` does
    the same at its start, and with `--watch` all the time. A server that runs does not notice
    what is ingested beside it: it goes on with the passages that it has, and finds the new ones
    from its next start on.

    The exit status is 1 if a file could not be taken in; the others are in the index then.
    """
    from ragsocket.cli import logs, state
    from ragsocket.cli.configure import check_folder, load_settings

    settings = load_settings(state_dir=state_dir, embed_url=embed_url, embed_model=embed_model)
    settings.check()
    check_folder(folder)
    logs.configure()
    state.prepare(settings.state_dir)
    from ragsocket.cli.ingesting import ingest_and_report

    if not ingest_and_report(settings, folder):
        raise typer.Exit(FAILED)


@app.command()
def chat(
    url: Annotated[
        str, typer.Option(metavar="URL", help="Address of the server.")
    ] = "ws://127.0.0.1:8000",
    conversation: Annotated[
        str | None, typer.Option(metavar="ID", help="Go on with this conversation.")
    ] = None,
) -> None:
    """Ask in the terminal, one question per line.

    Ctrl-C stops the answer, and leaves when there is none; /new begins a new conversation, /quit
    or Ctrl-D leaves. A lost connection is opened again, and the answer goes on where it stood.
    Questions may come from a pipe: the exit status is 1 if one failed.
    """
    from ragsocket.cli.chat import converse

    if not converse(url, conversation):
        raise typer.Exit(FAILED)


@app.command(epilog=EPILOG)
def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
    host: Host = None,
    port: Port = None,
    data: Data = None,
    llm_url: LlmUrl = None,
    llm_model: LlmModel = None,
    embed_url: EmbedUrl = None,
    embed_model: EmbedModel = None,
    state_dir: StateDir = None,
) -> None:
    """Check what serve needs, and name the fix of what is wrong.

    Changes nothing. The exit status is 1 if anything is wrong.
    """
    from ragsocket.cli.doctor import examine

    flags = {
        "host": host,
        "port": port,
        "data": data,
        "llm_url": llm_url,
        "llm_model": llm_model,
        "embed_url": embed_url,
        "embed_model": embed_model,
        "state_dir": state_dir,
    }
    if not examine(flags, as_json=as_json):
        raise typer.Exit(FAILED)


@app.command("eval", epilog=EPILOG)
def evaluate(
    questions: Annotated[
        Path, typer.Argument(metavar="FILE", help="Questions, one JSON object per line.")
    ],
    url: Annotated[
        str | None,
        typer.Option(metavar="URL", help="A running server's /v1/responses; else one is made."),
    ] = None,
    per_kind: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="At most so many questions of each kind."),
    ] = None,
    retrieval: Annotated[
        bool,
        typer.Option("--retrieval", help="Compare the ways to search, and make no answers."),
    ] = False,
    model_query: Annotated[
        bool,
        typer.Option("--model-query", help="With --retrieval, have the model write queries too."),
    ] = False,
    k: Annotated[
        int, typer.Option("-k", metavar="N", min=1, max=10, help="For recall: among N passages.")
    ] = 5,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write every outcome there.")
    ] = None,
    data: Data = None,
    llm_url: LlmUrl = None,
    llm_model: LlmModel = None,
    embed_url: EmbedUrl = None,
    embed_model: EmbedModel = None,
) -> None:
    """Ask a file of questions, and count sources, facts, citations and refusals.

    A line holds `question`, and may hold `kind`, `file` or `files` (where the answer stands) or
    `passages` (words that the right passages hold), `facts` (what a right answer holds; bars part
    alternatives) and `history`. The exit status is 1 if an answer failed.
    """
    from ragsocket.cli import logs
    from ragsocket.cli.configure import load_settings

    settings = load_settings(
        data=data,
        llm_url=llm_url,
        llm_model=llm_model,
        embed_url=embed_url,
        embed_model=embed_model,
    )
    settings.check()
    logs.configure()
    from ragsocket.cli import evaluating

    if retrieval:
        evaluating.compare(
            settings,
            questions,
            url=url,
            per_kind=per_kind,
            k=k,
            model_query=model_query,
            json_path=json_file,
        )
    elif not evaluating.evaluate(
        settings, questions, url=url, per_kind=per_kind, k=k, json_path=json_file
    ):
        raise typer.Exit(FAILED)


@app.command()
def openapi() -> None:
    """Print the OpenAPI document of the HTTP doors."""
    import json

    from ragsocket.app import create_app
    from ragsocket.settings import Settings

    # The document is the same whatever the settings are, so bad ones do not matter here.
    document = create_app(Settings.model_construct()).openapi()
    typer.echo(json.dumps(document, indent=2, ensure_ascii=False))


@app.command()
def asyncapi() -> None:
    """Print the AsyncAPI document of the sockets."""
    import json

    from ragsocket.protocol.specification import asyncapi as describe

    typer.echo(json.dumps(describe(__version__), indent=2, ensure_ascii=False))


def main() -> None:
    """Run the command line; a fault that has a fix ends in one line and no traceback."""
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        # What a terminal cannot show or a pipe cannot decode must not end a conversation.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    try:
        app(prog_name="ragsocket")
    except ConfigError as error:
        _end(error, BAD_SETTINGS)
    except RagsocketError as error:
        _end(error, FAILED)


def _end(error: RagsocketError, status: int) -> NoReturn:
    from ragsocket.cli.printable import one_line

    typer.echo(f"ragsocket: {one_line(str(error))}", err=True)
    sys.exit(status)
