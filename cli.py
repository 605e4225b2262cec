"""The front door: every command parses its options, makes one library call, and prints the result."""

from __future__ import annotations

import io
import re
import shlex
import signal
import sys
import warnings
from collections.abc import Callable
from contextlib import redirect_stdout, suppress
from dataclasses import asdict
from typing import Any, TypeVar

import click

from embedstore import __version__, display
from embedstore.errors import EmbedstoreError
from embedstore.terminal import printable, say, show_exactly, show_json

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


F = TypeVar("F", bound=Callable[..., Any])


def _all(*options: Any) -> Callable[[F], F]:
    """Join options that several commands have."""

    def add(command: F) -> F:
        for option in reversed(options):
            command = option(command)
        return command

    return add


COLUMNS = _all(
    click.option("--path-column", help="CSV column that holds the path."),
    click.option("--label-column", help="CSV column that holds the genre."),
    click.option("--artist-column", help="CSV column that holds the artist."),
    click.option("--year-column", help="CSV column that holds the year, or a date."),
)
WHAT = _all(
    click.option(
        "--encoder", help="Model: see `embedstore plugins`. [default: the store's own; music2vec for a new store]"
    ),
    MODEL,
    click.option(
        "--labels",
        metavar="folder|tags|FILE.csv|READER:PATH|none",
        help="Genre labels, see `embedstore labels list`; files that it does not name lose theirs. [default: as before for this folder; folder for a new store]",
    ),
    COLUMNS,
    click.option("--layers", metavar="all|0-6|3,5", help="Layers to keep; the network stops after the last one."),
    click.option(
        "--window",
        metavar="SECONDS|track",
        help="Sound that the model hears at once; 'track' needs memory for whole files. [default: the model's own]",
    ),
    click.option(
        "--hop", type=float, metavar="SECONDS", help="From one window's start to the next. [default: the window]"
    ),
    click.option(
        "--normalise",
        type=click.Choice(["window", "file", "none"]),
        help="What is brought to zero mean and unit variance. [default: as the checkpoint says]",
    ),
    click.option(
        "--keep-windows",
        is_flag=True,
        help="Store a row per window and layer, too; for a new store, which then goes on so by itself.",
    ),
    click.option(
        "--precision",
        type=click.Choice(["float32", "bfloat16", "float16"]),
        help="Of the network's products; the last two on a GPU. [default: float32]",
    ),
    TRUST,
    click.option("--seed", type=click.IntRange(min=0), help="Of the random weights of --encoder random:NAME."),
)
DEVICES = click.option(
    "--device",
    default="auto",
    show_default=True,
    help="cpu, cuda, cuda:1, mps or auto; several, each with a process of its own: cuda:0,cuda:1 or cuda:all.",
)
JOBS = click.option(
    "--jobs",
    type=click.IntRange(min=1, max=1024),
    help="Files at a time. [default: one per core; at most 16 for a device other than cpu]",
)
LIMIT = click.option("--limit", type=click.IntRange(min=1), help="Look at the first N files only.")
LAYER = click.option(
    "--layer",
    help="Number, name or 'mean'; best or mix, or best:NAME or mix:NAME: what a saved probe chose. [default: the encoder's]",
)
TRANSFORM = click.option(
    "--transform",
    type=click.Choice(["none", "centre", "standardise", "whiten"]),
    default="none",
    show_default=True,
    help="Move all vectors first, by what the library's own look like: take its mean away; give every value, or every "
    "direction, the same spread.",
)
TIMEOUT = click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    default=60.0,
    show_default=True,
    help="Seconds without a sign of life before a file is given up.",
)
RETRY = click.option("--retry-failed", is_flag=True, help="Try again the files that failed and have not changed.")


class _Size(click.ParamType):  # type: ignore[type-arg]
    """A number of bytes."""

    name = "SIZE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?) *([kMGT]?)i?B?", value.strip(), re.IGNORECASE)
        if not match or not (count := int(float(match[1]) * 1000 ** " kmgt".index(match[2].lower() or " "))):
            self.fail(f"{value!r} is no size such as 500MB or 2GB", param, ctx)
        return count


class _Sizes(click.ParamType):  # type: ignore[type-arg]
    """Whole numbers with commas between them."""

    name = "N,N,..."

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        parts = [part.strip() for part in value.split(",") if part.strip()]
        if not parts or not all(part.isdecimal() and int(part) > 0 for part in parts):
            self.fail(f"{value!r} is no list of whole numbers above 0, such as 280,560,840", param, ctx)
        return tuple(map(int, parts))


ASKED = _all(
    click.option(
        "--genres",
        metavar="N|LIST|FILE",
        help="First N in alphabetical order, or a,b,c, or a file with one per line. [default: all]",
    ),
    click.option(
        "--multi-label", "multilabel", is_flag=True, help="Keep tracks of several genres: mAP and ROC-AUC per tag."
    ),
    click.option(
        "--layer",
        help="all, numbers, names, mean or concat (of layers), mix (learned weights); several with commas. [default: all]",
    ),
    click.option("--folds", type=click.IntRange(min=2), default=5, show_default=True),
    click.option(
        "--seeds", type=click.IntRange(min=1), default=3, show_default=True, help="Repetitions with other folds."
    ),
    click.option("--jobs", type=click.IntRange(min=1), help="Processes. [default: one per core]"),
    click.option("--fresh", is_flag=True, help="Do not use what earlier runs finished."),
)
PROBING = _all(
    click.option(
        "--probe",
        help="knn, logistic, ridge, centroid, mlp, genrenet, or a scikit-learn classifier by dotted path; several with commas. "
        "[default: logistic]",
    ),
    click.option(
        "--preset",
        type=click.Choice(["marble", "hear", "dino", "seed"]),
        help="Instead of --probe: the probe of a benchmark; seed: the lab's network, its own way and the clean one.",
    ),
    ASKED,
    click.option(
        "--split",
        type=click.Choice(["cv", "loo", "official", "lab"]),
        default="cv",
        show_default=True,
        help="Cross-validation, leave one group out (knn), the data set's own parts, or a random 30 % (as the lab did).",
    ),
    click.option(
        "--group",
        type=click.Choice(["artist", "none"]),
        default="artist",
        show_default=True,
        help="What must not be on both sides of a split.",
    ),
    click.option("--train-sizes", type=_Sizes(), default=(), help="Learning curve: tracks in the training part."),
    click.option("--shots", type=_Sizes(), default=(), help="Learning curve: training tracks per genre."),
    click.option(
        "--screen",
        type=click.IntRange(min=1),
        metavar="N",
        help="Fit only the N layers that rank best on each training part without training.",
    ),
    click.option("--quality", is_flag=True, help="Also measure the layers without training, and how alike they are."),
)
REPORT = _all(
    click.option(
        "--report",
        "folder",
        metavar="DIR",
        type=click.Path(),
        help="Write one HTML page, Markdown, JSON, CSV, LaTeX and plots there.",
    ),
    click.option(
        "--track",
        "tracker",
        type=click.Choice(["wandb", "tensorboard"]),
        help="Record the run; into DIR of --report, or ./runs.",
    ),
)


class _Group(click.Group):
    """Turns what embedstore raises on purpose into one line and exit code 1; anything else is a bug and shows itself."""

    def list_commands(self, _ctx: click.Context) -> list[str]:
        """List them in the order that a newcomer needs them."""
        return list(self.commands)

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> click.Context:
        said = shlex.join(["embedstore", *args])
        ctx = super().make_context(info_name, args, parent, **extra)
        ctx.meta["command"] = said
        return ctx

    def invoke(self, ctx: click.Context) -> Any:
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")  # a name that the terminal cannot show is no crash
        warnings.formatwarning = lambda message, *_where, **_more: f"note: {printable(message)}\n"
        as_json = "--json" in ctx.args
        try:
            return super().invoke(ctx)
        except click.UsageError as error:  # it repeats what it was given, such as the name of a file
            if as_json:
                show_json({"error": error.format_message()}, ctx.meta.get("stdout"))
            said = error.format_message().expandtabs().split("\n")
            raise click.UsageError("\n".join(map(printable, said)), error.ctx) from error
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
                show_json({"error": why}, ctx.meta["stdout"])
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
@WHAT
@DEVICES
@JOBS
@LIMIT
@TIMEOUT
@RETRY
@click.option("--strict", is_flag=True, help="Exit with 1 if any file failed.")
@click.option("--dry-run", is_flag=True, help="Say what there is to do, how long it takes and how much it needs.")
@click.option(
    "--engine",
    type=click.Choice(["local", "ray"]),
    default="local",
    show_default=True,
    help="Who encodes: this process, or a worker on each core or GPU of a Ray cluster. --jobs is then that of a worker.",
)
@click.option(
    "--address",
    metavar="HOST:PORT|auto",
    help="The Ray cluster. [default: RAY_ADDRESS; else one is started here]",
)
@click.option(
    "--profile",
    metavar="FILE",
    type=click.Path(),
    help="Write there, as JSON, the seconds of each stage and of each file.",
)
@click.option(
    "--log-json",
    metavar="FILE",
    type=click.Path(allow_dash=True),
    help="Append each event there as a line of JSON while it happens; -: to stderr.",
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
    log_json: str | None,
    **options: Any,
) -> None:
    """Encode every audio file under AUDIO_DIR into the store; skip what is stored.

    Interrupt it when you like: the same command goes on where it was. Files that cannot be used are listed by
    `embedstore failures` and never stop the run.
    """
    from embedstore import pipeline, terminal
    from embedstore.estimate import estimate
    from embedstore.eventlog import event_log

    _end_politely()
    arguments = _build_arguments(**options)
    if dry_run:
        if arguments.pop("engine") != "local" or arguments.pop("address"):
            raise click.UsageError("--dry-run measures this machine; leave out --engine and --address")
        _show(estimate(audio_dir, store, **arguments).to_dict(), as_json, display.show_estimate)
        return
    quiet = as_json or log_json == "-"
    with event_log(log_json, audio_dir=audio_dir, store=store, **arguments) as log:
        with terminal.progress_bar("encoding", quiet=quiet) as tell:
            report = pipeline.build(audio_dir, store, profile=profile, progress=_Follow(tell, log), **arguments)
        log.write("end", report=report.to_dict())
    _show(report.to_dict(), as_json, display.show_build)
    ctx.exit(1 if report.interrupted or not report.usable or (strict and report.failed) else 0)


@main.command()
@click.argument("audio_dir", type=click.Path())
@STORE
@click.option("--out", default="plan.json", show_default=True, type=click.Path(), help="File to write.")
@click.option("--shard-size", type=click.IntRange(1, 4096), default=64, show_default=True, help="Files in a shard.")
@WHAT
@DEVICE
@LIMIT
@RETRY
@JSON
def plan(audio_dir: str, store: str, out: str, as_json: bool, shard_size: int, **options: Any) -> None:
    """Write down what `build` would encode, in shards that any scheduler can hand to many machines.

    Each shard is then done by `embedstore run-shard`, and `embedstore finalize` ends the work. The audio, the store and the
    plan must have the same paths on all machines.
    """
    from embedstore.scheduled import plan_shards

    report = plan_shards(audio_dir, store, out, shard_size=shard_size, **_build_arguments(**options))
    _show(report.to_dict(), as_json, display.show_plan)


@main.command()
@click.argument("plan", type=click.Path())
@click.argument("numbers", metavar="[N|A-B]...", nargs=-1, envvar="SLURM_ARRAY_TASK_ID")
@MODEL
@TRUST
@DEVICES
@JOBS
@TIMEOUT
@JSON
@click.pass_context
def run_shard(ctx: click.Context, /, plan: str, numbers: tuple[str, ...], as_json: bool, **options: Any) -> None:
    """Encode shards of a plan; in a Slurm array, without numbers, that of the task.

    What an earlier try finished is not done again. Files that cannot be used never stop the run.
    """
    from embedstore import terminal
    from embedstore.scheduled import run_shards

    _end_politely()
    with terminal.progress_bar("encoding", quiet=as_json) as tell:
        report = run_shards(plan, numbers, progress=_Follow(tell), **options)
    _show(report.to_dict(), as_json, display.show_shards)
    ctx.exit(1 if report.interrupted else 0)


@main.command()
@click.argument("plan", type=click.Path())
@click.option("--strict", is_flag=True, help="Exit with 1 if any file failed.")
@JSON
@click.pass_context
def finalize(ctx: click.Context, /, plan: str, as_json: bool, strict: bool) -> None:
    """End the work of a plan when all its shards are done: take them in and write labels, as `build` does."""
    from embedstore.scheduled import finalize as end

    report = end(plan)
    _show(report.to_dict(), as_json, display.show_build)
    ctx.exit(1 if not report.usable or (strict and report.failed) else 0)


@main.command()
@STORE
@click.option("--no-scan", is_flag=True, help="Do not look at the folders: a second or more for 50,000 files.")
@JSON
def info(store: str, no_scan: bool, as_json: bool) -> None:
    """Show what the store holds and what of its folders is new: encoder and licence, layers, genres, artists, indices."""
    from embedstore import EmbeddingStore
    from embedstore.summary import summarize

    _show(summarize(EmbeddingStore.open(store), scan=not no_scan), as_json, display.show_info)


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
@click.argument("audio_dirs", metavar="[AUDIO_DIR]...", nargs=-1, type=click.Path())
@STORE
@click.option("--yes", is_flag=True, help="Forget what is gone also where it looks like a disk that is not mounted.")
@click.option("--dry-run", is_flag=True, help="Say what would be forgotten.")
@JSON
@click.pass_context
def prune(ctx: click.Context, /, audio_dirs: tuple[str, ...], store: str, as_json: bool, **options: bool) -> None:
    """Forget files that are gone from the disk, below AUDIO_DIR or wherever they were.

    A folder that is missing or without audio, or has lost more than 20 % of its stored files, is left as it is, and the
    exit code is 1. Vectors stay until `embedstore compact`: a file that comes back before is not encoded again.
    """
    from embedstore.folders import prune as forget

    report = forget(_open(store), audio_dirs or None, **options)
    _show(report.to_dict(), as_json, display.show_prune)
    ctx.exit(1 if report.refused else 0)


@main.command()
@STORE
@click.option(
    "--repair",
    is_flag=True,
    help="Move what is damaged into the store's folder 'quarantine', so that a build fills the hole.",
)
@JSON
@click.pass_context
def verify(ctx: click.Context, /, store: str, repair: bool, as_json: bool) -> None:
    """Check every shard's sum, that every row is finite, and the catalogue against the shards."""
    from embedstore import EmbeddingStore

    opened = EmbeddingStore.open(store)
    report = opened.repair() if repair else opened.verify()
    _show(asdict(report), as_json, display.show_verify)
    ctx.exit(0 if report.ok or repair else 1)


@main.command()
@STORE
@JSON
def compact(store: str, as_json: bool) -> None:
    """Merge small shards into big ones and drop what no file holds any more: quicker reads, less space, the same content."""
    from embedstore import EmbeddingStore

    _show(asdict(EmbeddingStore.open(store).compact()), as_json, display.show_compact)


@main.command()
@click.argument("targets", metavar="TRACK|FOLDER...", nargs=-1, required=True)
@STORE
@click.option("--yes", is_flag=True, help="Also if that is more than 20 % of the stored files.")
@JSON
def rm(targets: tuple[str, ...], store: str, yes: bool, as_json: bool) -> None:
    """Forget tracks with all their files, by path, name or id, or all files below a folder. The audio is not touched.

    A file that still lies in a folder that is built comes back with the next build. Vectors stay until `embedstore compact`.
    """
    _show(asdict(_open(store).remove(targets, yes=yes)), as_json, display.show_remove)


@main.command()
@click.argument("sources", metavar="STORE...", nargs=-1, required=True, type=click.Path())
@STORE
@JSON
@click.pass_context
def merge(ctx: click.Context, /, sources: tuple[str, ...], store: str, as_json: bool) -> None:
    """Take the tracks of other stores of the same recipe into --store, which is made if it is not there.

    What --store knows about a file stays. The other stores are only read.
    """
    from embedstore import EmbeddingStore

    others = [EmbeddingStore.open(source) for source in sources]
    target = EmbeddingStore.open_or_create(store, others[0].card, others[0].recipe)
    report = target.merge(*others)
    _show(asdict(report), as_json, display.show_merge)
    ctx.exit(1 if report.problems else 0)


@main.command()
@STORE
@LAYER
@TRANSFORM
@click.option(
    "--kind",
    default="auto",
    show_default=True,
    metavar="NAME|FACTORY",
    help="flat, ivf, rabitq, ivf-rabitq, hnsw, gpu-flat, gpu-ivf, gpu-cagra, or a FAISS factory string such as IVF256,SQ8.",
)
@click.option(
    "--recall",
    type=click.FloatRange(0, 1, min_open=True),
    default=0.99,
    show_default=True,
    help="Share of the ten true neighbours that an approximate index is tuned to find.",
)
@click.option(
    "--memory",
    type=_Size(),
    metavar="SIZE",
    default="1GB",
    show_default=True,
    help="What the index may hold in memory.",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--update", is_flag=True, help="Add what is new to the index there is, without learning anew.")
@JSON
@click.pass_context
def index(ctx: click.Context, /, store: str, as_json: bool, **options: Any) -> None:
    """Build an index of one layer and measure its recall and latency; search works without one, too."""
    from embedstore.index import Goal, build_index, update_index

    update, goal = options.pop("update"), Goal(options.pop("recall"), options.pop("memory"))
    if update and (given := _given(ctx, "recall", "memory", "seed")):
        raise click.UsageError(f"--update keeps what the index was built with; leave out {given}")
    opened = _open(store)
    options["layer"] = _layer(opened, options["layer"])
    if update:
        report = update_index(opened, options["layer"], options["kind"], transform=options["transform"])
    else:
        report = build_index(opened, goal=goal, **options)
    _show(report.to_dict(), as_json, display.show_index)


@main.command()
@click.argument("query", metavar="[QUERY]...", nargs=-1)
@STORE
@click.option(
    "--like",
    nargs=2,
    type=(str, float),
    multiple=True,
    metavar="QUERY WEIGHT",
    help="One more QUERY, of another weight than 1.",
)
@click.option("--unlike", multiple=True, metavar="QUERY", help="Not like this; short for --like QUERY -0.5.")
@click.option("--at", metavar="M:SS", help="Only this moment of QUERY; of a stored track if windows are kept.")
@click.option("--genre", help="Instead of QUERY: the tracks nearest to this genre's centre.")
@click.option(
    "--queries",
    metavar="FILE",
    type=click.Path(),
    help="Instead of QUERY: one on each line; or CSV or JSON lines of query, weight, at, genre, name; lines of one name are one "
    "query.",
)
@click.option("-k", type=click.IntRange(min=1), default=10, show_default=True, help="How many.")
@click.option(
    "--only",
    multiple=True,
    metavar="FIELD=VALUE",
    help="FIELD genre, artist, album or path (a pattern); of one field: any of them.",
)
@click.option("--without", multiple=True, metavar="FIELD=VALUE", help="The opposite.")
@click.option("--years", metavar="A-B", help="Also A- and -B.")
@click.option("--duration", metavar="A-B", help="In seconds, or as 1:30-10:00.")
@click.option("--per-artist", type=click.IntRange(min=1), metavar="N", help="At most N tracks of an artist.")
@click.option("--collapse", is_flag=True, help="Show one of tracks that are the same music.")
@click.option("--least", type=click.FloatRange(-1, 1), metavar="SCORE", help="Smallest similarity.")
@click.option(
    "--diversity",
    type=click.FloatRange(0, 1),
    default=0.0,
    show_default=True,
    help="0: the nearest; towards 1: ever more unlike each other.",
)
@LAYER
@TRANSFORM
@click.option(
    "--format",
    "form",
    type=click.Choice(["table", "json", "csv", "m3u8"]),
    help="[default: table; with --out, as FILE's name says]",
)
@click.option("--out", metavar="FILE", type=click.Path(), help="Write there.")
@click.option("--overwrite", is_flag=True, help="Replace FILE.")
@click.option("--relative", is_flag=True, help="Paths of a playlist as seen from its folder.")
@MODEL
@DEVICE
@TRUST
@JSON
@click.pass_context
def search(
    ctx: click.Context,
    /,
    store: str,
    as_json: bool,
    form: str | None,
    out: str | None,
    overwrite: bool,
    relative: bool,
    **options: Any,
) -> None:
    """Find the tracks that sound most like QUERY: a stored track (id, path, name, words of artist and title) or any audio file.

    Several are added up. A track that was asked for is not among the results.
    """
    from embedstore.search import Searcher, batch, playlists

    _check_output(as_json, form, out, relative, overwrite)
    lines, wanted, shape = _question(options)
    opened = _open(store)
    with Searcher(opened, **options | {"layer": _layer(opened, options["layer"])}) as searcher:
        answers = batch.search_lines(searcher, lines, wanted, shape)
    file = out and playlists.write_answers(opened, answers, out, form, relative=relative, overwrite=overwrite)
    document = playlists.document_of(answers) | ({"file": file} if file else {})
    if as_json or file or form in (None, "table"):
        _show(document, as_json, lambda found: display.show_search(found, told=opened.problems))
    else:
        show_exactly(playlists.text_of(answers, form, "." if relative else None))
        display.show_search({**document, "file": None}, told=opened.problems)  # what went wrong, and notes
    ctx.exit(1 if any(answer.error for answer in answers) else 0)


@main.command()
@STORE
@LAYER
@TRANSFORM
@click.option(
    "--near", metavar="GENRE|TRACK", help="Instead of the map: the genres nearest to this one or to a stored track."
)
@click.option("--out", metavar="FILE.png|.svg|.csv|.json", type=click.Path(), help="Also draw the map, or write it.")
@click.option("--overwrite", is_flag=True, help="Replace FILE.")
@JSON
def genre_map(store: str, as_json: bool, near: str | None, out: str | None, overwrite: bool, **options: Any) -> None:
    """Show how alike genres are, and whether each is as near to itself as to others, with a tree that joins the nearest."""
    from embedstore.exports.genremap import save_genre_map
    from embedstore.search import genres

    if near is not None and out is not None:
        raise click.UsageError("--near shows one row of the map and writes no file; leave out --out")
    opened = _open(store)
    options["layer"] = _layer(opened, options["layer"])
    if near is not None:
        found = [{"genre": name, "similarity": score} for name, score in genres.nearest_genres(opened, near, **options)]
        _show({"near": near, "nearest": found}, as_json, display.show_nearest_genres)
        return
    seen = genres.genre_map(opened, **options)
    file = save_genre_map(opened, seen, out, overwrite=overwrite) if out else None
    _show(seen.to_dict() | {"file": file}, as_json, display.show_genre_map)


@main.command("map")
@STORE
@click.option(
    "--method",
    type=click.Choice(["umap", "pca"]),
    default="umap",
    show_default=True,
    help="umap keeps near tracks near; pca is quick and coarse.",
)
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True)
@click.option(
    "--neighbors",
    type=click.IntRange(2, 200),
    default=15,
    show_default=True,
    help="Of each track, that UMAP tries to keep beside it: fewer show small groups, more the whole.",
)
@JSON
def make_map(store: str, as_json: bool, **options: Any) -> None:
    """Place all tracks in a plane, layer by layer, so that those that sound alike lie together: the map that `serve` shows.

    It is kept in the store. Tracks that come later are placed beside those they are most like.
    """
    from embedstore import maps, terminal

    _end_politely()
    with terminal.progress_bar("mapping", quiet=as_json) as tell:
        made = maps.make_map(_open(store), progress=tell, **options)
    _show(made.to_dict(), as_json, display.show_map)


@main.command()
@click.argument("target", metavar="FILE.parquet|FILE.csv")
@STORE
@click.option("-k", type=click.IntRange(min=1), default=10, show_default=True, help="Neighbours of each track.")
@LAYER
@TRANSFORM
@click.option("--exact", is_flag=True, help="Compare all tracks, even where there is an index.")
@click.option("--overwrite", is_flag=True, help="Replace the file.")
@JSON
def knn_graph(target: str, store: str, as_json: bool, **options: Any) -> None:
    """Write the nearest neighbours of every track as a table of edges: source, target, rank, score."""
    from embedstore import terminal
    from embedstore.exports.knngraph import knn_graph as write

    _end_politely()
    opened = _open(store)
    options["layer"] = _layer(opened, options["layer"])
    with terminal.progress_bar("finding neighbours", quiet=as_json) as tell:
        report = write(opened, target, progress=lambda d, t: tell(d, t, ""), **options)
    _show(asdict(report), as_json, display.show_graph)


@main.command()
@STORE
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="Name or address to listen on; 0.0.0.0: for other machines, too.",
)
@click.option("--port", type=click.IntRange(0, 65535), default=8765, show_default=True, help="0: any that is free.")
@click.option(
    "--token",
    envvar="EMBEDSTORE_TOKEN",
    show_envvar=True,
    help="That each request must bring. [default: none on this machine alone, else a random one, which is printed]",
)
@LAYER
@TRANSFORM
@MODEL
@DEVICE
@TRUST
@JSON
def serve(store: str, as_json: bool, **options: Any) -> None:
    """Open a page to explore the store by ear, and answer programs in JSON, until interrupted; the store may grow meanwhile.

    Tracks, labels and vectors are only read; maps and results lie beside them. /openapi.json describes how programs ask. Where
    others can reach the service, each request needs the token.
    """
    from embedstore.web import serve as answer
    from probes.web import extension

    _end_politely()
    opened = _open(store)
    options["layer"] = _layer(opened, options["layer"])
    ready = lambda at: _show(at.to_dict(), as_json, display.show_address)  # noqa: E731
    answer(opened, ready=ready, extensions=[extension], **options)


@main.command()
@STORE
@PROBING
@click.option(
    "--save",
    metavar="NAME|FILE",
    help="Keep the trained probe for `embedstore classify`: NAME lies in the store, a path such as ./NAME where it says; an "
    "earlier one is replaced.",
)
@click.option(
    "--audit", is_flag=True, help="Also audit the (first) probe for leaks, as `embedstore audit`; a part of the report."
)
@click.option("--search", is_flag=True, help="Also measure search, as `embedstore search-eval`; a part of the report.")
@REPORT
@JSON
@click.pass_context
def probe(ctx: click.Context, /, store: str, as_json: bool, **options: Any) -> None:
    """Measure what each layer knows about genre: grouped folds, choices made inside training, intervals, baselines.

    What is finished is kept in the store: the same command goes on where it was stopped, or answers at once.
    """
    _probe(ctx, _open(store), as_json, **options)


@main.command()
@click.argument("stores", metavar="STORE_A STORE_B", nargs=2, type=click.Path())
@PROBING
@REPORT
@JSON
@click.pass_context
def compare(ctx: click.Context, /, stores: tuple[str, str], as_json: bool, **options: Any) -> None:
    """Compare two encoders on the tracks that both stores have: same folds, same seeds, paired tests."""
    import probes

    _probe(ctx, probes.side_by_side(*map(_open, stores)), as_json, **options)


@main.command()
@STORE
@click.option(
    "--probe", default="logistic", show_default=True, help="As of `embedstore probe`; one whose fits are quick."
)
@ASKED
@click.option(
    "--report",
    "folder",
    metavar="DIR",
    type=click.Path(),
    help="Write one HTML page, Markdown, JSON, CSV and plots there.",
)
@JSON
def audit(store: str, as_json: bool, folder: str | None, **options: Any) -> None:
    """Show what the score owes to a track, album, artist or recording on both sides of a split.

    The probe runs under no grouping and under ever stricter ones, on the same tracks and genres.
    """
    import probes
    from embedstore import terminal

    _end_politely()
    if folder is not None:
        probes.make_folder(folder)  # say now that it cannot be written, not after the work
    opened, fresh = _open(store), options.pop("fresh")
    with terminal.progress_bar("auditing", quiet=as_json) as tell:
        cells = None if fresh else opened.path / "cells"
        report = probes.audit_leaks(opened, cells=cells, keep=True, progress=lambda d, t: tell(d, t, ""), **options)
    files = probes.write_report(report, folder) if folder else []
    _show(report.to_dict(), as_json, lambda _: probes.print_report(report, files))


@main.command()
@STORE
@click.option(
    "--layer",
    help="all, numbers, names, mean; best, mix (what a saved probe chose); several with commas. [default: all and their mean]",
)
@click.option(
    "--probe", metavar="NAME|FILE", help="The saved probe behind best and mix. [default: the store's only one]"
)
@click.option(
    "--transform",
    type=click.Choice(["none", "centre", "standardise", "whiten", "all"]),
    multiple=True,
    default=("none",),
    help="How vectors are moved before they are compared; may be given several times. [default: none]",
)
@click.option("-k", type=_Sizes(), default=(1, 5, 10), help="Of precision at k. [default: 1,5,10]")
@click.option(
    "--genres",
    metavar="N|LIST|FILE",
    help="First N in alphabetical order, or a,b,c, or a file with one per line. [default: all]",
)
@click.option(
    "--triplets",
    metavar="FILE.csv",
    type=click.Path(),
    help="Judgements: anchor,near,far, or MagnaTagATune's comparisons_final.csv.",
)
@click.option(
    "--queries",
    type=click.IntRange(min=1),
    default=20_000,
    show_default=True,
    help="In a larger library a sample of so many tracks asks.",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option(
    "--report",
    "folder",
    metavar="DIR",
    type=click.Path(),
    help="Write one HTML page, Markdown, JSON, CSV and plots there.",
)
@JSON
@click.pass_context
def search_eval(ctx: click.Context, /, store: str, as_json: bool, folder: str | None, **options: Any) -> None:
    """Measure a search: precision and mAP of genre with and without the query's own artist, hubs, triplets, by layer."""
    import probes
    from embedstore import terminal

    if folder is not None:
        probes.make_folder(folder)  # say now that it cannot be written, not after the work
    options["command"] = ctx.meta["command"]
    with terminal.progress_bar("searching", quiet=as_json) as tell:
        report = probes.evaluate_search(_open(store), progress=lambda d, t: tell(d, t, ""), **options)
    files = probes.write_report(report, folder) if folder else []
    _show(report.to_dict(), as_json, lambda _: probes.print_report(report, files))


@main.command()
@click.argument("audio_dir", required=False, type=click.Path())
@STORE
@DEVICE
@JOBS
@LIMIT
@TIMEOUT
@JSON
@click.pass_context
def baselines(ctx: click.Context, /, audio_dir: str | None, store: str, as_json: bool, **options: Any) -> None:
    """Build what probes are compared with: MFCC statistics, and the store's own network with random weights.

    They are stores inside the store. AUDIO_DIR is where its music is; by default the folders that it was built from.
    """
    from embedstore import terminal
    from embedstore.baselines import build_baselines

    _end_politely()
    with terminal.progress_bar("encoding", quiet=as_json) as tell:
        reports = build_baselines(_open(store), audio_dir, progress=lambda _: _Follow(tell), **options)
    _show({name: report.to_dict() for name, report in reports.items()}, as_json, display.show_baselines)
    ctx.exit(1 if any(report.interrupted or not report.usable for report in reports.values()) else 0)


@main.command()
@click.argument("audio", metavar="AUDIO...", nargs=-1, required=True, type=click.Path())
@STORE
@click.option("--probe", metavar="NAME|FILE", help="A saved probe. [default: the only one of the store]")
@click.option("--abstain", type=click.FloatRange(0, 1), metavar="P", help="Say 'not sure' below this probability.")
@click.option(
    "--risk",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    metavar="R",
    help="Say it where needed to keep wrong answers to this share, such as 0.2.",
)
@click.option("--top", type=click.IntRange(min=1), default=2, show_default=True, help="Genres to show.")
@MODEL
@DEVICES
@JOBS
@TIMEOUT
@TRUST
@JSON
@click.pass_context
def classify(ctx: click.Context, /, audio: tuple[str, ...], store: str, as_json: bool, **options: Any) -> None:
    """Name the genres of AUDIO, files or folders, by a probe that `embedstore probe --save NAME` has kept.

    The probabilities are calibrated. Nothing is stored; what the store holds already is not encoded.
    """
    import probes
    from embedstore import terminal

    if options["abstain"] is not None and options["risk"] is not None:
        raise click.UsageError("--abstain and --risk both set the threshold; give one of the two")
    _end_politely()
    with terminal.progress_bar("encoding", quiet=as_json) as tell:
        found = probes.classify(_open(store), audio, progress=_Follow(tell), **options)
    _show(found.to_dict(), as_json, display.show_classify)
    ctx.exit(1 if found.failed else 0)


@main.command()
@click.argument("target", metavar="FILE|ADDRESS")
@STORE
@click.option("--to", metavar="h5|parquet|milvus", help="What to write. [default: as the name of the file says]")
@click.option(
    "--layer",
    "layers",
    multiple=True,
    metavar="all|N|NAME|mean",
    help="May be given several times. [default: all; for milvus, which takes one, the encoder's]",
)
@click.option("--collection", metavar="NAME", help="milvus: its name. [default: embedstore_layer_NN]")
@click.option("--float32", is_flag=True, help="h5: for programs that read no float16.")
@click.option("--overwrite", is_flag=True, help="h5, parquet: replace the file.")
@JSON
def export(target: str, store: str, as_json: bool, **options: Any) -> None:
    """Write vectors and labels for other programs: one HDF5 file, a Parquet file, or a Milvus collection.

    An ADDRESS is that of a Milvus server, such as http://host:19530, whose token is taken from the environment variable
    MILVUS_TOKEN. A FILE that ends with .db is a folder of Milvus Lite.
    """
    from embedstore import terminal
    from embedstore.exports import export as write

    _end_politely()
    opened = _open(store)
    with terminal.progress_bar("exporting", quiet=as_json) as tell:
        report = write(opened, target, progress=lambda d, t: tell(d, t, ""), **options)
    _show(asdict(report), as_json, display.show_export)


@main.group()
def labels() -> None:
    """Look at genre labels before anything is encoded: whose they are, what they cover, what is wrong with them."""


@labels.command()
@click.argument("source")
@click.argument("audio_dir", type=click.Path())
@COLUMNS
@JSON
@click.pass_context
def check(ctx: click.Context, /, source: str, audio_dir: str, as_json: bool, **columns: str | None) -> None:
    """Say what SOURCE knows about the audio files under AUDIO_DIR, and what would spoil a measurement.

    \b
    SOURCE is what --labels takes, such as
      folder | tags             genre folders; the tags inside the files
      FILE.csv                  any table; Spotify Tracks, FMA and MTG-Jamendo are known by their headers
      spotify:FILE.csv          Spotify Tracks, by track id in the file name, else by artist and title in the tags
      gtzan | gtzan:LISTS       fault-filtered; the lists of the split from torchaudio, or from a folder
      fma:tracks.csv#small      the small set of FMA; without the #, all of it
      jamendo:DIR#split-2,all   MTG-Jamendo, split 2, tags of all kinds; without the #, genres of split 0
    The exit code is 1 if no file gets a genre.
    """  # noqa: D301 - \b is click's mark for a block that is not rewrapped
    from embedstore.labels.check import check_labels

    named = _columns(*(columns[f"{name}_column"] for name in ("path", "label", "artist", "year")))
    report = check_labels(source, audio_dir, columns=named)
    _show(report.to_dict(), as_json, display.show_labels)
    ctx.exit(0 if report.with_genre else 1)


@labels.command("list")
@JSON
def list_labels(as_json: bool) -> None:
    """List the label readers, with licence, citation and home page of the data sets."""
    from embedstore.labels.check import list_readers

    _show(list_readers(), as_json, display.show_readers)


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
    from embedstore.options import EncoderOptions

    names = ("model", "layers", "window", "hop", "normalise", "precision", "trust_remote_code", "seed", "device")
    network = {name: options.pop(name) for name in names}
    columns = _columns(*(options.pop(f"{name}_column") for name in ("path", "label", "artist", "year")))
    return {"encoder": EncoderOptions(name=options.pop("encoder"), **network), "columns": columns, **options}


def _columns(path: str | None, genre: str | None, artist: str | None, year: str | None) -> Any:
    from embedstore.labels import Columns

    return Columns(path=path, genre=genre, artist=artist, year=year)


def _end_politely() -> None:
    """Have SIGTERM and SIGHUP do as Ctrl-C does: what is finished is kept, what is half done is removed."""
    for polite in (signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)):
        if signal.getsignal(polite) is not signal.SIG_IGN:  # as nohup asks for
            signal.signal(polite, signal.default_int_handler)


class _Follow:
    """Tells a progress bar and a log what became of the files so far."""

    def __init__(self, tell: Any, log: Any = lambda *_: None) -> None:
        self.tell, self.log, self.failed, self.seconds = tell, log, 0, 0.0

    def __call__(self, done: int, total: int, outcome: Any) -> None:
        self.log(done, total, outcome)
        if outcome is not None:
            self.failed += outcome.kind in ("failed", "vanished")
            self.seconds += outcome.report.seconds if outcome.report else 0.0
        self.tell(
            done, total, f"{self.seconds / 60:.0f} min of sound" + (f", {self.failed} failed" if self.failed else "")
        )


def _probe(
    ctx: click.Context,
    source: Any,
    as_json: bool,
    *,
    folder: str | None,
    tracker: str | None,
    fresh: bool,
    audit: bool = False,
    search: bool = False,
    **options: Any,
) -> None:
    """Run probes and show what they found; the work that is finished stays in the (first) store."""
    import probes
    from embedstore import terminal

    _end_politely()
    if folder is not None:
        probes.make_folder(folder)  # say now that it cannot be written, not after the work
    if tracker:
        probes.check_tracker(tracker)
    home = next(iter(source.values())) if isinstance(source, dict) else source
    given = {name: value for name, value in options.items() if value is not None}
    with terminal.progress_bar("probing", quiet=as_json) as tell:
        found = probes.run(
            source,
            cells=None if fresh else home.path / "cells",
            command=ctx.meta["command"],
            keep=True,
            progress=lambda done, total: tell(done, total, ""),
            **given,
        )
        leaks = (
            probes.audit_alike(source, found, cells=None if fresh else home.path / "cells", keep=True, **given)
            if audit
            else None
        )
        hits = probes.evaluate_search(home, genres=given.get("genres")) if search else None
    files = probes.write_report(found, folder, audit=leaks, search=hits) if folder else []
    untold = ""
    try:
        files += probes.track(found, tracker, folder) if tracker else []
    except EmbedstoreError as error:  # the numbers are there all the same
        untold = str(error)
    more = {name: one.to_dict() for name, one in (("audit", leaks), ("search", hits)) if one}
    document = found.to_dict() | more | ({"error": untold} if untold else {})
    _show(document, as_json, lambda _: probes.print_report(found, files, audit=leaks, search=hits))
    if untold:
        say(f"embedstore: {untold}", err=True)
        ctx.exit(1)


def _given(ctx: click.Context, *names: str) -> str:
    """Name those of some options that were written down."""
    written = [name for name in names if ctx.get_parameter_source(name) is not click.core.ParameterSource.DEFAULT]
    return ", ".join(f"--{name.replace('_', '-')}" for name in written)


def _question(options: dict[str, Any]) -> tuple[Any, Any, Any]:
    """Take what is asked, among what, and in which shape, out of the options of `search`."""
    from embedstore.search import Shape, reading

    tracks, like, unlike, at, genre, file = (
        options.pop(name) for name in ("query", "like", "unlike", "at", "genre", "queries")
    )
    if bool(tracks or like) + (genre is not None) + (file is not None) != 1:
        raise click.UsageError(
            "give a QUERY (or --like), or --genre NAME, or --queries FILE; within a genre: --only genre=NAME"
        )
    if at is not None and len(tracks) != 1:
        raise click.UsageError("--at is a moment of one QUERY")
    if file is not None and unlike:
        raise click.UsageError("in a file of queries, a weight below 0 says --unlike")
    lines = reading.read_queries(file) if file else reading.read_request(tracks, like, unlike, at, genre)
    wanted = reading.read_filter(*(options.pop(name) for name in ("only", "without", "years", "duration")))
    names = ("k", "per_artist", "collapse", "least", "diversity")
    return lines, wanted, Shape(**{name: options.pop(name) for name in names})


def _check_output(as_json: bool, form: str | None, out: str | None, relative: bool, overwrite: bool) -> None:
    """Refuse options of output that say different things."""
    if as_json and form not in (None, "json") and not out:
        raise click.UsageError(
            f"--json and --format {form} both say what is printed; give one of the two, or --out FILE"
        )
    if out and form == "table":
        raise click.UsageError("a table is for people; write json, csv or m3u8")
    if relative and "m3u8" not in (form, (out or "").lower().rpartition(".")[2]):
        raise click.UsageError("--relative is for playlists")
    if overwrite and not out:
        raise click.UsageError("--overwrite replaces the FILE of --out; give one")


def _layer(store: Any, layer: str | None) -> Any:
    """Give the layer that is meant by best, mix, best:NAME or mix:NAME."""
    which, _, name = (layer or "").partition(":")
    if which not in ("best", "mix"):
        return layer
    import probes

    return probes.space_of(store, name or None, which)


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
