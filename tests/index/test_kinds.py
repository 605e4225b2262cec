"""Every index kind keeps the contract, and the contract is one that can be broken."""

from __future__ import annotations

import ctypes
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embedstore.errors import IndexFormatError, MissingDependencyError, ParameterError, UnknownNameError
from embedstore.index import Goal, Rows, unit
from embedstore.index.exact import ExactIndex
from embedstore.index.saved import BUILTIN, kind_class
from embedstore.index.tune import choose, tuned
from embedstore.testing import check_index
from embedstore.types import Neighbors

CPU = [name for name in BUILTIN if not name.startswith("gpu-")]
GPU = [name for name in BUILTIN if name.startswith("gpu-")]
FACTORY = "PCA16,IVF8,SQ6"
Make = Callable[..., Any]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Build an index, each in a folder of its own."""

    def build(kind: str, rows: Rows, goal: Goal | None = None, seed: int = 0) -> Any:
        folder = tmp_path / f"{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        index = kind_class(kind).build(rows, folder, goal=goal or Goal(), seed=seed)
        index.at = folder
        return index

    return build


def rows_of(values: Any) -> Rows:
    values = np.asarray(values, np.float32)
    return Rows(np.arange(100, 100 + len(values)), values)


def clusters(n: int, dim: int = 64, seed: int = 0) -> Rows:
    rng = np.random.default_rng(seed)
    return rows_of(3 * rng.normal(size=(40, dim))[rng.integers(40, size=n)] + rng.normal(size=(n, dim)))


@pytest.mark.parametrize(
    "kind", [pytest.param(k, marks=pytest.mark.slow) if k in {"exact", "hnsw", "ivf", "ivf-rabitq"} else k for k in CPU]
)
def test_the_contract(kind: str) -> None:
    """The conformance suite passes."""
    check_index(kind_class(kind))


@pytest.mark.slow
@pytest.mark.parametrize("factory", [FACTORY, "IVF10,Flat", "OPQ8,IVF8,PQ8x4fs", "HNSW16,Flat", "SQ8", "RR32,RaBitQ"])
def test_any_structure_of_faiss_keeps_the_contract(factory: str) -> None:
    """Whatever a factory string makes, ids and scores are exact, and recall is what was asked."""
    check_index(kind_class(factory), smallest=600)


@pytest.mark.gpu
@pytest.mark.parametrize("kind", GPU)
def test_gpu_kinds_keep_the_contract(kind: str) -> None:
    """On a machine with a GPU, the same suite."""
    import faiss

    if not faiss.get_num_gpus() or (kind == "gpu-cagra" and "CUVS" not in faiss.get_compile_options()):
        pytest.skip("FAISS finds no GPU that it can use for this kind")
    check_index(kind_class(kind), smallest=600 if kind == "gpu-cagra" else 0)


class Distances(ExactIndex):
    """Returns distances: smaller is nearer."""

    def search(self, queries: Any, k: int) -> Neighbors:
        """Search."""
        found = super().search(queries, k)
        return Neighbors(found.keys, 1 - found.scores)


class DotProducts(ExactIndex):
    """Forgets to normalise."""

    @classmethod
    def load(cls, rows: Rows, folder: Path, params: Any) -> Any:
        """Load."""
        return cls(Rows(rows.keys, rows.values, np.ones(len(rows), np.float32)))


class Positions(ExactIndex):
    """Returns row numbers in place of keys."""

    def search(self, queries: Any, k: int) -> Neighbors:
        """Search."""
        found = super().search(queries, k)
        return Neighbors(np.searchsorted(np.sort(self.rows.keys), found.keys), found.scores)


class Lazy(ExactIndex):
    """Looks at half of the rows."""

    def _candidates(self, queries: Any, k: int) -> Any:
        return (np.arange(len(self) // 2 + 1) for _ in queries)


class Forgetful(ExactIndex):
    """Loads something else than it built."""

    @classmethod
    def build(cls, rows: Rows, folder: Path, *, goal: Goal, seed: int = 0) -> Any:
        """Build."""
        return cls(rows.held())

    @classmethod
    def load(cls, rows: Rows, folder: Path, params: Any) -> Any:
        """Load."""
        return cls(Rows(rows.keys, -rows.values))


class Shared(ExactIndex):
    """Grows in place."""

    def extend(self, rows: Rows, folder: Path, *, goal) -> Any:
        """Extend."""
        self.rows = rows.held()
        return self


@pytest.mark.parametrize(
    ("broken", "complaint"),
    [
        (Distances, "score differs"),
        (DotProducts, "score differs"),
        (Positions, "is one of the rows'"),
        (Lazy, "finds the exact neighbours"),
        (Forgetful, "answers as it did"),
        (Shared, "stays as it was"),
    ],
)
def test_the_suite_catches_broken_kinds(broken: Any, complaint: str) -> None:
    """Wrong direction, measure or ids, missed rows, a bad round trip, an index that changes: each is found."""
    with pytest.raises(AssertionError, match=complaint):
        check_index(broken)


@pytest.mark.parametrize("kind", CPU)
def test_the_edges(kind: str, make: Make) -> None:
    """Known angles give known scores, whatever the lengths, and opposite is -1; rows of nothing but zeros all score 0."""
    found = make(kind, rows_of([[1, 0], [5, 5], [0, 2], [-3, 0], [0, 0]])).search(np.array([[10, 0]], np.float32), 5)
    assert found.keys.tolist() == [[100, 101, 102, 104, 103]]
    np.testing.assert_allclose(found.scores[0], [1, 2**-0.5, 0, 0, -1], atol=1e-6)
    found = make(kind, rows_of(np.zeros((50, 8)))).search(np.ones((1, 8), np.float32), 3)
    assert found.keys.tolist() == [[100, 101, 102]]
    assert found.scores.tolist() == [[0, 0, 0]]


@pytest.mark.parametrize("kind", [name for name in CPU if name != "hnsw"])  # a graph may have no way to some copies
def test_many_ties_are_broken_by_the_smaller_key(kind: str, make: Make) -> None:
    """Two hundred copies of one vector: the ten smallest keys come first, though FAISS has no order for them."""
    rng = np.random.default_rng(1)
    values = np.vstack([rng.normal(size=(300, 16)), np.tile(rng.normal(size=16), (200, 1))]).astype(np.float32)
    keys = rng.permutation(500)
    found = make(kind, Rows(keys, values)).search(values[-1:], 10)
    assert found.keys[0].tolist() == np.sort(keys[300:])[:10].tolist()
    assert len(set(found.scores[0].tolist())) == 1


@pytest.mark.slow
def test_kinds_agree_with_float64_and_with_each_other(make: Make) -> None:
    """The nearest ten are those of a plain float64 computation; what kinds both find has the same bits."""
    rows = clusters(700, 100)
    rows = Rows(rows.keys, rows.values.astype(np.float16))
    queries = rows.values[:60].astype(np.float32) + 0.5
    wide = rows.values.astype(np.float64)
    wide /= np.linalg.norm(wide, axis=1, keepdims=True)
    order = np.argsort(-(queries.astype(np.float64) @ wide.T), axis=1)[:, :10]
    exact = make("exact", rows).search(queries, 10)
    np.testing.assert_array_equal(exact.keys - 100, order)
    for kind in ("flat", "ivf", "rabitq", "ivf-rabitq"):
        found = make(kind, rows).search(queries, 10)
        same = found.keys == exact.keys
        assert same.mean() >= (0.95 if kind_class(kind).approximate else 1.0)
        np.testing.assert_array_equal(found.scores[same], exact.scores[same])


def test_unit_is_idempotent_and_safe_at_the_edges() -> None:
    """Scaling twice changes no bit; float32's largest and the smallest halves keep their direction."""
    values = np.random.default_rng(0).normal(size=(500, 33)).astype(np.float32) * 100
    once = unit(values)
    np.testing.assert_array_equal(unit(once), once)
    extreme = np.array([[3e38, 3e38], [6e-8, 0], [0, 0]], np.float32)
    np.testing.assert_allclose(unit(extreme), [[0.5**0.5, 0.5**0.5], [1, 0], [0, 0]], rtol=1e-6)


def test_every_half_is_widened_to_its_own_number() -> None:
    """All 65,536 patterns of a float16, in any layout, become the float32 that NumPy makes of them."""
    from embedstore.index.rows import _wide

    halves = np.arange(2**16, dtype=np.uint16).view(np.float16)
    finite = halves[np.isfinite(halves)].reshape(-1, 2)
    for values in (halves.reshape(-1, 2), finite, finite[::-1, ::-1], np.asfortranarray(finite), finite[:0]):
        wide = _wide(values)
        assert wide.flags.c_contiguous
        np.testing.assert_array_equal(wide.view(np.int32), values.astype(np.float32).copy(order="C").view(np.int32))


@pytest.mark.slow
def test_settings_follow_the_goal_and_the_rows(make: Make) -> None:
    """A higher goal looks at more, so does noise without structure; other rows than those tuned on see the recall."""
    easy, hard = clusters(1200, 32), rows_of(np.random.default_rng(0).normal(size=(1200, 32)))
    looked = {}
    for name, rows in (("easy", easy), ("hard", hard)):
        for recall in (0.8, 0.98):
            index = make("ivf", rows, Goal(recall))
            assert index.params["factory"] == "IVF30,SQfp16"
            looked[name, recall] = index.params["nprobe"]
            queries = rows.unit(np.setdiff1d(np.arange(1200), rows.sample(500))[:500])
            true, found = (one.search(queries, 11) for one in (ExactIndex(rows), index))
            assert (found.scores[:, 1:] >= true.scores[:, -1:] - 1e-6).mean() >= recall - 0.02
    assert looked["hard", 0.8] > looked["easy", 0.98]
    assert looked["hard", 0.98] > looked["hard", 0.8]


def test_what_no_setting_reaches_gets_the_best_there_is(make: Make) -> None:
    """One bit for each of 8 values tells little of noise: as many candidates as may be ranked."""
    rows = rows_of(np.random.default_rng(0).normal(size=(6000, 8)))
    index = make("rabitq", rows, Goal(1.0))
    assert 1000 < index.params["candidates"] <= 2000
    assert tuned(index._index, rows_of(np.ones((1, 8))), 0.9, 0) == {"candidates": 10}


def test_a_cell_that_holds_too_few_is_made_up_for(make: Make) -> None:
    """With one cell to look at and 150 neighbours asked, the last of them one of 200 copies: the answer is the exact one."""
    rng = np.random.default_rng(2)
    near, copies = rng.normal([1, 0, 0, 0], 0.1, (100, 4)), np.tile([0, 1, 0, 0], (200, 1))
    rows = rows_of(np.vstack([copies, near]))
    index = make("ivf", rows)
    again = type(index).load(rows, index.at, index.params | {"nprobe": 1})
    query = np.array([[1, 0, 0, 0]], np.float32)
    np.testing.assert_array_equal(again.search(query, 150).keys, ExactIndex(rows).search(query, 150).keys)


@pytest.mark.slow
def test_cells_beyond_the_memory_stay_on_the_disk(make: Make, tmp_path: Path) -> None:
    """Built in pieces and mapped, they answer as cells in memory do; moved and extended, too; nothing else is left."""
    rows = clusters(5000, 8)
    held, mapped = make("ivf", rows, Goal(0.95)), make("ivf", rows, Goal(0.95, memory=60_000))
    assert (held.params["factory"], mapped.params["factory"]) == ("IVF128,SQfp16", "IVF128,SQ8")
    assert sorted(file.name for file in mapped.at.iterdir()) == ["index.cells", "index.faiss"]
    assert (mapped.at / "index.cells").stat().st_size == 5000 * (8 + 8)
    queries = rows.values[:100]
    found = mapped.search(queries, 10)
    moved = mapped.at.rename(tmp_path / "moved")
    again = type(mapped).load(rows, moved, mapped.params).search(queries, 10)
    np.testing.assert_array_equal(found.keys, again.keys)
    assert (found.keys == ExactIndex(rows).search(queries, 10).keys).mean() > 0.9
    more = rows_of(np.vstack([rows.values, clusters(300, 8, seed=1).values]))
    (grown := tmp_path / "grown").mkdir()
    longer = type(mapped).load(rows, moved, mapped.params).extend(more, grown, goal=Goal(memory=1))
    assert (longer.search(more.values[5000:], 1).keys[:, 0] == np.arange(5100, 5400)).all()
    assert sorted(file.name for file in grown.iterdir()) == ["index.cells", "index.faiss"]


def test_on_the_disk_nothing_is_printed(make: Make, capfd: pytest.CaptureFixture[str]) -> None:
    """FAISS's own way to join cells prints to standard output, which belongs to --json."""
    index = make("ivf", clusters(500, 8), Goal(memory=1))
    assert (index.at / "index.cells").exists()
    ctypes.CDLL(None).fflush(None)
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize(
    "settings", [{"nprobe": 0}, {"nprobe": "9"}, {"nprobe": True}, {"candidates": None}, {"candidates": -1}]
)
def test_settings_that_are_none_are_refused(settings: dict[str, Any], make: Make) -> None:
    """Whatever a meta says, FAISS is only asked what it can do."""
    index = make("ivf", clusters(100, 8))
    with pytest.raises(IndexFormatError, match="settings are not numbers above 0"):
        type(index).load(index.rows, index.at, index.params | settings)


def test_files_of_others_are_refused(make: Make) -> None:
    """A structure over other rows, of another width, or of distances."""
    import faiss

    index = make("rabitq", clusters(100, 8))
    for rows in (clusters(99, 8), clusters(100, 16)):
        with pytest.raises(IndexFormatError, match=r"index\.faiss is no index of the inner products of Rows"):
            type(index).load(rows, index.at, index.params)
    faiss.write_index(faiss.index_factory(8, "Flat"), str(index.at / "index.faiss"))
    with pytest.raises(IndexFormatError, match=r"index\.faiss is no index of the inner products"):
        type(index).load(clusters(0, 8), index.at, index.params)
    (index.at / "index.faiss").unlink()
    with pytest.raises(IndexFormatError, match=r"FAISS cannot read index\.faiss"):
        type(index).load(index.rows, index.at, index.params)


@pytest.mark.parametrize("name", ["rabbitq", "IVF", "Flat,Flat", "LSH", ""])
def test_names_that_faiss_cannot_read_are_refused(name: str) -> None:
    """One line that lists the kinds."""
    with pytest.raises(
        UnknownNameError, match=r"unknown index kind .*known: auto, exact, flat, .* factory string"
    ) as error:
        kind_class(name, 24)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "factory", ["HNSW0", *(pytest.param(one, marks=pytest.mark.slow) for one in ("PQ7", "IVF200,Flat", "PCA64,Flat"))]
)
def test_structures_that_do_not_fit_the_rows_are_refused(factory: str, make: Make) -> None:
    """A width that PQ cannot cut, more cells than rows, more axes than values, what ends FAISS's process: one line."""
    with pytest.raises(ParameterError, match=f"FAISS cannot make '{factory}' of Rows") as error:
        make(factory, clusters(100, 24))
    assert "\n" not in str(error.value)


def test_auto_goes_by_rows_and_memory() -> None:
    """Small libraries are scanned; larger ones by bits; what no memory holds stays on the disk."""
    sizes = (1, 20_000, 20_001, 114_000, 1_000_000)
    assert [choose(n, 768, Goal()) for n in sizes] == ["flat", "flat", "rabitq", "rabitq", "ivf-rabitq"]
    assert choose(20_000, 768, Goal(memory=10**7)) == "rabitq"
    assert choose(1_000_000, 768, Goal(memory=10**8)) == "ivf"


@pytest.mark.parametrize("kind", GPU)
def test_gpu_kinds_say_what_they_need(kind: str, make: Make) -> None:
    """Without a GPU: one line with what to install."""
    import faiss

    if faiss.get_num_gpus():
        pytest.skip("there is a GPU")
    with pytest.raises(MissingDependencyError, match=r"finds no GPU .* run: (pip|conda) "):
        make(kind, clusters(100, 8))


@pytest.mark.parametrize(("kind", "twin"), [("gpu-flat", "flat"), ("gpu-ivf", "ivf")])
def test_what_a_gpu_built_is_searched_without_one(kind: str, twin: str, make: Make) -> None:
    """The files are those of the CPU's kind, and so are the answers."""
    index = make(twin, clusters(300, 16))
    params = json.loads(json.dumps(dict(index.params)))
    found = kind_class(kind).load(index.rows, index.at, params).search(index.rows.values[:20], 5)
    np.testing.assert_array_equal(found.keys, index.search(index.rows.values[:20], 5).keys)
