"""What a report says, whatever it is written in: sections of sentences, plots and tables, in the order of reading."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from embedstore.errors import ParameterError
from embedstore.terminal import printable
from probes.report.parts import Column, Facts, Figure, Section, Table, Words, shown, title_of
from probes.report.words import (
    audit_sentences,
    basis,
    facts,
    kind,
    row_name,
    search_sentences,
    sentences,
    size_of,
    times,
)
from probes.results import Comparison, Interval, LayerResult, ProbeReport, Score, Study

if TYPE_CHECKING:
    from probes.audit import AuditReport
    from probes.retrieval import SearchReport

__all__ = ["Contents", "Found"]

Found: TypeAlias = "ProbeReport | Study | AuditReport | SearchReport | Sequence[ProbeReport]"

PER_CLASS = {"macro_f1": "F1", "map": "average precision"}


@dataclass(frozen=True)
class Contents:
    """One report, or several that stand side by side.

    Attributes
    ----------
    reports : tuple of ProbeReport
    comparisons : tuple of Comparison
        Between the reports.
    audit : AuditReport or None
    search : SearchReport or None
    """

    reports: tuple[ProbeReport, ...]
    comparisons: tuple[Comparison, ...] = ()
    audit: AuditReport | None = None
    search: SearchReport | None = None

    @classmethod
    def of(cls, found: Found, audit: AuditReport | None = None, search: SearchReport | None = None) -> Contents:
        """Take one report, several, or an audit or an evaluation of search alone."""
        if isinstance(found, Study):
            return cls(found.reports, found.comparisons, audit, search)
        if isinstance(found, ProbeReport):
            return cls((found,), (), audit, search)
        if isinstance(found, Sequence):
            return cls(tuple(found), (), audit, search)
        if hasattr(found, "groupings"):
            return cls((), audit=cast("AuditReport", found))
        if hasattr(found, "effects"):
            return cls((), search=found)
        raise ParameterError(
            f"a report is a ProbeReport, a Study, a sequence of them, an AuditReport or a SearchReport; got {found!r}"
        )

    @cached_property
    def names(self) -> tuple[str, ...]:
        """What tells the reports apart: the probe, else the encoder, else both."""
        probes = [report.probe for report in self.reports]
        encoders = [str(report.source.get("encoder", "vectors")) for report in self.reports]
        both = [f"{encoder} {probe}" for encoder, probe in zip(encoders, probes, strict=True)]
        counted = [f"{number}: {name}" for number, name in enumerate(both, 1)]
        told = next(names for names in (probes, encoders, both, counted) if len(set(names)) == len(names))
        return tuple(map(printable, told))

    @property
    def title(self) -> str:
        """Say what was asked."""
        found: list[Any] = [*self.reports] or [one for one in (self.audit, self.search) if one]
        encoders = dict.fromkeys(printable(one.source.get("encoder", "")) for one in found)
        of = " and ".join(name for name in encoders if name)
        of = f" of {of}" * bool(of)
        if self.reports:
            return f"What each layer{of} knows about {kind(self.reports[0])}s"
        return f"{'Leak audit' if self.audit else 'Search quality'}{of}"

    @cached_property
    def sections(self) -> tuple[Section, ...]:
        """All of it; a section that would be empty is left out."""
        parts = (
            ("summary", "In short", self._summary),
            ("layers", "Layers and baselines", self._layers),
            ("comparisons", "Comparisons", self._comparisons),
            ("classes", f"{self._classes_are.capitalize()}s", self._classes),
            ("confusion", "Confusion matrix", self._confusion),
            ("curve", "Learning curve", self._curve),
            ("audit", "Leak audit", self._audit),
            ("search", "Search quality", self._search),
            ("weights", "Learned layer weights", self._weights),
            ("quality", "Layers without training", self._quality),
            ("made", "How this was made", self._made),
        )
        found = (Section(anchor, title, tuple(blocks())) for anchor, title, blocks in parts)
        return tuple(section for section in found if section.blocks)

    @property
    def tables(self) -> list[Table]:
        """Every table, shaded ones too."""
        return [block for section in self.sections for block in section.blocks if isinstance(block, Table)]

    @property
    def figures(self) -> list[Figure]:
        """Every plot."""
        return [block for section in self.sections for block in section.blocks if isinstance(block, Figure)]

    def each(self) -> Iterator[tuple[ProbeReport, str, str, str]]:
        """Give each report, its name, and an ending for its titles and its files: empty if it is the only one."""
        several = len(self.reports) > 1
        for number, (report, name) in enumerate(zip(self.reports, self.names, strict=True), 1):
            yield report, name, f" ({name})" if several else "", f"-{number}" if several else ""

    @property
    def _measure(self) -> str:
        return title_of(self.reports[0].measure) if self.reports else ""

    @property
    def _classes_are(self) -> str:
        return kind(self.reports[0]) if self.reports else ""

    def _common(self, name: str, title: str, alt: str) -> Figure:
        """Make a plot of all reports."""
        return Figure(name, name, title, f"{alt}; the numbers stand in the table below", self.reports, self.names)

    def _summary(self) -> Iterator[Words]:
        for report, name, *_ in self.each():
            head = name if len(self.reports) > 1 else f"{printable(report.probe)} probe"
            score = f"{title_of(report.measure)} {shown(report.selected.main, 'score')}"
            yield Words((f"{basis(report)}", *sentences(report)), f"{head}: {score}")

    def _layers(self) -> Iterator[Table | Figure]:
        if not self.reports:
            return
        yield self._common(
            "layers", f"{self._measure} of each layer", f"{self._measure} of each layer with its 95 % interval"
        )
        if len(self.reports) > 1:
            yield self._side_by_side()
        for report, _, title, end in self.each():
            yield layer_table(report, title, end)

    def _side_by_side(self) -> Table:
        layers = dict.fromkeys(_layer_title(result) for report in self.reports for result in report.results)
        found: list[dict[str, Any]] = []
        for report in self.reports:
            rows = {_layer_title(result): result.main for result in report.results} | {"selected": report.selected.main}
            found.append(rows | {title_of(name): _of_baseline(name, s) for name, s in report.baselines.items()})
        order = list(dict.fromkeys((*layers, *(name for rows in found for name in rows))))
        columns = [Column(f"report_{number}", name, "score") for number, name in enumerate(self.names, 1)]
        return Table(
            "side-by-side",
            f"{self._measure} side by side",
            (Column("row", ""), *columns),
            tuple((name, *(rows.get(name) for rows in found)) for name in order),
            marked=(order.index("selected"),),
        )

    def _comparisons(self) -> Iterator[Table]:
        if self.comparisons:
            yield comparison_table(self.comparisons, f"{self._measure} between the reports", "comparisons")
        for report, _, title, end in self.each():
            if report.comparisons:
                name = f"comparisons-of-rows{end}" if self.comparisons else f"comparisons{end}"
                yield comparison_table(report.comparisons, f"{self._measure}, row against row{title}", name)

    def _classes(self) -> Iterator[Table | Figure]:
        if not self.reports:
            return
        classes = self._classes_are
        what = PER_CLASS.get(self.reports[0].measure, "score")
        said = f"{what} of each {classes}, layer and settings chosen inside training"
        yield self._common("classes", f"{what} of each {classes}", said)
        names = dict.fromkeys(name for report in self.reports for name in report.genres)
        tracks = [report.tracks_per_genre for report in self.reports]
        several = len(self.reports) > 1
        titles = self.names if several else (what,)
        yield Table(
            "classes",
            said,
            (
                Column(classes, classes),
                Column("tracks", "tracks", "count"),
                *(Column(f"report_{n}" if several else "score", t, "value") for n, t in enumerate(titles, 1)),
            ),
            tuple(
                (
                    name,
                    next((counts[name] for counts in tracks if name in counts), None),
                    *(report.selected.per_class.get(name) for report in self.reports),
                )
                for name in names
            ),
        )
        for report, _, title, end in self.each():
            if len(report.results) > 1:
                rows = tuple((g, *(r.per_class.get(g) for r in report.results)) for g in report.genres)
                columns = (Column(classes, classes), *_layer_columns(report.results))
                yield Table(f"classes-by-layer{end}", f"{what} at each layer{title}", columns, rows, heat=True)

    def _confusion(self) -> Iterator[Table | Figure]:
        for report, name, title, end in self.each():
            if report.confusion:
                labels, matrix = report.confusion["labels"], report.confusion["matrix"]
                said = (
                    "tracks of each genre (row) by the genre they were taken for (column), "
                    f"counts summed over {len(report.selected.by_seed)} seeds, shaded by their share of the row{title}"
                )
                yield Figure(
                    f"confusion{end}", "confusion", f"Confusion matrix{title}", said, (report,), (name,), on_page=False
                )
                columns = (Column("genre", "true genre"), *(Column(label, label, "count") for label in labels))
                rows = tuple((label, *counts) for label, counts in zip(labels, matrix, strict=True))
                yield Table(f"confusion{end}", said.capitalize(), columns, rows, heat=True)

    def _curve(self) -> Iterator[Table | Figure]:
        if any(report.curve for report in self.reports):
            title = f"{self._measure} by size of the training part"
            yield self._common("curve", title, f"{self._measure} against the number of training tracks, with intervals")
        for report, _, title, end in self.each():
            if report.curve:
                columns = (
                    Column("size", "training tracks"),
                    Column("n_train", "there were (mean)", "number"),
                    Column(report.measure, f"{title_of(report.measure)} (selected)", "score"),
                    Column("layers", "layers chosen"),
                    Column("settings", "settings chosen", wide=True),
                )
                rows = tuple(
                    (size_of(p), p.n_train, p.selected.main, times(p.selected.layers), times(p.selected.settings))
                    for p in report.curve
                )
                yield Table(f"curve{end}", f"{title_of(report.measure)} by training size{title}", columns, rows)
                results = report.curve[0].results
                if len(results) > 1:
                    sized = (Column("size", "training tracks"), *_layer_columns(results))
                    cells = tuple((size_of(p), *(r.main.value for r in p.results)) for p in report.curve)
                    said = f"{title_of(report.measure)} of each layer by training size{title}"
                    yield Table(f"curve-by-layer{end}", said, sized, cells, heat=True)

    def _audit(self) -> Iterator[Table | Figure | Words]:
        audit = self.audit
        if not audit:
            return
        measure, kinds = title_of(audit.measure), list(audit.groupings[0].divided)
        yield Words(tuple(audit_sentences(audit)))
        said = f"{measure} under ever stricter groupings, layer and settings chosen inside training"
        yield Figure("audit", "audit", said, f"{said}; the numbers stand in the table below", (), (), audit=audit)
        columns = (
            Column("grouping", "kept together"),
            Column("groups", "groups", "count"),
            Column(audit.measure, f"{measure} [95 %]", "score"),
            Column("gap", "too high by [95 %]", "difference"),
            *(Column(f"divided_{name}", f"beside the same {name}", "number", wide=True) for name in kinds),
        )
        rows = tuple(
            (g.name, g.groups, g.score.main, None if g is audit.groupings[-1] else g.gap, *map(g.divided.get, kinds))
            for g in audit.groupings
        )
        yield Table("audit", said, columns, rows)
        examples = tuple((o.kind, *pair) for o in audit.offenders for pair in o.examples)
        if examples:
            heads = (Column("kind", "same"), Column("first", "one track"), Column("second", "and another"))
            yield Table("audit-pairs", "Tracks that ungrouped folds put on both sides", heads, examples)

    def _search(self) -> Iterator[Table | Figure | Words]:
        search = self.search
        if not search:
            return
        yield Words(tuple(search_sentences(search)))
        said = "mAP of each layer, without the query's own artist" if search.genres else "Triplets agreed with"
        if search.best:
            yield Figure(
                "search", "search", said, f"{said}; the numbers stand in the table below", (), (), search=search
            )
        yield search_table(search)
        if search.effects:
            yield transform_table(search)
        if search.comparisons:
            yield best_table(search)
        if search.genres:
            columns = (Column("genre", "genre"), *(Column(one.title, one.title, "value") for one in search.results))
            rows = tuple((name, *(one.per_genre.get(name) for one in search.results)) for name in search.genres)
            yield Table("search-by-genre", "mAP of each genre's queries, without own artist", columns, rows, heat=True)
        yield search_details(search)

    def _weights(self) -> Iterator[Table | Figure]:
        for report, name, title, end in self.each():
            weighted = [result for result in report.results if result.weights]
            if weighted:
                said = f"Learned weight of each layer, mean over folds and seeds{title}"
                yield Figure(f"weights{end}", "weights", said, f"{said}; see the table below", (report,), (name,))
                columns = (
                    Column("row", "row", wide=True),
                    Column("layer", "layer"),
                    Column("weight", "weight", "value"),
                    Column("deviation", "deviation", "value"),
                )
                rows = tuple((r.name, layer, *spread) for r in weighted for layer, spread in (r.weights or {}).items())
                yield Table(f"weights{end}", said, columns, rows)

    def _quality(self) -> Iterator[Table | Figure]:
        for report, name, title, end in self.each():
            quality = report.quality or {}
            if layers := quality.get("layers"):
                keys = dict.fromkeys(key for measures in layers.values() for key in measures)
                columns = (Column("layer", "layer"), *(Column(key, title_of(key), "number") for key in keys))
                rows = tuple((str(name), *map(measures.get, keys)) for name, measures in layers.items())
                yield Table(f"quality{end}", f"Measures that need no probe{title}", columns, rows)
            if cka := quality.get("cka"):
                said = f"Linear CKA: how alike two layers see the tracks, 1 at most{title}"
                yield Figure(
                    f"cka{end}", "cka", f"Linear CKA of layers{title}", said, (report,), (name,), on_page=False
                )
                names = [str(name) for name in cka["layers"]]
                columns = (Column("layer", "layer"), *(Column(f"layer_{name}", name, "value") for name in names))
                rows = tuple((name, *values) for name, values in zip(names, cka["matrix"], strict=True))
                yield Table(f"cka{end}", said, columns, rows, heat=True)

    def _made(self) -> Iterator[Facts]:
        for report, _, title, _ in self.each():
            known = {
                "Command, vectors and labels": {"command": report.command} | dict(report.source),
                "Protocol": report.protocol,
                "Tracks": {"used": report.n_tracks} | {f"left out: {k}": v for k, v in report.excluded.items()},
                "Versions": report.versions,
            }
            for name, mapping in known.items():
                if rows := tuple(facts(mapping)):
                    yield Facts(f"{name}{title}", rows)
        if self.audit:
            known = dict(self.audit.source) | {"probe": self.audit.probe, "tracks": self.audit.n_tracks}
            yield Facts("Leak audit", tuple(facts(known | dict(self.audit.protocol))))
        if self.search:
            known = {"command": self.search.command} | dict(self.search.source) | dict(self.search.protocol)
            yield Facts("Search quality", tuple(facts(known | {"versions": self.search.versions})))


def _layer_columns(results: Sequence[LayerResult]) -> tuple[Column, ...]:
    return tuple(Column(f"layer_{result.layer}", str(result.layer), "value") for result in results)


def layer_table(report: ProbeReport, title: str = "", end: str = "") -> Table:
    """Set layers, the nested choice and baselines in one table."""
    main, *others = report.selected.measures
    columns = (
        Column("layer", "layer"),
        Column("name", "name"),
        Column(main, f"{title_of(main)} [95 %]", "score"),
        *(Column(name, title_of(name).removesuffix(" accuracy"), "value") for name in others),
        Column("inner", "inner score", "value", wide=True),
        Column("chosen", "chosen"),
    )

    rows: list[tuple[Any, ...]] = [
        (str(r.layer), row_name(r), *r.measures.values(), r.inner, _chosen(report, r)) for r in report.results
    ]
    best = next((n for n, r in enumerate(report.results) if r.layer == report.best_layer), 0)
    chosen = report.selected
    layers = f"layers {times(chosen.layers)}" if len(report.results) > 1 else times(chosen.settings)
    rows.append(("selected", "", *chosen.measures.values(), chosen.inner, layers))
    for name, score in report.baselines.items():
        _, *rest = score.measures.values()
        rows.append(("-", title_of(name), _of_baseline(name, score), *rest, None, "baseline"))
    marked = (best, len(report.results)) if len(report.results) > 1 else ()
    return Table(f"layers{end}", f"Layers and baselines{title}", columns, tuple(rows), marked=marked)


def search_table(search: SearchReport) -> Table:
    """Set layers and transforms, and what chance would give, in one table: what matters most."""
    names = tuple(search.chance.get("filtered", ()))
    main, columns = names[:1], [Column("layer", "layer"), Column("transform", "transform")]
    columns += [Column(name, f"{title_of(name)} [95 %]", "score") for name in main]
    columns += [Column(f"{name}_unfiltered", "with artist", "value") for name in main]
    columns += [Column(f"{name}_gap", "gap [95 %]", "difference") for name in main]
    columns += [Column("triplets", "triplets [95 %]", "score")]
    columns += [Column(name, title_of(name), "value") for name in names[1:]]
    columns += [Column("skewness", "hub skew", "number"), Column("anti_hubs", "never found", "value")]
    rows: list[tuple[Any, ...]] = [
        (
            str(one.layer),
            one.transform,
            *(part[name] for part in (one.filtered, one.unfiltered, one.gap) for name in main),
            one.triplets,
            *(one.filtered[name] for name in names[1:]),
            *((one.hubness.skewness, one.hubness.anti_hubs) if one.hubness else (None, None)),
        )
        for one in search.results
    ]
    half = 0.5 if any(one.triplets for one in search.results) else None
    if search.best:
        given = [search.chance[part][name] for part in ("filtered", "unfiltered") for name in main]
        others = [search.chance["filtered"][name] for name in names[1:]]
        rows.append(("chance", "", *given, *[None] * len(main), half, *others, None, None))
    if names:
        rows.append(("chance, by artist", "", search.chance["by_artist"]["map"], *[None] * (len(names) + 4)))
    best = tuple(place for place, one in enumerate(search.results) if one.title == search.best)
    return Table("search", "Search quality", tuple(columns), tuple(rows), marked=best).filled()


def search_details(search: SearchReport) -> Table:
    """Set the rest in another: scores with the query's own artist, and the track that is found most often."""
    names = tuple(search.chance.get("unfiltered", ()))
    columns = [Column("layer", "layer"), Column("name", "name"), Column("transform", "transform")]
    columns += [Column(name, title_of(name), "value") for name in names]
    columns += [Column(f"{name}_gap", f"{title_of(name)} gap", "difference", wide=True) for name in names]
    columns += [Column("hub", "largest hub"), Column("hub_count", "is found by", "number")]
    rows: list[tuple[Any, ...]] = [
        (
            str(one.layer),
            one.name,
            one.transform,
            *(part[name] for part in (one.unfiltered, one.gap) for name in names),
            *((one.hubness.track, one.hubness.largest) if one.hubness else ("", None)),
        )
        for one in search.results
    ]
    return Table("search-details", "With the query's own artist, and hubs", tuple(columns), tuple(rows)).filled()


def transform_table(search: SearchReport) -> Table:
    """Set what each transform changes in one table: a row for each layer and transform, a test for each measure."""
    columns = [Column("space", "layer and transform"), Column("against", "against")]
    for name in search.effects:
        columns += [Column(name, f"{title_of(name)} [95 %]", "difference"), Column(f"{name}_p", "p (Holm)", "p")]
    rows = tuple(
        (row[0].first, row[0].second, *(cell for one in row for cell in (one.difference, one.p_corrected)))
        for row in zip(*search.effects.values(), strict=True)
    )
    return Table("search-transforms", "What transforms change, without own artist", tuple(columns), rows)


def best_table(search: SearchReport) -> Table:
    """Set the best row against the other layers."""
    columns = (
        Column("first", "first"),
        Column("second", "second"),
        Column("difference", "difference [95 %]", "difference"),
        Column("p", "p, uncorrected", "p"),
        Column("p_corrected", "p", "p"),
    )
    rows = tuple((one.first, one.second, one.difference, one.p, one.p_corrected) for one in search.comparisons)
    return Table("search-comparisons", "The best against the other layers", columns, rows)


def _layer_title(result: LayerResult) -> str:
    return f"layer {result.layer}" if isinstance(result.layer, int) else str(result.layer)


def _of_baseline(name: str, score: Score) -> Interval | float:
    """Leave out an interval that would mislead: it knows nothing of how the labels fell."""
    return score.main.value if name in ("majority", "shuffled_labels") else score.main


def _chosen(report: ProbeReport, result: LayerResult) -> str:
    best = "  <- preferred" if len(report.results) > 1 and result.layer == report.best_layer else ""
    return times(result.settings) + best


def comparison_table(comparisons: Sequence[Comparison], title: str, name: str) -> Table:
    """Set paired tests in a table."""
    columns = (
        Column("first", "first"),
        Column("second", "second"),
        Column("difference", "difference [95 %]", "difference"),
        Column("p", "p", "p", wide=True),
        Column("p_holm", "p (Holm)", "p"),
        Column("odds", "odds", "value"),
    )
    rows = tuple((c.first, c.second, c.difference, c.p, c.p_holm, c.odds) for c in comparisons)
    return Table(name, title, columns, rows)
