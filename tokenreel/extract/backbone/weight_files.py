"""Files of weights: the named tensors of a checkpoint in any common container, read without risk.

A checkpoint is never unpickled freely: torch's reader of weights makes tensors and plain containers
only.  Settings that training scripts keep beside them (argparse.Namespace, OmegaConf, Lightning)
are on a list of class names that become inert objects: neither imported nor called.
"""

import json
import pickle
import re
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tokenreel.cache.errors import UsageError, limit_behind

INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
FILES = (  # names by which libraries look for weights in a folder, the first found is read
    "model.safetensors",
    "open_clip_model.safetensors",
    "pytorch_model.bin",
    "open_clip_pytorch_model.bin",
)
ENDINGS = (".safetensors", ".pth", ".pt", ".bin", ".ckpt")
MAX_DEPTH = 4  # dictionaries within dictionaries that are searched for tensors
SHARD = re.compile(r"(.+)-\d{5}-of-(?!00001)\d{5}(\.safetensors|\.bin)")
CONFIGS = ("config.json", "open_clip_config.json")

INERT = (  # settings, paths and numbers in checkpoints
    "argparse.Namespace",
    "types.SimpleNamespace",
    *(f"pathlib.{name}" for name in ("Path", "PosixPath", "PurePosixPath", "WindowsPath")),
    *(f"pathlib._local.{name}" for name in ("Path", "PosixPath", "PurePosixPath", "WindowsPath")),
    *(f"numpy.{part}.multiarray.{name}" for part in ("core", "_core") for name in ("scalar",)),
    "numpy.dtype",
    *(f"numpy.dtypes.{name}DType" for name in ("Float64", "Float32", "Int64", "Int32", "Bool")),
    *(f"builtins.{name}" for name in ("int", "float", "str", "bool", "list", "tuple", "dict")),
    "datetime.timedelta",
    "datetime.datetime",
    "typing.Any",
    *(f"omegaconf.{name}" for name in ("dictconfig.DictConfig", "listconfig.ListConfig")),
    *(f"omegaconf.base.{name}" for name in ("Metadata", "ContainerMetadata", "SCMode")),
    *(
        f"omegaconf.nodes.{name}Node"
        for name in ("Any", "Integer", "Float", "Boolean", "String", "Path", "Bytes", "Enum")
    ),
)
INERT_DICTIONARIES = (  # classes derived from dict
    "lightning.fabric.utilities.data.AttributeDict",
    "lightning_fabric.utilities.data.AttributeDict",
    "pytorch_lightning.utilities.parsing.AttributeDict",
    "lightning.pytorch.utilities.parsing.AttributeDict",
    "yacs.config.CfgNode",
    "fvcore.common.config.CfgNode",
    "easydict.EasyDict",
    "addict.addict.Dict",
    "mmcv.utils.config.ConfigDict",
    "mmengine.config.config.ConfigDict",
)


class _Inert:
    """Placeholder of an object in a checkpoint: takes any arguments and state, keeps nothing."""

    def __new__(cls, *_: Any, **__: Any) -> "_Inert":
        return super().__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __setstate__(self, _: Any) -> None:
        pass


def _empty_dictionary(*_: Any) -> OrderedDict[Any, Any]:
    """Stands for collections.defaultdict: the factory is not kept."""
    return OrderedDict()


def read_tensor_groups(path: Path) -> dict[str, dict[str, Tensor]]:
    """The tensors of a file or folder, by the dictionary that holds them and by name.

    Args:
        path: a safetensors or torch file, the index of a sharded one, or a folder of Hugging Face,
            timm or open_clip.

    Returns:
        Tensors by name, by the dotted path of their dictionary: "" is the outermost, "teacher" and
        "state_dict" are common.  Order of the file.

    Raises:
        UsageError: no such file, several files in the folder, or not a file of tensors.
    """
    found = _file_of(path)
    if found.name.endswith(".index.json"):
        return {"": _read_shards(found)}
    return dict(_groups(_read(found)))


def read_model_config(path: Path) -> Mapping[str, Any]:
    """What config.json beside the weights says of the vision model; empty where there is none.

    Raises:
        UsageError: the file is there and is no JSON.
    """
    folder = path if path.is_dir() else path.parent
    for name in CONFIGS:
        if not (folder / name).is_file():
            continue
        config = _read_json(folder / name)
        if name == "open_clip_config.json":
            config = config.get("model_cfg", {})
            return {"hidden_act": "quick_gelu" if config.get("quick_gelu") else "gelu"}
        vision = config.get("vision_config", config)
        return vision if isinstance(vision, dict) else {}
    return {}


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except (ValueError, OSError, RecursionError) as error:
        if limit := limit_behind(error):
            raise limit from error
        raise UsageError(f"{path}: not readable as JSON: {error}") from error
    return found if isinstance(found, dict) else {}


def _file_of(path: Path) -> Path:
    """The file to read: the path, or the one in its folder."""
    if path.is_file():
        shard = SHARD.fullmatch(path.name)
        index = path.parent / f"{shard[1]}{shard[2]}.index.json" if shard else None
        if index is not None:
            raise UsageError(
                f"weights={str(path)!r} is one of several files that hold the weights together: "
                f"give their folder or weights={str(index)!r}"
            )
        return path
    if not path.is_dir():
        home = f"; a shell leaves ~ after = as it is: weights={str(path.expanduser())!r}"
        raise UsageError(
            f"weights={str(path)!r}: no such file; weights is a safetensors or torch file, "
            "the folder of one, pretrained, or random:SEED"
            + (home if path.parts[:1] == ("~",) else "")
        )
    for name in FILES[:1] + INDEXES[:1] + FILES[1:] + INDEXES[1:]:
        if (path / name).is_file():
            return path / name
    files = sorted(file for file in path.iterdir() if file.suffix in ENDINGS and file.is_file())
    if len(files) != 1:
        names = ", ".join(file.name for file in files[:5])
        held = f"holds {len(files)} files of weights ({names})" if files else "holds no weights"
        raise UsageError(
            f"weights={str(path)!r} {held}: give one file "
            f"({', '.join(ENDINGS)}), or a folder with {FILES[0]}"
        )
    return files[0]


def _read_shards(index: Path) -> dict[str, Tensor]:
    places = _read_json(index).get("weight_map")
    if not isinstance(places, dict) or not places:
        raise UsageError(f"{index}: has no weight_map, the table of tensors and their files")
    state: dict[str, Tensor] = {}
    for name in sorted({str(value) for value in places.values()}):
        shard = index.parent / name
        if Path(name).name != name or not shard.is_file():
            raise UsageError(f"{index}: {name!r} is not a file in its folder")
        state |= {k: v for k, v in _read(shard).items() if isinstance(v, Tensor)}
    absent = sorted(places.keys() - state.keys())
    if absent:
        raise UsageError(f"{index}: {len(absent)} tensors are in no file, the first {absent[0]!r}")
    return state


def _read(path: Path) -> dict[Any, Any]:
    """What a file holds: named tensors, or dictionaries of them among other things."""
    from safetensors.torch import load_file

    try:
        with path.open("rb") as file:
            start = file.read(9)
        is_zip = start.startswith(b"PK")
        if not is_zip and (path.suffix == ".safetensors" or start[8:] == b"{"):
            return dict(load_file(path))
        loaded = _load_torch(path, is_zip=is_zip)
    except Exception as error:  # torch raises KeyError, EOFError, UnpicklingError, RuntimeError
        reason = _other_kind(path) or _reason(error)
        raise UsageError(f"weights={str(path)!r} is not a file of tensors: {reason}") from error
    if not isinstance(loaded, dict):
        raise UsageError(f"weights={str(path)!r} holds {type(loaded).__name__}, not named tensors")
    return loaded


def _load_torch(path: Path, *, is_zip: bool) -> Any:
    """A torch file; a zip is mapped, so that an optimiser's tensors beside take no memory."""
    allowed: list[Any] = [(_Inert, name) for name in INERT]
    allowed += [(OrderedDict, name) for name in INERT_DICTIONARIES]
    allowed.append((_empty_dictionary, "collections.defaultdict"))
    with torch.serialization.safe_globals(allowed), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of pickle protocols; what it cannot read is an error
        if path.suffix != ".safetensors":
            return torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
        with path.open("rb") as file:  # by its name torch would take it for safetensors
            return torch.load(file, map_location="cpu", weights_only=True)


def _other_kind(path: Path) -> str:
    """What a file without tensors is, by its first bytes; "" where they say nothing.

    >>> from tempfile import NamedTemporaryFile
    >>> with NamedTemporaryFile() as file:
    ...     _ = file.write(b"<!DOCTYPE html>"), file.flush()
    ...     print(_other_kind(Path(file.name)))
    it is a web page: the download asked for something first
    """
    try:
        with path.open("rb") as file:
            start = file.read(512)
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                names = archive.namelist()
            if all(name.endswith(".npy") for name in names):
                return "it is an .npz of NumPy: save the tensors by torch.save or safetensors"
            if not any(name.endswith("data.pkl") for name in names):
                return f"it is a zip archive of {', '.join(names[:3])}: unpack it first"
            return ""
    except (OSError, zipfile.BadZipFile):
        return ""
    words = start.lstrip().lower()
    if not start:
        return "it is empty"
    if start.startswith(b"version https://git-lfs"):
        return "it is a pointer of Git LFS, not the file: fetch it by `git lfs pull`"
    if words.startswith((b"<!doctype", b"<html", b"<?xml")):
        return "it is a web page: the download asked for something first"
    if start.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")):
        return "it is compressed: unpack it first"
    if start.startswith(b"PK"):
        return "it is cut short: load it again"
    if all(byte >= 32 or byte in b"\t\n\r" for byte in start):  # pickles and safetensors begin else
        return "it is a text file: name the file of the weights"
    if start[257:262] == b"ustar":
        return "it is a tar archive: unpack it first"
    return ""


def _reason(error: Exception) -> str:
    """First sentence of an error, without torch's advice to run what the file holds."""
    text = str(error)
    named = re.search(r"Unsupported (?:global|class)\W+GLOBAL (\S+)|GLOBAL (\S+) whose", text)
    if named:
        name = named[1] or named[2]
        return (
            f"it holds an object of {name}, which is not loaded, for that could run code; save the "
            "tensors alone, torch.save(model.state_dict(), FILE)"
        )
    if "TorchScript" in text:
        return "it is a TorchScript program; save the tensors alone, model.state_dict()"
    if isinstance(error, pickle.UnpicklingError):
        text = text.removeprefix("Weights only load failed. ")
    first = text.splitlines()[0].split(". ")[0] if text else type(error).__name__
    return "it is damaged or of another format" if "weights_only" in first else first


def _groups(held: Mapping[Any, Any], path: str = "") -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Dictionaries that hold tensors by name, each with its dotted path."""
    tensors = {
        name: value.detach()
        for name, value in held.items()
        if isinstance(name, str) and isinstance(value, Tensor) and value.layout == torch.strided
    }
    if tensors:
        yield path, tensors
    if path.count(".") + 1 >= MAX_DEPTH:
        return
    for name, value in held.items():
        if isinstance(name, str) and isinstance(value, dict):
            yield from _groups(value, f"{path}.{name}" if path else name)
