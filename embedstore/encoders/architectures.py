"""What a checkpoint of the transformers library holds: which network, its config, its feature extractor.

The library's own classes are built from the fields of ``config.json`` that they take, and nothing else in it counts. A
checkpoint whose class the library lacks brings Python code, which runs with all rights of the user: only if it is trusted.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import re
import sys
import warnings
from collections.abc import Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from embedstore.encoders import checkpoint, hub
from embedstore.encoders.huggingface import PAPERS as WAV2VEC2
from embedstore.errors import WeightsError

__all__ = ["PAPERS", "Architecture", "find_architecture"]

PAPERS = {  # of the types that are tested
    "audio-spectrogram-transformer": "Gong et al. 2021, AST: Audio Spectrogram Transformer",
    "clap": "Wu et al. 2023, Large-Scale Contrastive Language-Audio Pretraining with Feature Fusion and Keyword-to-Caption Augmentation",
    "mert_model": "Li et al. 2023, MERT: Acoustic Music Understanding Model with Large-Scale Self-supervised Training",
    "moonshine": "Jeffries et al. 2024, Moonshine: Speech Recognition for Live Transcription and Voice Commands",
    "sew": "Wu et al. 2022, Performance-Efficiency Trade-offs in Unsupervised Pre-training for Speech Recognition",
    "sew-d": "Wu et al. 2022, Performance-Efficiency Trade-offs in Unsupervised Pre-training for Speech Recognition",
    "unispeech": "Wang et al. 2021, UniSpeech: Unified Speech Representation Learning with Labeled and Unlabeled Data",
    "unispeech-sat": "Chen et al. 2022, UniSpeech-SAT: Universal Speech Representation Learning with Speaker Aware Pre-Training",
    "wav2vec2-bert": "Barrault et al. 2023, Seamless: Multilingual Expressive and Streaming Speech Translation",
    "wav2vec2-conformer": "Wang et al. 2020, fairseq S2T: Fast Speech-to-Text Modeling with fairseq",
    "whisper": "Radford et al. 2023, Robust Speech Recognition via Large-Scale Weak Supervision",
}
# fields of a config that change nothing of what an encoder hears: of training, of words
_IDLE = re.compile(
    r"drop|mask_|init|tie_|is_encoder|vocab|token|suppress|loss|classifier|quantizer|use_cache|median_filter"
)
_EXTRACTORS = {"wav2vec2-bert": "SeamlessM4TFeatureExtractor"}  # where the library's own table is wrong
_BOOKKEEPING = {"_name_or_path", "architectures", "auto_map", "dtype", "torch_dtype", "transformers_version"}


@dataclass(frozen=True)
class Architecture:
    """What a checkpoint holds, before its weights are read.

    Attributes
    ----------
    type : str
        As its config calls it.
    kind : class
        Of the network.
    config : config of that class
    extractor : feature extractor
    revision : str
        Names all that, so that another network or another preparation is another encoder.
    part : str
        Where the network sits in the model that was saved, if it is a part of one.
    """

    type: str
    kind: Any
    config: Any
    extractor: Any
    revision: str
    part: str = ""


def find_architecture(folder: Path, title: str, *, trusted: bool = False) -> Architecture:
    """Read a checkpoint; with `trusted`, run the code that it brings, if it does.

    Raises
    ------
    WeightsError
        Nothing that hears sound, a damaged config, or code that is not trusted.
    """
    checkpoint.mend_torchaudio()
    files = hub.code_files(folder) if trusted else []
    return _own_code(folder, title, files) if files else _built_in(folder, title)


def _built_in(folder: Path, title: str) -> Architecture:
    """Read a checkpoint that the library's own classes run."""
    import torch
    import transformers
    from transformers.models.auto import feature_extraction_auto as auto

    fields, wishes = hub.read_json(folder / "config.json"), hub.read_extractor(folder)
    family, table = str(fields.get("model_type")), auto.FEATURE_EXTRACTOR_MAPPING_NAMES
    extractor = wishes.get("feature_extractor_type") or _EXTRACTORS.get(family) or table.get(family)
    if family not in transformers.CONFIG_MAPPING or extractor not in list(table.values()):
        if "auto_map" in fields or "auto_map" in wishes:
            raise WeightsError(
                f"{title} brings its own Python code ({', '.join(hub.code_names(folder))}); nothing of it was run. "
                "--trust-remote-code runs it, with all your rights: read it first"
            )
        raise WeightsError(
            f"{title} is a model of type {family!r}; this encoder runs {', '.join([*WAV2VEC2, *PAPERS])}, "
            "and most others that hear sound"
        )
    part = ""
    with checkpoint.no_network(f"the config of {title} describes no network"):
        config_class = transformers.CONFIG_MAPPING[family]
        if family == "clap":  # two towers, and one hears
            fields, config_class, part = fields["audio_config"], transformers.ClapAudioConfig, "audio_model"
        facts = _accepted(config_class, fields, besides=transformers.PretrainedConfig)
        facts = {name: value for name, value in facts.items() if not _IDLE.search(name)}
        config = _unmasked(config_class(**facts))
        kind = transformers.ClapAudioModel if part else checkpoint.class_of(config)
        if config.is_encoder_decoder:
            with torch.device("meta"):
                whole = kind(config)
            encoder = whole.get_encoder()
            part, kind = next(name for name, module in whole.named_modules() if module is encoder), type(encoder)
        prepare = auto.feature_extractor_class_from_name(extractor)
        wishes = _accepted(prepare, wishes)
        made = prepare(**wishes)
    return Architecture(family, kind, config, made, _digest(family, facts, extractor, wishes), part)


def _own_code(folder: Path, title: str, files: list[Path]) -> Architecture:
    """Read a checkpoint that brings its own code, and run that code."""
    fields, wishes = hub.read_json(folder / "config.json"), hub.read_extractor(folder)
    warnings.warn(f"{title} runs its own Python code: {', '.join(str(file) for file in files)}", stacklevel=4)
    # what it prints is not a result of ours
    with checkpoint.no_network(f"the code of {title} does not work here"), redirect_stdout(sys.stderr):
        from transformers import AutoConfig, AutoFeatureExtractor
        from transformers.dynamic_module_utils import get_class_from_dynamic_module

        where, trusted = str(folder), {"trust_remote_code": True, "local_files_only": True}
        if not (reference := fields.get("auto_map", {}).get("AutoModel")):
            raise WeightsError("its auto_map names no AutoModel")
        config = _unmasked(AutoConfig.from_pretrained(where, **trusted))
        kind = get_class_from_dynamic_module(reference, where, local_files_only=True)
        made = AutoFeatureExtractor.from_pretrained(where, **trusted)
    facts = {name: value for name, value in fields.items() if name not in _BOOKKEEPING and not _IDLE.search(name)}
    code = hashlib.sha256(b"".join(file.name.encode() + b"\n" + file.read_bytes() for file in sorted(files)))
    digest = _digest(config.model_type, facts, type(made).__name__, _accepted(type(made), wishes))
    return Architecture(config.model_type, kind, config, made, f"{digest}, code {code.hexdigest()[:16]}")


def _accepted(kind: Any, fields: Mapping[str, Any], besides: Any = object) -> dict[str, Any]:
    """Keep the fields that a class itself takes."""
    names = inspect.signature(kind).parameters.keys() - inspect.signature(besides).parameters.keys()
    return {name: value for name, value in fields.items() if name in names}


def _unmasked(config: Any) -> Any:
    """Switch off the masks of training, and with them the mask vector that a checkpoint could lack."""
    for name in ("mask_time_prob", "mask_feature_prob"):
        if hasattr(config, name):
            setattr(config, name, 0.0)
    return config


def _digest(*facts: Any) -> str:
    return f"config {hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]}"
