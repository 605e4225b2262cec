"""Every index kind keeps the contract, and the contract is one that can be broken."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embedstore.errors import IndexFormatError
from embedstore.index import BUILTIN
from embedstore.index.base import unit
from embedstore.index.exact import ExactIndex
from embedstore.registry import resolve
from embedstore.testing import check_index
from embedstore.types import LayerMatrix, Neighbors


@pytest.fixture(params=BUILTIN)
def kind(request: pytest.FixtureRequest) -> Any:
    return resolve("indexes", BUILTIN, request.param)


def matrix_of(values: Any) -> LayerMatrix:
    values = np.asarray(values, np.float32)
    return LayerMatrix(0, "layer 0", np.arange(100, 100 + len(values)), values)


def clusters(n: int, dim: int = 64, seed: int = 0) -> LayerMatrix:
    rng = np.random.default_rng(seed)
    return matrix_of(3 * rng.normal(size=(40, dim))[rng.integers(40, size=n)] + rng.normal(size=(n, dim)))


def test_the_contract(kind: Any) -> None:
    """The conformance suite passes."""
    check_index(kind)


class Distances(ExactIndex):
    """Returns distances: smaller is nearer."""

    def search(self, queries: Any, k: int) -> Neighbors:
        """Search."""
        found = super().search(queries, k)
        return Neighbors(found.keys, 1 - found.scores)


class DotProducts(ExactIndex):
    """Forgets to normalise."""

    @classmethod
    def build(cls, matrix: LayerMatrix, *, seed: int = 0) -> Any:
        """Build."""
        return cls(matrix.keys, matrix.values)


class Positions(ExactIndex):
    """Returns row numbers in place of keys."""

    def search(self, queries: Any, k: int) -> Neighbors:
        """Search."""
        found = super().search(queries, k)
        return Neighbors(np.searchsorted(np.sort(self.keys), found.keys), found.scores)


class Lazy(ExactIndex):
    """Looks at half of the rows."""

    def _candidates(self, queries: Any, k: int) -> Any:
        return (np.arange(len(self) // 2 + 1) for _ in queries)


class Forgetful(ExactIndex):
    """Loads something else than it saved."""

    @classmethod
    def load(cls, file: Any, params: Any) -> Any:
        """Load."""
        index = super().load(file, params)
        return cls(index.keys, -index._values)


@pytest.mark.parametrize(
    ("broken", "complaint"),
    [
        (Distances, "score differs"),
        (DotProducts, "score differs"),
        (Positions, "is one of the rows'"),
        (Lazy, "recall at k"),
        (Forgetful, "answers as it did"),
    ],
)
def test_the_suite_catches_broken_kinds(broken: Any, complaint: str) -> None:
    """Wrong direction, wrong measure, wrong ids, missed rows and a bad round trip are each found."""
    with pytest.raises(AssertionError, match=complaint):
        check_index(broken)


def test_scores_are_cosines(kind: Any) -> None:
    """Known angles give known scores, whatever the lengths; opposite is -1."""
    index = kind.build(matrix_of([[1, 0], [5, 5], [0, 2], [-3, 0], [0, 0]]))
    found = index.search(np.array([[10, 0]], np.float32), 5)
    assert found.keys.tolist() == [[100, 101, 102, 104, 103]]
    np.testing.assert_allclose(found.scores[0], [1, 2**-0.5, 0, 0, -1], atol=1e-6)


def test_kinds_return_the_same_bits() -> None:
    """Exact and flat agree in every key and every bit of every score on 3,000 x 768."""
    matrix = clusters(3000, 768)
    queries = matrix.values[:50] + 0.5
    first, second = (resolve("indexes", BUILTIN, name).build(matrix).search(queries, 20) for name in ("exact", "flat"))
    np.testing.assert_array_equal(first.keys, second.keys)
    np.testing.assert_array_equal(first.scores, second.scores)


def test_exact_agrees_with_float64(kind: Any) -> None:
    """The nearest ten are those of a plain float64 computation."""
    matrix = clusters(800)
    queries = matrix.values[:100]
    rows = matrix.values.astype(np.float64)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    order = np.argsort(-(rows[:100] @ rows.T), axis=1)[:, :10]
    found = kind.build(matrix).search(queries, 10)
    agree = np.mean([len(set(a) & set(b)) for a, b in zip(found.keys - 100, order, strict=True)]) / 10
    assert agree >= (0.97 if kind.approximate else 1.0)


def test_many_ties_are_broken_by_the_smaller_key(kind: Any) -> None:
    """Two hundred copies of one vector: the ten smallest keys come first, though FAISS has no order for them."""
    rng = np.random.default_rng(1)
    values = np.vstack([rng.normal(size=(300, 16)), np.tile(rng.normal(size=16), (200, 1))]).astype(np.float32)
    keys = rng.permutation(500)
    copies = np.sort(keys[300:])
    found = kind.build(LayerMatrix(0, "a", keys, values)).search(values[-1:], 10)
    assert found.keys[0].tolist() == copies[:10].tolist()
    assert len(set(found.scores[0].tolist())) == 1


def test_only_zeros(kind: Any) -> None:
    """A layer of nothing but zero vectors is legal; everything scores 0."""
    found = kind.build(matrix_of(np.zeros((50, 8)))).search(np.ones((1, 8), np.float32), 3)
    assert found.keys.tolist() == [[100, 101, 102]]
    assert found.scores.tolist() == [[0, 0, 0]]


def test_unit_is_idempotent_and_safe_at_the_edges() -> None:
    """Scaling twice changes no bit; float32's largest and the smallest halves keep their direction."""
    values = np.random.default_rng(0).normal(size=(500, 33)).astype(np.float32) * 100
    once = unit(values)
    np.testing.assert_array_equal(unit(once), once)
    extreme = np.array([[3e38, 3e38], [6e-8, 0], [0, 0]], np.float32)
    np.testing.assert_allclose(unit(extreme), [[0.5**0.5, 0.5**0.5], [1, 0], [0, 0]], rtol=1e-6)


def test_ivf_tunes_itself_and_says_how() -> None:
    """On clustered rows few cells do; on noise without structure it asks for more; both reach the target."""
    ivf = resolve("indexes", BUILTIN, "ivf")
    easy, hard = clusters(3000), matrix_of(np.random.default_rng(0).normal(size=(3000, 64)))
    probes = []
    for matrix in (easy, hard):
        index = ivf.build(matrix)
        assert index.params["factory"] == "IDMap2,IVF76,Flat"
        true = ExactIndex.build(matrix).search(matrix.values[500:1000], 10)
        found = index.search(matrix.values[500:1000], 10)
        assert (found.scores >= true.scores[:, -1:] - 1e-6).mean() >= 0.985
        probes.append(index.params["nprobe"])
    assert probes[0] < probes[1] <= 76


def test_ivf_looks_further_when_its_cells_hold_too_few() -> None:
    """With one cell to look at and 150 neighbours asked, the last of them one of 200 copies: the answer is the exact one."""
    rng = np.random.default_rng(2)
    near, copies = rng.normal([1, 0, 0, 0], 0.1, (100, 4)), np.tile([0, 1, 0, 0], (200, 1))
    matrix = matrix_of(np.vstack([copies, near]))
    ivf = resolve("indexes", BUILTIN, "ivf")
    file = io.BytesIO()
    ivf.build(matrix).save(file)
    file.seek(0)
    query = np.array([[1, 0, 0, 0]], np.float32)
    found = ivf.load(file, {"nprobe": 1}).search(query, 150)
    np.testing.assert_array_equal(found.keys, ExactIndex.build(matrix).search(query, 150).keys)


@pytest.mark.parametrize("nprobe", [0, -1, 8, 2**70, "9", None, 1.5, True])
def test_ivf_refuses_params_that_are_not_its_own(nprobe: object) -> None:
    """Whatever a meta says, FAISS is only asked what it can do."""
    ivf = resolve("indexes", BUILTIN, "ivf")
    file = io.BytesIO()
    ivf.build(clusters(300)).save(file)
    file.seek(0)
    with pytest.raises(IndexFormatError, match=r"nprobe must be 1\.\.7;"):
        ivf.load(file, {"nprobe": nprobe})


def test_one_faiss_layout_is_not_taken_for_another() -> None:
    """A file of one kind, or of another FAISS type, is refused before FAISS parses it."""
    import faiss

    flat, ivf = (resolve("indexes", BUILTIN, name) for name in ("flat", "ivf"))
    file = io.BytesIO()
    flat.build(clusters(100)).save(file)
    file.seek(0)
    with pytest.raises(IndexFormatError, match="not an id map over b'IwFl'"):
        ivf.load(file, {"nprobe": 1})
    euclidean = faiss.IndexIDMap2(faiss.IndexFlatL2(8))
    euclidean.add_with_ids(np.ones((3, 8), np.float32), np.arange(3))
    for index in (euclidean, faiss.IndexHNSWFlat(8, 4)):
        file = io.BytesIO(faiss.serialize_index(index).tobytes())
        with pytest.raises(IndexFormatError, match="not an id map over b'IxFI'"):
            flat.load(file, {})


def saved(index: Any) -> bytes:
    """Give what an index writes."""
    file = io.BytesIO()
    index.save(file)
    return file.getvalue()


@pytest.mark.parametrize("rows", [0, 1, 40, 300])
@pytest.mark.parametrize("alike", [False, True])
def test_every_layout_that_is_written_is_read(rows: int, alike: bool) -> None:
    """Few rows and many, with empty cells (which FAISS writes in another way) and without."""
    matrix = clusters(rows)
    if alike:
        matrix = LayerMatrix(0, "alike", matrix.keys, np.ones_like(matrix.values))
    queries = np.random.default_rng(3).normal(size=(3, matrix.values.shape[1])).astype(np.float32)
    for kind in ("flat", "ivf"):
        index = resolve("indexes", BUILTIN, kind).build(matrix)
        again = type(index).load(io.BytesIO(saved(index)), index.params)
        found, true = again.search(queries, 5), index.search(queries, 5)
        np.testing.assert_array_equal(found.keys, true.keys)
        np.testing.assert_array_equal(found.scores, true.scores)


def test_faiss_opens_no_file_that_an_index_names(tmp_path: Path) -> None:
    """Cells on the disk, other quantizers, whatever FAISS can nest: refused before FAISS sees them."""
    import faiss

    rows = clusters(300).values
    dim = rows.shape[1]
    for spoil in ("on disk", "graph", "scalar"):
        cells = faiss.IndexHNSWFlat(dim, 4, faiss.METRIC_INNER_PRODUCT) if spoil == "graph" else faiss.IndexFlatIP(dim)
        inner = faiss.IndexIVFFlat(cells, dim, 7, faiss.METRIC_INNER_PRODUCT)
        if spoil == "scalar":
            inner = faiss.IndexIVFScalarQuantizer(
                cells, dim, 7, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT
            )
        inner.train(rows)
        if spoil == "on disk":
            lists = faiss.OnDiskInvertedLists(7, inner.code_size, str(tmp_path / "elsewhere"))
            inner.replace_invlists(lists)
        index = faiss.IndexIDMap2(inner)
        index.add_with_ids(rows, np.arange(300))
        inner.make_direct_map()
        data = faiss.serialize_index(index).tobytes()
        if spoil == "on disk":
            (tmp_path / "elsewhere").unlink()
            os.mkfifo(tmp_path / "elsewhere")  # to open it would take for ever
        with pytest.raises(IndexFormatError, match="not an id map over b'IwFl' as this version writes it"):
            resolve("indexes", BUILTIN, "ivf").load(io.BytesIO(data), {"nprobe": 1})


def test_a_stored_map_of_rows_is_not_believed() -> None:
    """The place of each row is found again; cells that hold a row twice, or one that is not there, are refused."""
    kind = resolve("indexes", BUILTIN, "ivf")
    matrix = clusters(300)
    index = kind.build(matrix)
    data = saved(index)
    dim = index.dim
    at = 135 + 4 * dim * 7 + 9
    assert data[at - 9 : at] == b"\1" + (300).to_bytes(8, "little")
    wild = data[:at] + b"\x7f" * 8 * 300 + data[at + 8 * 300 :]
    again = kind.load(io.BytesIO(wild), index.params)
    np.testing.assert_array_equal(again.search(matrix.values[:5], 3).keys, index.search(matrix.values[:5], 3).keys)
    first = at + 8 * 300 + 32 + 8 * 7  # the first cell: its rows, then their positions
    size = int.from_bytes(data[first - 8 * 7 :][:8], "little")
    ids = first + 4 * dim * size
    for wrong in (2**40, int.from_bytes(data[ids + 8 : ids + 16], "little")):
        with pytest.raises(IndexFormatError, match="its cells hold"):
            kind.load(io.BytesIO(data[:ids] + wrong.to_bytes(8, "little") + data[ids + 8 :]), index.params)


@pytest.mark.parametrize("kind", ["exact", "flat", "ivf"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_rows_that_are_not_finite_are_refused(kind: str, value: float) -> None:
    """A vector of nan would be nobody's neighbour, without a word."""
    index = resolve("indexes", BUILTIN, kind).build(clusters(300))
    data = saved(index)
    (row,) = (index._rows(np.array([5])),)
    at = data.index(row.astype("<f4").tobytes())
    with pytest.raises(IndexFormatError, match="values that are not finite"):
        type(index).load(io.BytesIO(data[:at] + np.float32(value).tobytes() + data[at + 4 :]), index.params)
