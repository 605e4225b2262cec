"""`embedstore export`: one clear line for each fault, exit code 1, no half file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import store_material as m
from click.testing import CliRunner

import cli
from embedstore.exports import base


def call(*arguments: str):
    return CliRunner().invoke(cli.main, ["export", *arguments])


def test_it_says_what_it_did(store):
    """In one line, or as one JSON document."""
    done = call("music.h5", "--layer", "mean", "--layer", "layer 1")
    assert done.exit_code == 0, done.output
    assert done.output.startswith("music.h5: 600 tracks, layer_mean, layer_01, ")
    report = json.loads(call("other.h5", "--json").stdout)
    assert report["bytes"] == Path("other.h5").stat().st_size
    assert (report["rows"], report["layers"]) == (600, ["layer_00", "layer_01", "layer_02"])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["music.csv"], "'music.csv' does not say what to write: name it *.h5, *.hdf5, *.parquet, *.db, or give --to"),
        (["music", "--to", "parkett"], "unknown form of export 'parkett'; did you mean 'parquet'? known: h5, parquet, milvus"),
        (["music.h5", "--layer", "7"], "there is no layer '7'; this model's stored layers are 0, 1, 2"),
        (["music.h5", "--collection", "c"], "collection is an option of an export to milvus, not h5"),
        (["music.db", "--overwrite"], "overwrite is an option of an export to h5 and parquet, not milvus"),
        (["music.parquet", "--float32"], "float32 is an option of an export to h5, not parquet"),
        (["music.h5", "--store", "empty"], "the store {here}/empty holds no tracks; build first"),
        (["music.h5", "--store", "none"], "there is no store at {here}/none (found nothing); make one with: embedstore build AUDIO_DIR"),
        (["no/music.h5"], "cannot write {here}/no/music.h5: No such file or directory"),
    ],
)  # fmt: skip
def test_faults_are_one_line(store, tmp_path, arguments, words):
    """What was asked, what was found, what to do."""
    m.make("empty").close()
    done = call(*arguments)
    assert (done.exit_code, done.stderr) == (1, f"embedstore: {words.format(here=tmp_path)}\n")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["embeddings", "empty"]


def test_interrupted(store, monkeypatch, tmp_path):
    """Ctrl-C: one word, no half file."""

    def broken(_tracks):
        raise KeyboardInterrupt

    monkeypatch.setattr(base, "_described", broken)
    done = call("music.h5")
    assert (done.exit_code, done.stderr) == (1, "embedstore: interrupted\n")
    assert [path.name for path in tmp_path.iterdir()] == ["embeddings"]
