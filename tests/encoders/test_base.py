"""The contract of encoders: options, pooling, recipe, names."""

import json
import sys
from dataclasses import replace

import numpy as np
import pytest

from embedstore.encoders import BUILTIN, MeanPool, base, load_encoder, recipe_of
from embedstore.encoders.base import (
    check_windows,
    default_layer,
    import_torchaudio,
    make_windowing,
    parse_layers,
    parse_window,
    pick_device,
)
from embedstore.errors import EncoderError, MissingDependencyError, ParameterError, UnknownNameError
from embedstore.testing import check_encoder
from embedstore.types import EncoderCard, Layer, LayerEmbeddings, Windowing

NUMBERED = [Layer(n, f"layer {n}", 768) for n in range(13)]
NAMED = [Layer(0, "timbral", 408), Layer(1, "mean-pool", 753), Layer(2, "penultimate", 200)]
CARD = EncoderCard(
    name="toy",
    model="somewhere/toy",
    revision="1",
    weights_sha256="ab" * 32,
    sample_rate=16000,
    layers=(Layer(0, "a", 2), Layer(1, "b", 3)),
    frame_rate=50.0,
    preprocessing="none",
    precision="float32",
    licence="MIT",
    paper="none",
    default_layer=0,
)


class Toy:
    """An encoder that tells nothing, built as any plug-in is."""

    def __init__(self, *, model=None, layers=None, window=None, device="auto", seed=None):
        self.options = {"model": model, "layers": layers, "window": window, "device": device, "seed": seed}
        self.card = CARD
        self.windowing = Windowing(length=16000, hop=16000, min_tail=4000, minimum=400)

    def encode(self, windows):
        """Hear nothing."""
        return [LayerEmbeddings((np.zeros(2, np.float32), np.zeros(3, np.float32)), 1) for _ in windows]


class Listener(Toy):
    """An encoder that hears a little, and keeps every promise but the one that `fault` names."""

    def __init__(self, fault=None):
        super().__init__()
        self.fault = fault
        self.calls = 0
        self.card = replace(CARD, licence="" if fault == "licence" else "MIT")

    def encode(self, windows):
        """Tell mean and spread of each window, in a card's worth of numbers."""
        self.calls += 1
        results = [self._tell(window) for window in windows]
        if self.fault == "company":
            results = [replace(r, vectors=(r.vectors[0] + 1e-3 * len(windows), r.vectors[1])) for r in results]
        return results[:-1] if self.fault == "count" else results

    def _tell(self, window):
        first = np.full(2, window.mean(), np.float32)
        second = np.full(2 if self.fault == "shape" else 3, window.std(), np.float32)
        if self.fault == "silence" and not window.any():
            second[:] = np.nan
        if self.fault == "again":
            first += self.calls
        return LayerEmbeddings((first, second), len(window) // 400)


class Speechless:
    """What is built like an encoder but is none."""

    def __init__(self, *, model=None, layers=None, window=None, device="auto", seed=None):
        self.card = CARD


@pytest.mark.parametrize(
    ("spec", "numbers"),
    [
        (None, list(range(13))),
        ("all", list(range(13))),
        ("0-6", list(range(7))),
        ("3,5", [3, 5]),
        (" 5 , 3-4,5", [3, 4, 5]),
        ("layer 7,12", [7, 12]),
        (6, [6]),
        ([12, "0-1"], [0, 1, 12]),
    ],
)
def test_layers_are_picked_by_number_range_and_name(spec, numbers):
    """Every way to write a choice of layers gives them once each, by rising number."""
    assert [layer.number for layer in parse_layers(spec, NUMBERED)] == numbers


def test_a_name_with_a_dash_is_no_range():
    """Names win over the look of a range."""
    assert parse_layers("mean-pool,0", NAMED) == (NAMED[0], NAMED[1])


@pytest.mark.parametrize(
    ("spec", "kind", "words"),
    [
        ("6-0", ParameterError, "runs backwards; did you mean 0-6?"),
        ("", ParameterError, "empty place"),
        ("3,,5", ParameterError, "empty place"),
        ([], ParameterError, "no layer is chosen"),
        ("13", UnknownNameError, "no layer '13'; the layers are 0, 1, 2"),
        ("0-13", UnknownNameError, "no layer '13'"),
        ("-1", UnknownNameError, "no layer '-1'"),
        (99, UnknownNameError, "no layer '99'"),
        ("last", UnknownNameError, "ranges such as 0-12 and 'all' work too"),
    ],
)
def test_a_wrong_choice_of_layers_lists_the_right_ones(spec, kind, words):
    """Each mistake has its own message, and unknown layers are answered with the known."""
    with pytest.raises(kind, match=words.replace("?", r"\?")):
        parse_layers(spec, NUMBERED)


def test_the_default_layer_survives_a_choice():
    """With the preferred layer left out, its nearest neighbour stands in."""
    assert default_layer(NUMBERED, 6) == 6
    assert default_layer(parse_layers("0-3", NUMBERED), 6) == 3
    assert default_layer(parse_layers("5,7", NUMBERED), 6) == 5


@pytest.mark.parametrize(("window", "samples"), [(None, 80000), (2, 32000), ("0.5", 8000), ("track", None)])
def test_a_window_is_seconds_or_the_track(window, samples):
    """Seconds become samples at the encoder's rate; None is the encoder's own length."""
    assert parse_window(window, sample_rate=16000, default=80000, minimum=400) == samples


@pytest.mark.parametrize("window", ["0", -1, "nan", "inf", "5s", "", [5]])
def test_a_window_that_is_no_length_is_refused(window):
    """Only finite numbers above zero are lengths."""
    with pytest.raises(ParameterError, match="number of seconds above 0 or 'track'"):
        parse_window(window, sample_rate=16000, default=80000)


def test_a_window_shorter_than_the_network_takes_is_refused():
    """The message holds both lengths in samples."""
    with pytest.raises(ParameterError, match="160 samples at 16000 Hz; this encoder needs at least 400"):
        parse_window(0.01, sample_rate=16000, default=80000, minimum=400)


def test_devices_are_what_this_machine_has():
    """The CPU is always there; a device that is not is answered with those that are."""
    assert pick_device("cpu") == "cpu"
    assert pick_device("auto") in ("cpu", "cuda", "mps")
    for name in ("cuda:99", "abacus", ""):
        with pytest.raises(ParameterError, match=f"no device '{name}' here; devices are cpu"):
            pick_device(name)


@pytest.mark.parametrize(
    "window",
    [np.zeros(399, np.float32), np.zeros(400, np.float64), np.zeros((1, 400), np.float32)],
)
def test_what_is_not_a_window_is_refused(window):
    """Too short, another type, or not mono."""
    with pytest.raises(ParameterError, match="at least 400 samples; number 1 is"):
        check_windows([np.zeros(400, np.float32), window], 400)


def test_pooling_weighs_windows_by_their_frames():
    """The track's vector is the mean over frames, not over windows, however the frames fall into windows."""
    frames = np.random.default_rng(0).normal(3, 1, (1000, 5)).astype(np.float32)
    pool = MeanPool()
    for part in np.split(frames, [1, 10, 700]):
        pool.add(LayerEmbeddings((part.mean(0), 2 * part.mean(0)), len(part)))
    result = pool.result()
    assert result.n_frames == 1000
    np.testing.assert_allclose(result.vectors[0], frames.mean(0, dtype=np.float64), rtol=1e-6)
    np.testing.assert_allclose(result.vectors[1], 2 * frames.mean(0, dtype=np.float64), rtol=1e-6)
    assert [v.dtype for v in result.vectors] == [np.float32, np.float32]


def test_pooling_keeps_windows_if_asked():
    """Kept windows are the float16 of what came in, in order, and their weighted mean is the track's; else there are none."""
    rng = np.random.default_rng(0)
    windows = [
        LayerEmbeddings((rng.normal(size=3).astype("f4"), rng.normal(size=5).astype("f4")), n) for n in (7, 1, 4)
    ]
    kept, plain = MeanPool(keep=True), MeanPool()
    for window in windows:
        kept.add(window)
        plain.add(window)
    assert plain.result().windows == ()
    result = kept.result()
    assert [window.n_frames for window in result.windows] == [7, 1, 4]
    for layer in range(2):
        np.testing.assert_array_equal(result.vectors[layer], plain.result().vectors[layer])
        rows = [window.vectors[layer] for window in result.windows]
        assert {row.dtype for row in rows} == {np.dtype("f2")}
        np.testing.assert_array_equal(rows, [window.vectors[layer].astype("f2") for window in windows])
        mean = np.average(np.array(rows, "f8"), axis=0, weights=[7, 1, 4])
        np.testing.assert_allclose(mean, result.vectors[layer], atol=2**-11 * np.abs(rows).max())


def test_pooling_refuses_more_windows_than_a_store_can_keep(monkeypatch):
    """The line says how many there were and what to do; a pool that keeps none goes on."""
    monkeypatch.setattr(base, "MOST_WINDOW_BYTES", 2**20)
    window = LayerEmbeddings((np.zeros(2**18, np.float32),), 1)
    kept, plain = MeanPool(keep=True), MeanPool()
    for _ in range(2):
        kept.add(window)
    with pytest.raises(EncoderError, match=r"^3 windows of it take more than .* choose a longer window or hop"):
        kept.add(window)
    for _ in range(4):
        plain.add(window)
    assert plain.result().n_frames == 4


@pytest.mark.parametrize(
    "windows",
    [
        (LayerEmbeddings((np.zeros(3, np.float16),), 4),),  # another number of frames
        (LayerEmbeddings((np.zeros(2, np.float16),), 5),),  # another width
        (LayerEmbeddings((np.zeros(3, np.float16),) * 2, 5),),  # another number of layers
    ],
)
def test_windows_that_are_not_their_tracks_are_refused(windows):
    """Frames add up, and layers are the same."""
    with pytest.raises(ParameterError, match="windows have the layers and frames of their track"):
        LayerEmbeddings((np.zeros(3, np.float32),), 5, windows)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_pooling_refuses_what_is_not_finite(bad):
    """One NaN must not become a vector of NaN in the store."""
    with pytest.raises(EncoderError, match="NaN or infinity in vector 2 of 2"):
        MeanPool().add(LayerEmbeddings((np.zeros(3, np.float32), np.array([0, bad, 0], np.float32)), 4))


def test_pooling_needs_windows_of_one_kind():
    """Nothing to pool, and windows with other layers, are errors."""
    pool = MeanPool()
    with pytest.raises(EncoderError, match="no window"):
        pool.result()
    pool.add(LayerEmbeddings((np.zeros(3, np.float32),), 1))
    with pytest.raises(EncoderError, match=r"widths \[3\] and \[4\]"):
        pool.add(LayerEmbeddings((np.zeros(4, np.float32),), 1))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, Windowing(80000, 80000, min_tail=16000, minimum=400)),
        ({"window": 1}, Windowing(16000, 16000, min_tail=8000, minimum=400)),
        ({"window": "track"}, Windowing(None, 1, min_tail=16000, minimum=400)),
        ({"hop": 2.5}, Windowing(80000, 40000, min_tail=16000, minimum=400)),
        ({"hop": "5"}, Windowing(80000, 80000, min_tail=16000, minimum=400)),
        ({"window": "30", "hop": 1 / 16000}, Windowing(480000, 1, min_tail=16000, minimum=400)),
        ({"normalise": "file"}, Windowing(80000, 80000, min_tail=16000, minimum=400, normalise="file")),
        ({"normalise": "window"}, Windowing(80000, 80000, min_tail=16000, minimum=400)),
    ],
)
def test_a_windowing_is_made_of_options(options, expected):
    """Seconds become samples; what is not asked is the encoder's own; only per-file normalisation is the windowing's."""
    options = {"window": None, **options}
    assert make_windowing(**options, sample_rate=16000, default=80000, minimum=400, tail=16000) == expected


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"hop": 0}, "a hop is a number of seconds above 0 and no more than a day; got 0"),
        ({"hop": -1}, "above 0 and no more than a day; got -1"),
        ({"hop": "abc"}, "above 0 and no more than a day; got 'abc'"),
        ({"hop": float("nan")}, "above 0 and no more than a day; got nan"),
        ({"hop": float("inf")}, "above 0 and no more than a day; got inf"),
        ({"hop": 1e-9}, "at least one sample and at most a window.*got 1e-09 s, 0 samples at 16000 Hz"),
        ({"hop": 5.1}, "got 5.1 s, 81600 samples at 16000 Hz, with windows of 5 s"),
        ({"window": "track", "hop": 1}, "the window is the whole track, and leaves nothing to hop to; leave out hop 1"),
        ({"normalise": "both"}, "sound is normalised per window, file, none; got 'both'"),
    ],
)
def test_a_windowing_that_makes_no_sense_is_refused(options, words):
    """In one line, with what was asked."""
    with pytest.raises(ParameterError, match=words) as caught:
        make_windowing(**{"window": None, **options}, sample_rate=16000, default=80000)
    assert "\n" not in str(caught.value)


def test_mfcc_hops():
    """The windows of a baseline may overlap, too."""
    encoder = load_encoder("mfcc", window=10, hop=5, device="cpu")
    assert (encoder.windowing.length, encoder.windowing.hop) == (220500, 110250)


def test_an_option_that_an_encoder_does_not_take_is_refused_by_name():
    """Nothing is dropped quietly; what is not asked is not passed."""
    for name in ("musicnn", f"{__name__}:Toy"):
        with pytest.raises(ParameterError, match=f"^{name} does not take hop, normalise; leave it out$"):
            load_encoder(name, hop=1.0, normalise="file")
    with pytest.raises(ParameterError, match="mfcc does not take precision, trust_remote_code"):
        load_encoder("mfcc", precision="float16", trust_remote_code=True)


def recipe_with(windowing=None, **card):
    """Recipe of the toy with some facts changed."""
    toy = Toy()
    toy.card = replace(toy.card, **card)
    toy.windowing = replace(toy.windowing, **(windowing or {}))
    return recipe_of(toy)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"name": "other"}, "encoder"),
        ({"revision": "2"}, "revision"),
        ({"weights_sha256": "cd" * 32}, "weights_sha256"),
        ({"sample_rate": 8000}, "sample_rate"),
        ({"layers": CARD.layers[:1]}, "layers"),
        ({"preprocessing": "loud"}, "preprocessing"),
        ({"precision": "bfloat16"}, "precision"),
        ({"windowing": {"length": 32000}}, "window_length"),
        ({"windowing": {"hop": 8000}}, "window_hop"),
        ({"windowing": {"pad": 256}}, "window_pad"),
        ({"windowing": {"min_tail": 1}}, "window_min_tail"),
        ({"windowing": {"tail": "drop"}}, "window_tail"),
        ({"windowing": {"short": "repeat"}}, "window_short"),
    ],
)
def test_what_changes_a_vector_changes_one_field_of_the_recipe(change, field):
    """So that a store can say which fact differs."""
    before, after = recipe_with(), recipe_with(**change)
    assert [name for name in before if before[name] != after[name]] == [field]


def test_kept_windows_are_one_more_field_of_the_recipe():
    """The recipe of a store without windows is what it was before there were any."""
    plain, kept = recipe_of(Toy()), recipe_of(Toy(), keep_windows=True)
    assert "windows" not in plain
    assert kept == {**plain, "windows": "kept"}


def test_what_changes_no_vector_is_not_in_the_recipe():
    """Where the checkpoint lies, which code ran it, its licence, and the hop of a window that is the whole track."""
    assert (
        recipe_with(model="elsewhere/copy", path="c++", licence="?", default_layer=1, options={"a": 1}) == recipe_with()
    )
    whole = {"length": None, "hop": 1}
    assert recipe_with(whole) == recipe_with({**whole, "hop": 7})


def test_a_recipe_is_plain_json_and_names_how_sound_is_read():
    """It survives JSON unchanged and holds the decoding recipe of the audio room."""
    from embedstore.audio import DECODE_RECIPE

    recipe = recipe_with()
    assert json.loads(json.dumps(recipe)) == recipe
    assert (recipe["decoding"], recipe["pooling"], recipe["dtype"]) == (DECODE_RECIPE, "frame-weighted mean", "float16")


def test_every_built_in_encoder_is_where_the_table_says():
    """A table of strings can rot; importing each keeps it honest."""
    import importlib

    for target in BUILTIN.values():
        module, _, attribute = target.partition(":")
        assert hasattr(importlib.import_module(module), attribute), target


def test_a_plug_in_is_loaded_by_its_dotted_name_with_every_option():
    """Names without registration work, and a seed reaches only encoders that were asked to be random."""
    name = f"{__name__}:Toy"
    toy = load_encoder(name, model="m", layers="0", window=3.0, device="cpu", seed=7)
    assert toy.options == {"model": "m", "layers": "0", "window": 3.0, "device": "cpu", "seed": None}
    assert load_encoder(f"random:{name}", seed=7).options["seed"] == 7


@pytest.mark.parametrize("name", ["json:dumps", "random:json:JSONDecoder"])
def test_what_cannot_be_built_as_an_encoder_is_refused(name):
    """A class of another kind is named, not called."""
    with pytest.raises(EncoderError, match="is not an encoder class: it cannot take model, layers"):
        load_encoder(name)


def test_what_is_built_but_cannot_encode_is_refused():
    """The message lists the missing parts."""
    with pytest.raises(EncoderError, match="what it makes has no windowing, encode"):
        load_encoder(f"{__name__}:Speechless")


@pytest.mark.parametrize("name", ["music2vek", "random:music2vek"])
def test_an_unknown_encoder_is_answered_with_the_nearest(name):
    """Did-you-mean, with and without random weights."""
    with pytest.raises(UnknownNameError, match="unknown encoder 'music2vek'; did you mean 'music2vec'"):
        load_encoder(name)


def test_the_conformance_suite_lets_a_sound_encoder_pass():
    """Nothing is raised, neither where the whole file is normalised before it is cut."""
    check_encoder(Listener())
    listener = Listener()
    listener.windowing = replace(listener.windowing, normalise="file")
    check_encoder(listener)


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("licence", "card.licence is a text and not empty"),
        ("count", "encode gave 6 results for 7 windows"),
        ("shape", "silence: vectors are .* the card promises"),
        ("silence", "silence: a vector holds NaN"),
        ("again", "when encoded a second time"),
        ("company", "when encoded alone"),
    ],
)
def test_the_conformance_suite_finds_each_fault(fault, words):
    """A suite that cannot fail would prove nothing."""
    with pytest.raises(AssertionError, match=words):
        check_encoder(Listener(fault))


@pytest.fixture
def fake_torchaudio(tmp_path, monkeypatch):
    """Put a torchaudio of our own in front of whichever is installed."""
    import torch

    def write(source):
        (tmp_path / "torchaudio.py").write_text(source)
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchaudio"]:
            monkeypatch.delitem(sys.modules, name)
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.setattr(torch.version, "cuda", "99.9")

    yield write
    sys.modules.pop("torchaudio", None)


def test_a_torchaudio_of_another_cuda_is_imported_all_the_same(fake_torchaudio):
    """Torchaudio compares its CUDA with torch's on import and refuses; its Python code works regardless."""
    import torch

    fake_torchaudio("import torch\nif torch.version.cuda is not None: raise RuntimeError('different CUDA versions')")
    assert import_torchaudio().__name__ == "torchaudio"
    assert torch.version.cuda == "99.9"


def test_a_torchaudio_that_is_broken_is_named_with_the_way_out(fake_torchaudio):
    """What its import says, and the install line, are in the message."""
    import torch

    fake_torchaudio("raise OSError('libcudart.so.13: cannot open shared object file')")
    with pytest.raises(MissingDependencyError, match=r"libcudart.*pip install --force-reinstall torch torchaudio"):
        import_torchaudio()
    assert torch.version.cuda == "99.9"
