"""Checkpoints of the transformers library: what their config says, and the network with its weights.

Only `NETWORK_FIELDS` are read from a ``config.json``. The rest is about training, may ask for code from elsewhere, or is
no use at all: the published music2vec config holds a path of somebody's disk as ``vocab_size``, for which transformers 5
refuses it. Pickled code is never run: ``.bin`` files are read with ``weights_only=True``.
"""

from __future__ import annotations

import hashlib
import json
import pickle
import re
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from embedstore.encoders.base import import_torchaudio
from embedstore.encoders.hub import one_line
from embedstore.errors import MissingDependencyError, WeightsError

__all__ = [
    "build_config",
    "class_of",
    "config_digest",
    "fill_network",
    "load_network",
    "mend_torchaudio",
    "no_network",
    "random_network",
    "sum_of_files",
    "sum_of_tensors",
]

NETWORK_FIELDS = (
    *("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "hidden_act", "layer_norm_eps"),
    *("conv_dim", "conv_stride", "conv_kernel", "conv_bias", "feat_extract_norm", "feat_extract_activation"),
    *("num_conv_pos_embeddings", "num_conv_pos_embedding_groups", "conv_pos_kernel_size", "conv_pos_batch_norm"),
    *("do_stable_layer_norm", "feat_proj_layer_norm", "num_buckets", "max_bucket_distance", "adapter_attn_dim"),
)


def build_config(fields: Mapping[str, Any], families: Collection[str], where: str) -> Any:
    """Build a transformers config from the fields that shape the network.

    Raises
    ------
    WeightsError
        Another architecture, or values that no network has.
    """
    family = fields.get("model_type")
    if not isinstance(family, str) or family not in families:
        raise WeightsError(f"{where} is a model of type {family!r}; this encoder runs {', '.join(families)}")
    with no_network(f"the config of {where} describes no network"):
        from transformers import AutoConfig

        plain = AutoConfig.for_model(family)
        known = {name: fields[name] for name in NETWORK_FIELDS if name in fields and hasattr(plain, name)}
        # no masking at inference, hence no mask vector that a checkpoint could lack
        config = AutoConfig.for_model(family, **known, mask_time_prob=0.0, mask_feature_prob=0.0)
        if config.num_hidden_layers < 1:
            raise WeightsError("it has no blocks")
    return config


def config_digest(config: Any) -> str:
    """Name what a config makes of its weights: equal for equal networks, wherever the checkpoint lies."""
    facts = {name: getattr(config, name) for name in ("model_type", *NETWORK_FIELDS) if hasattr(config, name)}
    return f"config {hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]}"


def sum_of_files(files: Sequence[Path]) -> str:
    """Sum weights files in sha256; of several, their bytes one after the other."""
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            hashlib.file_digest(stream, lambda: digest)
    return digest.hexdigest()


def sum_of_tensors(network: Any) -> str:
    """Sum a network's tensors in sha256: names, types, shapes, values."""
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.contiguous().numpy())
    return digest.hexdigest()


def random_network(config: Any, seed: int, kind: Any = None) -> Any:
    """Build the network of a config (as class `kind`) with seeded random weights; torch's own generator stays as it was."""
    import torch

    with no_network("the config describes no network"), torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return (kind or class_of(config))(config)


def load_network(config: Any, files: Sequence[Path]) -> Any:
    """Build the network of a config and fill it from weights files, in float32.

    Raises
    ------
    WeightsError
        A file is damaged or holds more than tensors, or the tensors are not those of the network.
    """
    import torch

    found = {name: tensor for file in files for name, tensor in _read_tensors(file).items()}
    where = files[0].parent
    with no_network(f"the weights in {where} do not fit its config"):
        kind = class_of(config)  # first: what it imports makes tensors of its own, which are to be real
        with torch.device("meta"):
            network = kind(config)
        prefix = f"{network.base_model_prefix}."  # in checkpoints that have a head on top
        tensors = {name.removeprefix(prefix): tensor.float() for name, tensor in found.items()}
        missing = network.load_state_dict(tensors, strict=False, assign=True).missing_keys
    return _complete(network, missing, where)


def fill_network(kind: Any, config: Any, files: Sequence[Path], part: str = "") -> Any:
    """Do as `load_network`, by the transformers library, which knows what tensors were called in its older versions.

    Parameters
    ----------
    kind : class
        Of the network.
    config : config of that class
    files : sequence of Path
    part : str
        Where the network sits in the model that was saved, if it is a part of one: ``"encoder"``.
    """
    found = {name: tensor for file in files for name, tensor in _read_tensors(file).items()}
    if part:
        place = re.compile(rf"(?:\w+\.)?{part}\.(.+)")
        inside = {match[1]: tensor for name, tensor in found.items() if (match := place.fullmatch(name))}
        found = inside or found  # the part itself was saved
    tensors = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in found.items()}
    with no_network(f"the weights in {files[0].parent} do not fit its config"), _quiet():
        network, facts = kind.from_pretrained(None, config=config, state_dict=tensors, output_loading_info=True)
    return _complete(network, sorted(facts["missing_keys"]), files[0].parent)


def _complete(network: Any, missing: Sequence[str], where: Path) -> Any:
    if missing:
        raise WeightsError(
            f"the weights in {where} lack {len(missing)} of the network's {len(network.state_dict())} tensors, "
            f"{missing[0]} for one: they are of another model"
        )
    return network


def _read_tensors(file: Path) -> dict[str, Any]:
    import torch
    from safetensors.torch import load_file

    with no_network(f"{file} is damaged or holds more than tensors (pickled code is not run)"):
        safe = file.suffix == ".safetensors"
        try:
            content = load_file(file) if safe else torch.load(file, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError:  # its text says how to run the code
            raise WeightsError("what is in it is not allowed there") from None
    if not isinstance(content, dict) or not all(isinstance(value, torch.Tensor) for value in content.values()):
        raise WeightsError(f"{file} is not a plain table of tensors; convert it with the transformers library first")
    return content


def class_of(config: Any) -> Any:
    """Give the class of a config's network, without a head."""
    mend_torchaudio()
    from transformers import MODEL_MAPPING

    return MODEL_MAPPING[type(config)]


def mend_torchaudio() -> None:
    """Import torchaudio where there is one: transformers does so without need, and fails where it does not fit torch."""
    if find_spec("torchaudio"):
        import_torchaudio()


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the library's progress bars and reports off the terminal."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


@contextmanager
def no_network(why: str) -> Iterator[None]:
    """Turn whatever a stranger's file does to its reader into one clear error."""
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    except MissingDependencyError:
        raise
    except Exception as error:
        raise WeightsError(f"{why}: {one_line(error)}") from error
