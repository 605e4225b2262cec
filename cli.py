"""The front door: every command parses its options, makes one library call, and prints the result."""

from __future__ import annotations

import io
import signal
import sys
import warnings
from contextlib import redirect_stdout, suppress
from dataclasses import asdict
from typing import Any

import click

from embedstore import __version__, display
from embedstore.errors import EmbedstoreError
from embedstore.terminal import printable, say, show_json

STORE = click.option(
    "--store",
    default="embeddings",
    envvar="EMBEDSTORE_STORE",
    show_default=True,
    show_envvar=True,
    type=click.Path(),
    help="Folder of the store.",
)


def _for_machines(ctx: click.Context, _parameter: click.Parameter, wanted: bool) -> bool:
    """Keep stdout for the document: what else is printed, by a plug-in for one, goes to stderr."""
    if wanted:
        ctx.meta["stdout"] = sys.stdout
        ctx.with_resource(redirect_stdout(sys.stderr))
    return wanted


JSON = click.option(
    "--json",
    "as_json",
    is_flag=True,
    callback=_for_machines,
    help="Print one JSON document on stdout, nothing else; of an error, too.",
)
DEVICE = click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:1, mps or auto.")
MODEL = click.option(
    "--model", metavar="DIR-OR-ID", help="Checkpoint: a folder, a Hugging Face id, or musicnn's wheel."
)
TRUST = click.option(
    "--trust-remote-code",
    is_flag=True,
    help="Run Python code that comes with the checkpoint, with all your rights; asked for each time.",
)


class _Group(click.Group):
    """Turns what embedstore raises on purpose into one line and exit code 1; anything else is a bug and shows itself."""

    def list_commands(self, _ctx: click.Context) -> list[str]:
        """List them in the order that a newcomer needs them."""
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> Any:
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")  # a name that the terminal cannot show is no crash
        warnings.formatwarning = lambda message, *_where, **_more: f"note: {printable(message)}\n"
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            raise  # click ends quietly when the reader has gone
        except KeyboardInterrupt:
            self._give_up(ctx, "interrupted")
        except (EmbedstoreError, OSError, MemoryError) as error:
            self._give_up(ctx, str(error) or "out of memory")

    def _give_up(self, ctx: click.Context, why: str) -> None:
        say(f"embedstore: {why}", err=True)
        if "stdout" in ctx.meta:
            with suppress(OSError):  # stdout may be what failed
                show_json({"error": why})
        ctx.exit(1)


def _version(ctx: click.Context, _parameter: click.Parameter, wanted: bool) -> None:
    if wanted:
        click.echo(f"embedstore {__version__}")
        ctx.exit()


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Show the version.")
def main() -> None:
    """Keep what a self-supervised model hears in every track, layer by layer; find what sounds alike; probe genres.

    \b
    embedstore build ~/Music        encode a folder into ./embeddings
    embedstore search song.mp3      the tracks that sound most like it
    embedstore probe --genres 20    what each layer knows about genre
    """  # noqa: D301 - \b is click's mark for a block that is not rewrapped


@main.command()
@click.argument("audio_dir", type=click.Path())
@STORE
@click.option(
    "--encoder", help="Model: see `embedstore plugins`. [default: the store's own; music2vec for a new store]"
)
@MODEL
@click.option(
    "--labels",
    metavar="folder|FILE.csv|none",
    help="Genre labels; files that it does not name lose theirs. [default: as before for this folder; folder for a new store]",
)
@click.option("--path-column", help="CSV column that holds the path.")
@click.option("--label-column", help="CSV column that holds the genre.")
@click.option("--artist-column", help="CSV column that holds the artist.")
@click.option("--layers", metavar="all|0-6|3,5", help="Layers to keep; the network stops after the last one.")
@click.option(
    "--window",
    metavar="SECONDS|track",
    help="Sound that the model hears at once; 'track' needs memory for whole files. [default: the model's own]",
)
@click.option("--hop", type=float, metavar="SECONDS", help="From one window's start to the next. [default: the window]")
@click.option(
    "--normalise",
    type=click.Choice(["window", "file", "none"]),
    help="What is brought to zero mean and unit variance. [default: as the checkpoint says]",
)
@click.option(
    "--keep-windows",
    is_flag=True,
    help="Store a row per window and layer, too; for a new store, which then goes on so by itself.",
)
@click.option(
    "--precision",
    type=click.Choice(["float32", "bfloat16", "float16"]),
    help="Of the network's products; the last two on a GPU. [default: float32]",
)
@TRUST
@click.option("--seed", type=click.IntRange(min=0), help="Of the random weights of --encoder random:NAME.")
@click.option(
    "--device",
    default="auto",
    show_default=True,
    help="cpu, cuda, cuda:1, mps or auto; several, each with a process of its own: cuda:0,cuda:1 or cuda:all.",
)
@click.option(
    "--jobs",
    type=click.IntRange(min=1, max=1024),
    help="Files at a time. [default: one per core; at most 16 for a device other than cpu]",
)
@click.option("--limit", type=click.IntRange(min=1), help="Look at the first N files only.")
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    default=60.0,
    show_default=True,
    help="Seconds without a sign of life before a file is given up.",
)
@click.option("--retry-failed", is_flag=True, help="Try again the files that failed and have not changed.")
@click.option("--strict", is_flag=True, help="Exit with 1 if any file failed.")
@click.option("--dry-run", is_flag=True, help="Say what there is to do, how long it takes and how much it needs.")
@click.option(
    "--profile",
    metavar="FILE",
    type=click.Path(),
    help="Write there, as JSON, the seconds of each stage and of each file.",
)
@JSON
@click.pass_context
def build(
    ctx: click.Context,
    /,
    audio_dir: str,
    store: str,
    as_json: bool,
    strict: bool,
    dry_run: bool,
    profile: str | None,
    **options: Any,
) -> None:
    """Encode every audio file under AUDIO_DIR into the store; skip what is stored.

    Interrupt it when you like: the same command goes on where it was. Files that cannot be used are listed by
    `embedstore failures` and never stop the run.
    """
    from embedstore import pipeline, terminal
    from embedstore.estimate import estimate

    for polite in (signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)):
        if signal.getsignal(polite) is not signal.SIG_IGN:  # as nohup asks for
            signal.signal(polite, signal.default_int_handler)  # commits what is finished, as Ctrl-C does
    arguments = _build_arguments(**options)
    if dry_run:
        _show(estimate(audio_dir, store, **arguments).to_dict(), as_json, display.show_estimate)
        return
    with terminal.progress_bar("encoding", quiet=as_json) as tell:
        report = pipeline.build(audio_dir, store, profile=profile, progress=_Follow(tell), **arguments)
    _show(report.to_dict(), as_json, display.show_build)
    ctx.exit(1 if report.interrupted or not report.usable or (strict and report.failed) else 0)


@main.command()
@STORE
@JSON
def info(store: str, as_json: bool) -> None:
    """Show what the store holds: encoder and licence, layers, genres, artists, failures, indices."""
    from embedstore import EmbeddingStore
    from embedstore.summary import summarize

    _show(summarize(EmbeddingStore.open(store)), as_json, display.show_info)


@main.command()
@STORE
@click.option(
    "--warnings", is_flag=True, help="List what was stored with a warning instead, such as a file that stops early."
)
@JSON
def failures(store: str, warnings: bool, as_json: bool) -> None:
    """List the files that could not be stored, at which stage, and why."""
    from embedstore.summary import list_failures, list_warnings

    rows = list_warnings(_open(store)) if warnings else list_failures(_open(store))
    _show(rows, as_json, display.show_failures)


@main.command()
@STORE
@JSON
@click.pass_context
def verify(ctx: click.Context, /, store: str, as_json: bool) -> None:
    """Check every shard's sum, that every row is finite, and the catalogue against the shards."""
    from embedstore import EmbeddingStore

    report = EmbeddingStore.open(store).verify()
    _show(asdict(report), as_json, display.show_verify)
    ctx.exit(0 if report.ok else 1)


@main.command()
@STORE
@click.option("--layer", help="Number, name or 'mean'. [default: the encoder's]")
@click.option("--kind", default="auto", show_default=True, help="auto, flat or ivf.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@JSON
def index(store: str, layer: str | None, kind: str, seed: int, as_json: bool) -> None:
    """Build a FAISS index of one layer and measure its recall and latency; search works without one, too."""
    from embedstore import build_index

    report = build_index(_open(store), layer, kind=kind, seed=seed)
    _show(report.to_dict(), as_json, display.show_index)


@main.command()
@click.argument("query", required=False)
@STORE
@click.option("--genre", help="Instead of QUERY: the tracks nearest to this genre's centre.")
@click.option("-k", type=click.IntRange(min=1), default=10, show_default=True, help="How many.")
@click.option("--layer", help="Number, name or 'mean'. [default: the encoder's]")
@MODEL
@DEVICE
@TRUST
@JSON
def search(query: str | None, store: str, as_json: bool, **options: Any) -> None:
    """Find the tracks that sound most like QUERY: a stored track (id or path) or any audio file."""
    from embedstore.query import search as nearest

    if (query is None) == (options["genre"] is None):
        raise click.UsageError("give a QUERY or --genre NAME (one of the two)")
    opened = _open(store)
    result = nearest(opened, query, **options).to_dict()
    _show({**result, "notes": [*opened.problems, *result["notes"]]}, as_json, lambda _: display.show_search(result))


@main.command()
@STORE
@click.option(
    "--probe",
    default="logistic",
    show_default=True,
    help="knn, logistic, mlp, or a scikit-learn classifier by dotted path.",
)
@click.option(
    "--genres",
    metavar="N|LIST|FILE",
    help="First N in alphabetical order, or a,b,c, or a file with one per line. [default: all]",
)
@click.option(
    "--layer",
    default="all",
    show_default=True,
    help="all, a number, a name, mean (of layers) or mix (learned weights).",
)
@click.option("--folds", type=click.IntRange(min=2), default=5, show_default=True)
@click.option("--seeds", type=click.IntRange(min=1), default=3, show_default=True, help="Repetitions with other folds.")
@click.option(
    "--group",
    type=click.Choice(["artist", "none"]),
    default="artist",
    show_default=True,
    help="What must not be on both sides of a split.",
)
@click.option("--jobs", type=click.IntRange(min=1), help="Processes. [default: one per core]")
@click.option("--report", "folder", metavar="DIR", type=click.Path(), help="Write JSON, CSV and plots there.")
@JSON
def probe(store: str, as_json: bool, folder: str | None, **options: Any) -> None:
    """Measure what each layer knows about genre: grouped folds, choices made inside training, intervals, baselines."""
    import probes
    from embedstore import terminal

    if folder:
        probes.make_folder(folder)  # say now that it cannot be written, not after the work
    with terminal.progress_bar("probing", quiet=as_json) as tell:
        report = probes.evaluate(_open(store), progress=lambda d, t: tell(d, t, ""), **options)
    files = probes.write_report(report, folder) if folder else []
    _show(report.to_dict(), as_json, lambda _: probes.print_report(report, files))


@main.command()
@JSON
def plugins(as_json: bool) -> None:
    """List the registered encoders, indices, probes and label readers."""
    from embedstore.doctor import plugins as registered

    _show(registered(), as_json, display.show_plugins)


@main.command()
@JSON
@click.pass_context
def doctor(ctx: click.Context, /, as_json: bool) -> None:
    """Check the installation: versions, paths, owners of our names, devices, FFmpeg; what is missing and how to get it."""
    from embedstore.doctor import diagnose

    findings = diagnose()
    _show(findings, as_json, display.show_doctor)
    ctx.exit(0 if findings["ok"] else 1)


# ---------------------------------------------------------------------------------------- arguments and results


def _build_arguments(**options: Any) -> dict[str, Any]:
    """Sort `build`'s options into the library's arguments."""
    from embedstore.labels import Columns
    from embedstore.pipeline import EncoderOptions

    names = ("model", "layers", "window", "hop", "normalise", "precision", "trust_remote_code", "seed", "device")
    network = {name: options.pop(name) for name in names}
    columns = Columns(
        path=options.pop("path_column"), genre=options.pop("label_column"), artist=options.pop("artist_column")
    )
    return {"encoder": EncoderOptions(name=options.pop("encoder"), **network), "columns": columns, **options}


class _Follow:
    """Tells a progress bar what became of the files so far."""

    def __init__(self, tell: Any) -> None:
        self.tell, self.failed, self.seconds = tell, 0, 0.0

    def __call__(self, done: int, total: int, outcome: Any) -> None:
        if outcome is not None:
            self.failed += outcome.kind in ("failed", "vanished")
            self.seconds += outcome.report.seconds if outcome.report else 0.0
        self.tell(
            done, total, f"{self.seconds / 60:.0f} min of sound" + (f", {self.failed} failed" if self.failed else "")
        )


def _open(store: str) -> Any:
    """Open a store, and say on stderr what of it is damaged: an answer from a part must not pass for the whole."""
    from embedstore import EmbeddingStore

    opened = EmbeddingStore.open(store)
    for problem in opened.problems:
        say(f"note: {problem}", err=True)
    if opened.problems:
        say(f"note: {display.MENDING}", err=True)
    return opened


def _show(document: Any, as_json: bool, pretty: Any) -> None:
    if as_json:
        show_json(document, click.get_current_context().meta["stdout"])
    else:
        pretty(document)


if __name__ == "__main__":
    main()
