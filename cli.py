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

from embedstore import __version__
from embedstore.errors import EmbedstoreError

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
        warnings.formatwarning = lambda message, *_where, **_more: f"note: {_one_line(str(message))}\n"
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            raise  # click ends quietly when the reader has gone
        except KeyboardInterrupt:
            self._give_up(ctx, "interrupted")
        except (EmbedstoreError, OSError, MemoryError) as error:
            self._give_up(ctx, str(error) or "out of memory")

    def _give_up(self, ctx: click.Context, why: str) -> None:
        click.echo(f"embedstore: {_one_line(why)}", err=True)
        if "stdout" in ctx.meta:
            from embedstore.terminal import show_json

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
        _show(estimate(audio_dir, store, **arguments).to_dict(), as_json, _print_estimate)
        return
    with terminal.progress_bar("encoding", quiet=as_json) as tell:
        report = pipeline.build(audio_dir, store, profile=profile, progress=_Follow(tell), **arguments)
    _show(report.to_dict(), as_json, _print_build)
    ctx.exit(1 if report.interrupted or not report.usable or (strict and report.failed) else 0)


@main.command()
@STORE
@JSON
def info(store: str, as_json: bool) -> None:
    """Show what the store holds: encoder and licence, layers, genres, artists, failures, indices."""
    from embedstore import EmbeddingStore
    from embedstore.summary import summarize

    _show(summarize(EmbeddingStore.open(store)), as_json, _print_info)


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
    _show(rows, as_json, _print_failures)


@main.command()
@STORE
@JSON
@click.pass_context
def verify(ctx: click.Context, /, store: str, as_json: bool) -> None:
    """Check every shard's sum, that every row is finite, and the catalogue against the shards."""
    from embedstore import EmbeddingStore

    report = EmbeddingStore.open(store).verify()
    _show(asdict(report), as_json, _print_verify)
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
    _show(report.to_dict(), as_json, _print_index)


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
    _show({**result, "notes": [*opened.problems, *result["notes"]]}, as_json, lambda _: _print_search(result))


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

    _show(registered(), as_json, _print_plugins)


@main.command()
@JSON
@click.pass_context
def doctor(ctx: click.Context, /, as_json: bool) -> None:
    """Check the installation: versions, paths, owners of our names, devices, FFmpeg; what is missing and how to get it."""
    from embedstore.doctor import diagnose

    findings = diagnose()
    _show(findings, as_json, _print_doctor)
    ctx.exit(0 if findings["ok"] else 1)


# ---------------------------------------------------------------------------------------- arguments and printing

MENDING = "what is damaged is left out; `embedstore build` encodes its tracks again, then delete the damaged files"


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
        click.echo("note: " + _one_line(problem), err=True)
    if opened.problems:
        click.echo(f"note: {MENDING}", err=True)
    return opened


def _show(document: Any, as_json: bool, pretty: Any) -> None:
    from embedstore import terminal

    if as_json:
        terminal.show_json(document, click.get_current_context().meta["stdout"])
    else:
        pretty(document)


def _echo(text: str) -> None:
    from embedstore.terminal import printable

    click.echo("\n".join(printable(line) for line in text.split("\n")))


def _print_build(report: dict[str, Any]) -> None:
    from embedstore.terminal import below_here, hms

    for note in report["notes"]:
        click.echo("note: " + _one_line(note), err=True)
    took = f"{hms(report['seconds_audio'])} of sound in {hms(report['seconds_wall'])}"
    if report["seconds_audio"]:
        took += f" ({report['seconds_audio'] / report['seconds_wall']:.1f} x real time)"
    _echo(
        f"{report['found']} files: {report['added']} added, {report['known']} known sound, {report['skipped']} unchanged, "
        f"{report['failed']} failed; {took}\n{below_here(report['store'])} now holds {report['tracks']} tracks"
        + (f"; {report['relabelled']} have other labels than before" if report["relabelled"] else "")
    )
    if report["added"]:
        stages = dict(report["stages"])
        outside = stages.pop("share_outside_encoder")
        spent = ", ".join(f"{stage} {seconds:.1f}" for stage, seconds in stages.items())
        _echo(f"seconds: {spent}; {100 * outside:.1f} % of the lanes' time outside the encoder")
    if report["vanished"]:
        click.echo(f"{report['vanished']} files were gone when their turn came", err=True)
    if report["failed"]:
        click.echo("see: embedstore failures", err=True)
    if report["interrupted"]:
        click.echo("interrupted: what was finished is stored; the same command goes on from here", err=True)


def _print_estimate(plan: dict[str, Any]) -> None:
    from embedstore.terminal import hms, size

    _echo(
        f"{plan['found']} files: {plan['todo']} to encode, {plan['skipped']} unchanged, {plan['failed']} known to fail\n"
        f"about {hms(plan['seconds_audio'])} of sound, {hms(plan['seconds_wall'])} with {plan['encoder']}, {size(plan['bytes'])} of store"
    )


def _print_info(summary: dict[str, Any]) -> None:
    from embedstore.terminal import below_here, counts, hms, show_table, size

    card = summary["encoder"]
    dims = summary["dim"]
    rows = [
        ("tracks", f"{summary['tracks']} ({summary['files']} files, {hms(summary['seconds'])} of sound)"),
        ("failures", summary["failures"]),
        ("genres", counts(summary["genres"]) or "none"),
        (
            "artists",
            f"{len(summary['artists'])}" + (f"; most: {counts(summary['artists'], 5)}" if summary["artists"] else ""),
        ),
        ("encoder", f"{card['name']}, {card['model']}"),
        ("licence", card["licence"]),
        ("paper", card["paper"]),
        ("weights", f"sha256 {card['weights_sha256'][:16]}…" if card["weights_sha256"] else "none"),
        ("layers", ", ".join(summary["layer_names"])),
        ("ran by", card["path"]),
        ("windows", "not kept" if summary["windows"] is None else f"{summary['windows']} kept"),
        (
            "width",
            f"{dims} {summary['dtype']}"
            if isinstance(dims, int)
            else f"{', '.join(map(str, dims))} {summary['dtype']}",
        ),
        ("recipe", summary["fingerprint"][:16]),
        ("size", size(summary["bytes"])),
    ]
    rows += [("index", _index_line(one)) for one in summary["indices"]]
    rows += (
        [("warnings", f"{summary['warnings']} tracks: embedstore failures --warnings")] if summary["warnings"] else []
    )
    rows += [("problem", problem) for problem in summary["problems"]]
    show_table(("", ""), rows, title=below_here(summary["path"]))


def _index_line(index: dict[str, Any]) -> str:
    from embedstore.terminal import size

    if "problem" in index:
        return f"{index['name']}: {index['problem']}"
    return (
        f"layer {index['layer']}, {index['kind']}: covers {index['covers']} of {index['of']} tracks, "
        f"recall@10 {index['recall_at_10']:.3f}, {index['latency_ms']:.2f} ms a query, {size(index['bytes'])}"
    )


def _print_failures(rows: list[dict[str, str]]) -> None:
    from embedstore.terminal import below_here, show_table

    if rows:
        show_table(
            ("stage", "path", "reason"), [(row["stage"], below_here(row["path"]), row["reason"]) for row in rows]
        )
    else:
        click.echo("none")


def _print_verify(report: dict[str, Any]) -> None:
    for problem in report["problems"]:
        click.echo(_one_line(problem), err=True)
    if report["problems"]:
        click.echo(MENDING, err=True)
    verdict = "all is well" if report["ok"] else f"{len(report['problems'])} problems"
    click.echo(f"{report['shards']} shards, {report['rows']} rows: {verdict}")


def _print_index(report: dict[str, Any]) -> None:
    from embedstore.terminal import size

    _echo(
        f"{report['kind']} index of layer {report['layer']}: {report['rows']} rows, recall@10 {report['recall_at_10']:.3f} "
        f"against exact search, {report['latency_ms']:.2f} ms a query, {size(report['bytes'])}, built in {report['seconds']:.1f} s"
    )


def _print_search(result: dict[str, Any]) -> None:
    from embedstore.terminal import below_here, show_table

    for note in result.get("notes", []):
        click.echo("note: " + _one_line(note), err=True)
    rows = [
        (
            hit["rank"],
            f"{hit['score']:.4f}",
            hit["genre"] or "",
            hit["artist"] or "",
            hit["title"] or "",
            below_here(hit["path"]),
        )
        for hit in result["results"]
    ]
    title = f"nearest to {result['query']}, layer {result['layer']} (cosine similarity)"
    show_table(("rank>", "score>", "genre", "artist", "title", "path"), rows, title=title)


def _print_plugins(rooms: dict[str, dict[str, str]]) -> None:
    from embedstore.terminal import show_table

    show_table(
        ("room", "name", "code"), [(room, name, code) for room, names in rooms.items() for name, code in names.items()]
    )


def _print_doctor(findings: dict[str, Any]) -> None:
    from embedstore.terminal import show_table

    rows = [(name, number or "missing") for name, number in findings["versions"].items()]
    rows += [(f"path of {name}", path) for name, path in findings["paths"].items()]
    rows += [(f"owner of {name}", ", ".join(owners) or "?") for name, owners in findings["owners"].items()]
    rows += [("devices", ", ".join(findings["devices"])), ("cores", findings["cores"])]
    rows += [("fast path", f"matrix products of {findings['products'] or 'nobody'} on the CPU")]
    rows += [("ffmpeg", findings["ffmpeg"]["missing"] or "usable through torchcodec")]
    rows += [(f"plug-ins: {room}", ", ".join(names)) for room, names in findings["plugins"].items()]
    show_table(("", ""), rows)
    for problem in findings["problems"]:
        click.echo("problem: " + _one_line(problem), err=True)
    click.echo("all is well" if findings["ok"] else "see the problems above", err=not findings["ok"])


def _one_line(text: str) -> str:
    from embedstore.terminal import printable

    return printable(text)


if __name__ == "__main__":
    main()
