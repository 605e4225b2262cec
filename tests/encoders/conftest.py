"""Small checkpoints of each architecture, and a hub on this machine."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "conv_dim": [16] * 7,
    "num_conv_pos_embedding_groups": 2,
}
STABLE = {"do_stable_layer_norm": True, "feat_extract_norm": "layer", "conv_bias": True}
KINDS = {
    "data2vec": ("data2vec-audio", {}),
    "wav2vec2": ("wav2vec2", {"num_conv_pos_embeddings": 16}),
    "wav2vec2-stable": ("wav2vec2", {"num_conv_pos_embeddings": 16, **STABLE}),
    "hubert": ("hubert", {"num_conv_pos_embeddings": 16}),
    "hubert-stable": ("hubert", {"num_conv_pos_embeddings": 16, **STABLE}),
    "wavlm": ("wavlm", {"num_conv_pos_embeddings": 16}),
    "wavlm-stable": ("wavlm", {"num_conv_pos_embeddings": 16, **STABLE}),
}


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


def _save(folder: Path, kind: str, **fields: object) -> Path:
    """Save a network as its authors would: save_pretrained, with seeded weights that are not all ones and zeros."""
    import torch
    from transformers import MODEL_MAPPING, AutoConfig

    from embedstore.encoders.base import import_torchaudio

    import_torchaudio()
    family, extra = KINDS[kind]
    config = AutoConfig.for_model(family, **{**SMALL, **extra, **fields})
    torch.manual_seed(0)
    network = MODEL_MAPPING[type(config)](config)
    with torch.no_grad():
        for tensor in network.parameters():  # a sum over many inputs is to be no larger than one over few
            tensor.add_(0.1 * min(1, 32 / max(1, tensor[0].numel())) ** 0.5 * torch.randn_like(tensor))
    network.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text('{"do_normalize": true, "sampling_rate": 16000}')
    return folder


def _to_bin(folder: Path) -> Path:
    """Turn a checkpoint's safetensors into the older pytorch_model.bin."""
    import torch
    from safetensors.torch import load_file

    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    return folder


def _leak_path(folder: Path) -> Path:
    """Give a checkpoint's config the defect of the published music2vec config."""
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "vocab_size": "/home/someone/fairseq/dict.ltr.txt"}))
    return folder


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Give the folder of a small checkpoint, by kind; shared, so leave it as it is."""
    folders: dict[str, Path] = {}

    def folder_of(kind: str) -> Path:
        if kind not in folders:
            folders[kind] = _save(tmp_path_factory.mktemp(kind), kind)
        return folders[kind]

    return folder_of


@pytest.fixture
def checkpoint(saved: Callable[[str], Path], tmp_path: Path) -> Path:
    """Make a small data2vec checkpoint of one's own, to damage; its folder is called "mine"."""
    return Path(shutil.copytree(saved("data2vec"), tmp_path / "mine"))


def _noise(seconds: float, seed: int = 0) -> np.ndarray:
    """Noise that is neither centred nor of unit variance: float32 at 16 kHz."""
    return np.random.default_rng(seed).normal(0.05, 0.2, round(16000 * seconds)).astype(np.float32)


def _oracle(folder: Path, windows: list[np.ndarray], *, normalise: bool = True) -> list[list[np.ndarray]]:
    """Run the transformers model of a checkpoint, one window at a time: the mean of each hidden state over frames."""
    import torch
    from safetensors.torch import load_file
    from transformers import MODEL_MAPPING, AutoConfig, Wav2Vec2FeatureExtractor

    fields = json.loads((folder / "config.json").read_text())
    config = AutoConfig.for_model(**{name: value for name, value in fields.items() if name != "vocab_size"})
    network = MODEL_MAPPING[type(config)](config).eval()
    safe = folder / "model.safetensors"
    network.load_state_dict(
        load_file(safe) if safe.exists() else torch.load(folder / "pytorch_model.bin", weights_only=True), strict=True
    )
    prepare = Wav2Vec2FeatureExtractor(do_normalize=normalise)
    means = []
    for window in windows:
        values = prepare(window, sampling_rate=16000, return_tensors="pt").input_values
        with torch.no_grad():
            states = network(values, output_hidden_states=True).hidden_states
        means.append([state[0].mean(0).numpy() for state in states])
    return means


@pytest.fixture
def noise() -> Callable[..., np.ndarray]:
    """See `_noise`."""
    return _noise


@pytest.fixture
def oracle() -> Callable[..., list[list[np.ndarray]]]:
    """See `_oracle`."""
    return _oracle


@pytest.fixture
def save() -> Callable[..., Path]:
    """See `_save`."""
    return _save


@pytest.fixture
def to_bin() -> Callable[[Path], Path]:
    """See `_to_bin`."""
    return _to_bin


@pytest.fixture
def leak_path() -> Callable[[Path], Path]:
    """See `_leak_path`."""
    return _leak_path


class Hub:
    """Serves repositories from folders ``root/owner/name`` the way the Hugging Face hub does."""

    commit = "0123456789abcdef0123456789abcdef01234567"

    def __init__(self, root: Path) -> None:
        self.root = root
        self.requests: list[str] = []
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                hub.requests.append(self.path)
                owner, name, _resolve, _revision, file = self.path.strip("/").split("/", 4)
                repository, path = root / owner / name, root / owner / name / file
                content = path.read_bytes() if path.is_file() else b""
                self.send_response(200 if path.is_file() else 404)
                if not path.is_file():
                    self.send_header("X-Error-Code", "EntryNotFound" if repository.is_dir() else "RepoNotFound")
                self.send_header("X-Repo-Commit", hub.commit)
                self.send_header("ETag", f'"{len(content)}"')
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(content)

            do_GET = do_HEAD  # noqa: N815 - http.server's name

            def log_message(self, *_args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def publish(self, repository: str, folder: Path) -> None:
        """Serve a copy of a folder as a repository."""
        shutil.copytree(folder, self.root / repository)

    def disconnect(self) -> None:
        """Refuse connections from now on."""
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """Put a hub of our own in place of the real one, with an empty cache."""
    from huggingface_hub import constants, file_download

    served = Hub(tmp_path / "hub")
    template = served.url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "ENDPOINT", served.url)
    for module in (constants, file_download):  # its older versions kept a copy
        monkeypatch.setattr(module, "HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    yield served
    served.disconnect()
