"""How each command's result reads on a terminal; computes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from embedstore.terminal import below_here, branches, clock, counts, hms, printable, say, show_table, size

__all__ = [
    "MENDING",
    "show_address",
    "show_baselines",
    "show_build",
    "show_classify",
    "show_compact",
    "show_doctor",
    "show_estimate",
    "show_export",
    "show_failures",
    "show_genre_map",
    "show_graph",
    "show_index",
    "show_info",
    "show_labels",
    "show_map",
    "show_merge",
    "show_nearest_genres",
    "show_plan",
    "show_plugins",
    "show_prune",
    "show_readers",
    "show_remove",
    "show_search",
    "show_shards",
    "show_verify",
]

MENDING = (
    "what is damaged is left out; `embedstore verify --repair` moves it away, the next build encodes its tracks again"
)
_FACTS = {"data set": "name", "licence": "licence", "citation": "citation", "home page": "url"}


def show_build(report: dict[str, Any]) -> None:
    """Say what a build did."""
    for note in report["notes"]:
        say("note: " + note, err=True)
    took = f"{hms(report['seconds_audio'])} of sound in {hms(report['seconds_wall'])}"
    if report["seconds_audio"]:
        took += f" ({report['seconds_audio'] / report['seconds_wall']:.1f} x real time)"
    say(
        f"{report['found']} files: {report['added']} added, {report['known']} known sound, {report['skipped']} unchanged, "
        f"{report['failed']} failed; {took}",
        f"{below_here(report['store'])} now holds {report['tracks']} tracks"
        + (f"; {report['relabelled']} have other labels than before" if report["relabelled"] else ""),
    )
    if report["seconds_audio"]:
        stages = dict(report["stages"])
        outside = stages.pop("share_outside_encoder")
        spent = ", ".join(f"{stage} {seconds:.1f}" for stage, seconds in stages.items())
        say(f"seconds: {spent}; {100 * outside:.1f} % of the lanes' time outside the encoder")
    if report["vanished"]:
        say(f"{report['vanished']} files were gone when their turn came", err=True)
    if report["failed"]:
        say("see: embedstore failures", err=True)
    if report["interrupted"]:
        say("interrupted: what was finished is stored; the same command goes on from here", err=True)


def show_baselines(reports: dict[str, Any]) -> None:
    """Say what the build of each baseline did."""
    for name, report in reports.items():
        say(f"{name.replace('_', ' ')}:")
        show_build(report)


def show_plan(report: dict[str, Any]) -> None:
    """Say what a plan holds."""
    for note in report["notes"]:
        say("note: " + note, err=True)
    say(
        f"{report['found']} files: {report['todo']} to encode, {report['skipped']} unchanged, {report['failed']} known to fail",
        f"{below_here(report['plan'])} has {report['shards']} shards for {below_here(report['store'])}",
    )


def show_shards(report: dict[str, Any]) -> None:
    """Say what became of some shards."""
    for note in report["notes"]:
        say("note: " + note, err=True)
    say(
        f"{len(report['shards'])} shard{'s'[: len(report['shards']) != 1]}, {report['files']} files: {report['added']} added, {report['known']} known sound, "
        f"{report['before']} done before, {report['failed']} failed, {report['vanished']} gone; "
        f"{hms(report['seconds_audio'])} of sound in {hms(report['seconds_wall'])}"
    )
    if report["interrupted"]:
        say("interrupted: what was finished is stored; the same command goes on from here", err=True)


def show_estimate(plan: dict[str, Any]) -> None:
    """Say what a build would do."""
    say(
        f"{plan['found']} files: {plan['todo']} to encode, {plan['skipped']} unchanged, {plan['failed']} known to fail",
        f"about {hms(plan['seconds_audio'])} of sound, {hms(plan['seconds_wall'])} with {plan['encoder']}, {size(plan['bytes'])} of store",
    )


def show_info(summary: dict[str, Any]) -> None:
    """Show what a store holds."""
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
    rows += [("folder", _folder_line(one)) for one in summary["folders"] or ()]
    rows += [("index", _index_line(one)) for one in summary["indices"]]
    rows += (
        [("warnings", f"{summary['warnings']} tracks: embedstore failures --warnings")] if summary["warnings"] else []
    )
    rows += [("problem", problem) for problem in summary["problems"]]
    show_table(("", ""), rows, title=below_here(summary["path"]))


def _folder_line(folder: dict[str, Any]) -> str:
    root = below_here(folder["root"])
    if not folder["there"]:
        return f"{root}: not there now (is the disk mounted?); {folder['known']} stored files"
    parts = [
        f"{folder[kind]} {kind}" for kind in ("stored", "failed", "changed", "new") if folder[kind] or kind == "stored"
    ]
    gone = f"; {folder['gone']} stored ones are gone" if folder["gone"] else ""
    return f"{root}: {folder['found']} files, {', '.join(parts)}{gone}"


def _index_line(index: dict[str, Any]) -> str:
    if "problem" in index:
        return f"{index['name']} is not usable ({index['problem']}); build it again with: embedstore index"
    rest = f" ({index['of'] - index['covers']} are scanned)" if index["covers"] < index["of"] else ""
    rest += f", {index['stale']} rows of tracks that are gone" if index["stale"] else ""
    return (
        f"{_space(index)}, {index['kind']}: covers {index['covers']} of {index['of']} tracks{rest}, "
        f"recall@10 {index['recall_at_10']:.3f}, {index['latency_ms']:.2f} ms a query, {size(index['bytes'])}"
    )


def show_prune(report: dict[str, Any]) -> None:
    """Say what was forgotten, and what was not."""
    for line in report["refused"]:
        say("refused: " + line, err=True)
    say(
        *(f"would forget {path}" for path in report["forgotten"] if report["dry_run"]),
        f"{len(report['forgotten'])} files and {report['failures']} failures {'would be' if report['dry_run'] else 'are'} forgotten; "
        f"{report['hidden']} tracks have no file left (their vectors stay until `embedstore compact`)",
        f"{below_here(report['store'])} holds {report['tracks']} tracks",
    )


def show_failures(rows: list[dict[str, str]]) -> None:
    """List files and what is wrong with them."""
    if rows:
        show_table(
            ("stage", "path", "reason"), [(row["stage"], below_here(row["path"]), row["reason"]) for row in rows]
        )
    else:
        say("none")


def show_verify(report: dict[str, Any]) -> None:
    """Say what is wrong with a store."""
    for problem in report["problems"]:
        say(problem, err=True)
    if report["quarantined"]:
        say(f"moved: {', '.join(report['quarantined'])}; the next build encodes what is missing", err=True)
    elif report["problems"]:
        say(MENDING, err=True)
    verdict = "all is well" if report["ok"] else f"{len(report['problems'])} problems"
    say(f"{report['shards']} shards, {report['rows']} rows: {verdict}")


def show_compact(report: dict[str, Any]) -> None:
    """Say what became smaller."""
    before, after = report["before"], report["after"]
    for problem in report["problems"]:
        say("note: " + problem, err=True)
    say(
        f"{before['shards']} -> {after['shards']} shards, {before['deltas']} -> {after['deltas']} deltas, "
        f"{size(before['bytes'])} -> {size(after['bytes'])}; {report['dropped']} useless rows dropped"
    )


def show_remove(report: dict[str, Any]) -> None:
    """Say what was forgotten."""
    say(f"{report['files']} files forgotten, {report['tracks']} tracks removed; {report['total']} tracks are left")


def show_merge(report: dict[str, Any]) -> None:
    """Say what was taken in."""
    for problem in report["problems"]:
        say("not taken in: " + problem, err=True)
    say(
        f"{report['tracks']} tracks taken in, {report['known']} were known, {report['outdated']} outdated, "
        f"{report['failures']} failed files noted; {report['total']} tracks in the store now"
    )


def show_index(report: dict[str, Any]) -> None:
    """Say how good an index is."""
    say(
        f"{report['kind']} index of {_space(report)}: {report['rows']} rows, recall@10 {report['recall_at_10']:.3f} "
        f"against exact search (of sums of two tracks {report['recall_of_sums']:.3f}), {report['latency_ms']:.2f} ms a query; "
        f"{size(report['memory'])} in memory, {size(report['bytes'])} on disk, built in {report['seconds']:.1f} s"
    )
    if report["recall_at_10"] < report["goal"]["recall"] - 0.0005:
        say(f"note: a recall of {report['goal']['recall']} was asked; --kind flat is exact", err=True)
    if report["memory"] > report["goal"]["memory"]:
        say(f"note: {size(report['goal']['memory'])} of memory were asked", err=True)


def _space(index: dict[str, Any]) -> str:
    """Name what an index is over."""
    return f"layer {index['layer']}" + (f", {index['transform']}" if index["transform"] != "none" else "")


def show_export(report: dict[str, Any]) -> None:
    """Say what was written."""
    layers = ", ".join(report["layers"])
    where = below_here(report["target"]) + (f", collection {report['collection']}" if report["collection"] else "")
    gone = f"; {report['deleted']} deleted that the store does not hold any more" if report["deleted"] else ""
    say(f"{where}: {report['rows']} tracks, {layers}, {size(report['bytes'])} in {hms(report['seconds'])}{gone}")


def show_search(document: dict[str, Any], told: Sequence[str] = ()) -> None:
    """List what was found, or say where it is; errors and notes, but for those that were told already, on stderr."""
    answers = document.get("answers", [document])
    notes = [note for answer in answers for note in answer.get("notes", []) if note not in told]
    say(*(f"note: {note}" for note in dict.fromkeys(notes)), err=True) if notes else None
    for answer in answers:
        where = f"line {answer['line']}: " if "line" in answer else ""
        if "error" in answer:
            say(f"{where}{answer['error']}", err=True)
        elif "file" not in document:
            _show_hits(answer, where)
    if document.get("file"):
        found = sum(len(answer.get("results", ())) for answer in answers)
        say(f"{found} results in {below_here(document['file'])}")


def _show_hits(result: dict[str, Any], where: str) -> None:
    hits = result["results"]
    columns: dict[str, list[Any]] = {
        "rank>": [hit["rank"] for hit in hits],
        "score>": [f"{hit['score']:.4f}" for hit in hits],
        "%>": ["" if hit["percentile"] is None else f"{hit['percentile']:.1f}" for hit in hits],
        **{name: [hit[name] or "" for hit in hits] for name in ("genre", "artist", "title")},
    }
    if any(hit["at"] is not None for hit in hits):
        columns["at"] = [f"{clock(hit['at'])}-{clock(hit['end'])}" for hit in hits]
    if any(hit["copies"] for hit in hits):
        columns["copies>"] = [len(hit["copies"]) or "" for hit in hits]
    columns["path"] = [below_here(hit["path"]) for hit in hits]
    moved = "" if result["transform"] == "none" else f", {result['transform']}"
    asked = where + (result.get("name") or result["query"])
    share = {"pairs": "% of random pairs that are", "tracks": "% of the library that is"}[result["percentile_of"]]
    title = f"nearest to {asked}, layer {result['layer']}{moved} (cosine similarity; {share} less alike)"
    show_table((*columns,), list(zip(*columns.values(), strict=True)), title=title)


def show_genre_map(found: dict[str, Any]) -> None:
    """Show how genres lie to each other: a row for each, in the order of the tree, and the tree."""
    from rich.cells import cell_len

    for note in found["notes"]:
        say("note: " + note, err=True)
    rows = []
    for row in found["genres"]:
        within, *numbers = (
            "" if row[name] is None else f"{row[name]:.3f}" for name in ("within", "similarity", "between")
        )
        others = ", ".join(map(_short, row["overlaps"][:2])) + (
            f" and {len(row['overlaps']) - 2} more" if row["overlaps"][2:] else ""
        )
        rows.append(
            (
                _short(row["genre"]),
                row["tracks"],
                within,
                _short(row["nearest"] or ""),
                *numbers,
                others,
            )
        )
    show_table(
        ("genre", "tracks>", "within>", "nearest", "centres>", "between>", "no nearer to its own than to"),
        rows,
        title=f"{len(rows)} genres, {_space(found)}",
    )
    names = [_short(row["genre"]) for row in found["genres"]]
    wide = max(map(cell_len, names))
    lines = branches(found["linkage"])
    say(*(name + " " * (wide + 1 - cell_len(name)) + line for name, line in zip(names, lines, strict=True)))
    if found["linkage"]:
        say(
            f"the tree joins genres by the distance (1 - similarity) of their centres, up to {found['linkage'][-1][2]:.3f}"
        )
    say(
        "within: mean similarity of two tracks of the genre; between: of one of its tracks and one of the nearest genre's; "
        "both by different artists (blank: all are by one)"
    )
    if found["left_out"]:
        say(f"left out, with one track each: {counts(found['left_out'], 5)}")
    if found.get("file"):
        say(f"wrote {below_here(found['file']['target'])} ({size(found['file']['bytes'])})")


def show_nearest_genres(found: dict[str, Any]) -> None:
    """List the genres that a genre or a track is nearest to."""
    rows = [(rank, f"{row['similarity']:.3f}", row["genre"]) for rank, row in enumerate(found["nearest"], 1)]
    show_table(("rank>", "score>", "genre"), rows, title=f"nearest genres to {found['near']}")


def _short(name: str) -> str:
    name = printable(name)
    return name if len(name) <= 24 else name[:23] + "…"


def show_map(report: dict[str, Any]) -> None:
    """Say what a map holds."""
    for note in report["notes"]:
        say("note: " + note, err=True)
    how = f"UMAP, {report['neighbors']} neighbours" if report["method"] == "umap" else "PCA"
    say(
        f"{report['tracks']} tracks in {len(report['layers'])} layers by {how}, seed {report['seed']}, made in {hms(report['seconds'])}; "
        "see it with: embedstore serve"
    )


def show_graph(report: dict[str, Any]) -> None:
    """Say what a graph of neighbours holds."""
    for note in report["notes"]:
        say("note: " + note, err=True)
    say(
        f"{report['edges']} edges of {report['tracks']} tracks (k = {report['k']}, {_space(report)}) in {below_here(report['target'])}, "
        f"{size(report['bytes'])}, {hms(report['seconds'])}; by the index kind {report['index']}, recall@10 {report['recall']:.3f}"
    )


def show_address(where: dict[str, Any]) -> None:
    """Say where a store is served."""
    say(f"{where['tracks']} tracks of {below_here(where['store'])}: open {where['page']} in a browser")
    say(f"{where['url']}/openapi.json describes how programs ask")
    if where["token"]:
        say(f"each request of theirs needs this header: Authorization: Bearer {where['token']}")
    say("Ctrl-C ends it")


def show_classify(found: dict[str, Any]) -> None:
    """List genres by file; files that could not be heard are told on stderr."""
    for note in found["notes"]:
        say("note: " + note, err=True)
    for answer in found["answers"]:
        if "error" in answer:
            say(f"{below_here(answer['path'])}: {answer['error']}", err=True)
    rows = []
    for answer in (one for one in found["answers"] if "ranking" in one):
        first, *others = [f"{one['genre']} {one['probability']:.2f}" for one in answer["ranking"]]
        rows.append((below_here(answer["path"]), ";".join(answer["genres"]) or "not sure", first, ", ".join(others)))
    title = f"genres by the probe {found['probe']}"
    if found["threshold"]:
        title += f", where the first has at least {found['threshold']:.2f}"
    if found["coverage"] is not None:
        title += f" (as {100 * found['coverage']:.0f} % of the tracks had that it was calibrated on)"
    if rows:
        show_table(("file", "genre", "first", "then"), rows, title=title)


def show_labels(report: dict[str, Any]) -> None:
    """Show what labels are worth."""
    facts = report["dataset"] or {}
    rows = [
        ("files", f"{report['labelled']} of {report['files']} labelled, {report['with_genre']} with a genre"),
        ("rows", f"{report['used_rows']} of {report['rows']} mean a file"),
        ("genres", f"{len(report['genres'])}: {counts(report['genres'])}" if report["genres"] else "none"),
        ("artists", f"{len(report['artists'])}: {counts(report['artists'], 5)}" if report["artists"] else "none"),
        ("albums", len(report["albums"])),
        ("years", "{} to {}, of {with_year} files".format(*report["years"], **report) if report["years"] else "none"),
        ("official split", counts(report["splits"]) or "none"),
        *((name, facts[key]) for name, key in _FACTS.items() if facts),
        *(("known fault", fault) for fault in facts.get("faults", ())),
        *(("found", problem) for problem in report["problems"]),
        *(("warning", warning) for warning in report["warnings"]),
    ]
    show_table(("", ""), rows, title=f"{report['source']} for {below_here(report['audio_dir'])}")


def show_readers(readers: list[dict[str, Any]]) -> None:
    """List the label readers and whose data sets they read."""
    rows = []
    for reader in readers:
        facts = reader["dataset"] or {"name": "any files"}
        rows += [(reader["name"], "", facts["name"])]
        rows += [("", name, facts[key]) for name, key in _FACTS.items() if key != "name" and key in facts]
    show_table(("reader", "", "data set"), rows)


def show_plugins(rooms: dict[str, dict[str, str]]) -> None:
    """List what is registered."""
    show_table(
        ("room", "name", "code"), [(room, name, code) for room, names in rooms.items() for name, code in names.items()]
    )


def show_doctor(findings: dict[str, Any]) -> None:
    """Show the state of the installation."""
    rows = [(name, number or "missing") for name, number in findings["versions"].items()]
    rows += [(f"path of {name}", path) for name, path in findings["paths"].items()]
    rows += [(f"owner of {name}", ", ".join(owners) or "?") for name, owners in findings["owners"].items()]
    rows += [("devices", ", ".join(findings["devices"])), ("cores", findings["cores"])]
    rows += [("fast path", f"matrix products of {findings['products'] or 'nobody'} on the CPU")]
    rows += [("ffmpeg", findings["ffmpeg"]["missing"] or "usable through torchcodec")]
    rows += [(f"plug-ins: {room}", ", ".join(names)) for room, names in findings["plugins"].items()]
    show_table(("", ""), rows)
    for problem in findings["problems"]:
        say("problem: " + problem, err=True)
    say("all is well" if findings["ok"] else "see the problems above", err=not findings["ok"])
