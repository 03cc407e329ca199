"""Options: Detectron2's defaults, the shared keys below, and those that every system registers."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml
from detectron2.config import CfgNode
from detectron2.config import get_cfg as get_detectron2_cfg
from detectron2.modeling import META_ARCH_REGISTRY

from .config_aliases import translate_options, translate_values
from .structures import InputError, check_name, near_names, resolve_device, resolve_dtype

CONFIG_REGISTRY: dict[str, Callable[[CfgNode], None]] = {}
# Option whose value is a registered name -> the names there are when a config is loaded.
NAME_REGISTRY: dict[str, Callable[[], Iterable[str]]] = {}
_YOURS = "what your own package registers joins with --import PACKAGE"


def register_config(name: str) -> Callable[[Callable[[CfgNode], None]], Callable[[CfgNode], None]]:
    """Register ``add_config(cfg)`` of one package: it adds that package's keys to a config."""

    def register(add_config: Callable[[CfgNode], None]) -> Callable[[CfgNode], None]:
        if CONFIG_REGISTRY.get(name, add_config) is not add_config:
            raise ValueError(f"two packages register options under the name {name!r}")
        CONFIG_REGISTRY[name] = add_config
        return add_config

    return register


def register_names(key: str, names: Callable[[], Iterable[str]]) -> None:
    """Say which names an option takes: ``load_config`` refuses others in one line.

    An empty value of the option is not checked: it means none.
    """
    NAME_REGISTRY[key] = names


@register_config("shared")
def add_shared_config(cfg: CfgNode) -> None:
    """Add the keys that no single system owns."""
    # "auto" in a config file or on the command line is CUDA where there is some, else the CPU; it
    # is resolved when the config is loaded. Apple's "mps" is used only when asked for.
    cfg.MODEL.DEVICE = resolve_device("auto")
    # Number format of the networks at test: "float32", "bfloat16", "float16", or "auto": half
    # precision where this machine is faster in it and the system was measured to keep its score
    # (chosen: float32; vis run and vis bench take auto for a config that leaves it at that).
    cfg.MODEL.INFERENCE_DTYPE = "float32"
    # Compile the networks that see every frame with torch.compile; the first frame of a size waits.
    cfg.MODEL.COMPILE = False
    # Resize frames on the model's device instead of with Pillow; a little faster, not bit-equal.
    cfg.MODEL.RESIZE_ON_DEVICE = False
    # Offline systems keep per-frame features up to this many megabytes; misses are recomputed.
    cfg.MODEL.FEATURE_CACHE_MB = 2048.0
    # Video frames that an offline system may spool to disk when its source cannot seek, megabytes.
    cfg.MODEL.SPOOL_LIMIT_MB = 4096.0
    # Frames whose given masks corrected known objects that a VOS system keeps as lasting references
    # of a video; of more the oldest go.
    cfg.MODEL.MAX_REFERENCES = 8
    # A mask that corrects a known object in a video whose masks are all known before it is run also
    # helps the frames before it: those since the object's mask before are run again, from both
    # ends, with both as references. False: it works forward only, as in a stream.
    cfg.MODEL.CORRECT_BACKWARD = True
    cfg.MODEL.PROPAGATOR = CfgNode()
    # Registered name of the propagator that MODEL.META_ARCHITECTURE MSN joins to its detector.
    cfg.MODEL.PROPAGATOR.NAME = "CopyFirstPropagator"
    # davis_2016 scores the union of all tracks that score at least this.
    cfg.TEST.FOREGROUND_THRESH = 0.0
    # At most this many ids in a DAVIS unsupervised result (the benchmark's own limit).
    cfg.TEST.MAX_IDS = 20
    # Processes that compute J and F; -1 takes the cores, 0 computes them in the main process.
    cfg.TEST.METRIC_WORKERS = -1
    # Draws of videos for a 95 % interval of AP or J&F beside the score; 0 leaves it out.
    cfg.TEST.BOOTSTRAP = 0
    # Videos whose result lies already below OUTPUT_DIR/inference are not run again.
    cfg.TEST.RESUME = False
    # Leave OUTPUT_DIR/report.html after a training or an evaluation.
    cfg.TEST.REPORT = True
    # Score a data set without the videos that failed; otherwise a failure leaves it unscored.
    cfg.TEST.SCORE_INCOMPLETE = False


def get_cfg() -> CfgNode:
    """Return the default config with the keys of every registered package."""
    cfg = get_detectron2_cfg()
    for add_config in CONFIG_REGISTRY.values():
        add_config(cfg)
    return cfg


def config_root() -> Path:
    """Return the folder of the config files: the checkout's, or the installed copy."""
    here = Path(__file__).resolve().parent
    packaged = here / "configs"
    return packaged if packaged.is_dir() else here.parent / "configs"


def shipped_configs(system: str = "") -> list[Path]:
    """Return the shipped config files, of one system or of all.

    The folders ``compare`` hold tables of variants for ``vis compare``, no configs.
    """
    files = (config_root() / system).rglob("*.yaml")
    return sorted(f for f in files if f.parent.name != "compare")


def find_config(name: str | Path) -> Path:
    """Return the path of a config file, given as a path or relative to the shipped ``configs``.

    Raises:
        InputError: no such file; names close to it are listed.
    """
    path = Path(name).expanduser()
    if path.is_file():
        return path
    relative = Path(*path.parts[1:]) if path.parts[:1] == ("configs",) else path
    shipped = config_root() / relative
    if shipped.is_file():
        return shipped
    known = [str(f.relative_to(config_root())) for f in config_root().rglob("*.yaml")]
    raise InputError(
        f"config file {name}: no such file{near_names(str(relative), known, prefix='configs/')}"
    )


def load_config(
    config_file: str | Path, opts: Sequence[str] = (), *, to_build: bool = True
) -> CfgNode:
    """Read a config file and ``KEY VALUE`` overrides; YAML tags that run code are refused.

    ``_BASE_`` names a file beside the one that says it, or a shipped one (``configs/...``).

    Args:
        to_build: names must be registered; False to read only what a run was.

    Raises:
        InputError: missing file, YAML syntax, unknown key or value of a wrong type.
    """
    path = find_config(config_file)
    cfg = get_cfg()
    values = read_config_file(path)
    version = values.get("VERSION", cfg.VERSION)
    if version != cfg.VERSION:
        raise InputError(f"config file {path}: VERSION {version}: only {cfg.VERSION} is read")
    try:
        cfg.merge_from_other_cfg(CfgNode(values))
    except (KeyError, ValueError, AssertionError, TypeError) as error:
        raise InputError(f"config file {path}: {_one_line(error, cfg)}") from None
    return with_options(cfg, opts, to_build=to_build)


def with_options(cfg: CfgNode, opts: Sequence[str], *, to_build: bool = True) -> CfgNode:
    """Put ``KEY VALUE`` overrides into a config, check the names in it and resolve its device.

    Raises:
        InputError: unknown key, name or device, or a value of a wrong type.
    """
    flags = [word for word in opts[::2] if str(word).startswith("--")]
    if flags:
        raise InputError(f"{flags[0]} stands behind KEY VALUE pairs: put it before them")
    if len(opts) % 2:
        raise InputError(f"options come as KEY VALUE pairs: {opts[-1]!r} has no value")
    try:
        cfg.merge_from_list(translate_options(opts))
    except (KeyError, ValueError, AssertionError, SyntaxError) as error:
        raise InputError(f"command line: {_one_line(error, cfg)}") from None
    if to_build:
        check_names(cfg)
    cfg.MODEL.DEVICE = resolve_device(cfg.MODEL.DEVICE)
    cfg.MODEL.INFERENCE_DTYPE = _resolved_dtype(cfg, cfg.MODEL.INFERENCE_DTYPE)
    return cfg


def _resolved_dtype(cfg: CfgNode, name: str) -> str:
    system = cfg.MODEL.META_ARCHITECTURE
    kind = META_ARCH_REGISTRY.get(system) if system in META_ARCH_REGISTRY else None
    accurate = getattr(kind, "half_precision_keeps_score", False)
    return resolve_dtype(name, cfg.MODEL.DEVICE, accurate=accurate)


def choose_dtype(cfg: CfgNode, opts: Sequence[str] = ()) -> None:
    """Let commands that segment people's own videos take half precision where it pays.

    A number format that the config or the options name stays.
    """
    named = any(str(key) == "MODEL.INFERENCE_DTYPE" for key in opts[::2])
    if not named and cfg.MODEL.INFERENCE_DTYPE == "float32":
        cfg.MODEL.INFERENCE_DTYPE = _resolved_dtype(cfg, "auto")


def config_of_bases(config_file: str | Path) -> CfgNode:
    """Return the config of a file's ``_BASE_`` files alone; the defaults where it has none.

    Raises:
        InputError: as ``load_config`` does.
    """
    path = find_config(config_file)
    cfg = get_cfg()
    cfg.merge_from_other_cfg(CfgNode(_read_bases(path.resolve(), ())))
    return cfg


def check_names(cfg: CfgNode) -> None:
    """Check every option that names something registered.

    Raises:
        InputError: nothing is registered under that name.
    """
    default = get_detectron2_cfg()  # its default names need not exist in every Detectron2
    for key, names in NAME_REGISTRY.items():
        value = _value_of(cfg, key)
        if value and value != _value_of(default, key):
            check_name(key, str(value), names(), remedy=_YOURS)


def _value_of(cfg: CfgNode, key: str) -> Any:
    value: Any = cfg
    for part in key.split("."):
        value = value.get(part) if isinstance(value, CfgNode) else None
    return value


def read_config_file(path: Path, *, _readers: tuple[Path, ...] = ()) -> dict[str, Any]:
    """Return the values of a YAML file over those of its ``_BASE_`` files, as plain dicts.

    Raises:
        InputError: YAML syntax, a tag that would run code, a base that is missing or circular.
    """
    path = path.resolve()
    if path in _readers:
        raise InputError(f"config file {path}: it is its own _BASE_")
    values = _read_yaml(path)
    merged = _read_bases(path, _readers)
    values.pop("_BASE_", None)
    _merge(values, merged, path)
    return merged


def _read_bases(path: Path, readers: tuple[Path, ...]) -> dict[str, Any]:
    """The values of the ``_BASE_`` files of ``path``, later ones over earlier ones."""
    bases = _read_yaml(path).get("_BASE_", [])
    merged: dict[str, Any] = {}
    for base in [bases] if isinstance(bases, str) else bases:
        found = _find_base(str(base), path)
        _merge(read_config_file(found, _readers=(*readers, path)), merged, path)
    return merged


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.constructor.ConstructorError as error:
        raise InputError(
            f"config file {path}: {error.problem}; only plain YAML is read: a tag could run code"
        ) from None
    except (yaml.YAMLError, OSError, UnicodeDecodeError) as error:
        raise InputError(f"config file {path}: {' '.join(str(error).split())}") from None
    values = {} if values is None else values
    if not isinstance(values, dict):
        raise InputError(f"config file {path}: it holds no KEY: value lines")
    try:
        return translate_values(values)
    except InputError as error:
        raise InputError(f"config file {path}: {error}") from None


def _find_base(base: str, path: Path) -> Path:
    """A ``_BASE_``: beside the file that names it, else a path or shipped config."""
    beside = path.parent / Path(base).expanduser()
    try:
        return beside if beside.is_file() else find_config(base)
    except InputError as error:
        raise InputError(f"config file {path}: _BASE_: {error}") from None


def _merge(values: dict[str, Any], into: dict[str, Any], path: Path) -> None:
    for key, value in values.items():
        if value is None and isinstance(into.get(key), dict):
            continue  # a section without a line
        if isinstance(value, dict) and key in into:
            if not isinstance(into[key], dict):
                raise InputError(f"config file {path}: {key} is one value in its _BASE_")
            _merge(value, into[key], path)
        else:
            into[key] = value


def _one_line(error: Exception, cfg: CfgNode) -> str:
    text = " ".join(str(error).strip("'\"").split())
    mismatch = re.search(
        r"Type mismatch \(<class '(.+?)'> vs\. <class '(.+?)'>\).* for config key: (\S+)", text
    )
    if mismatch:
        wanted, given, key = mismatch.groups()
        names = {"CfgNode": "a section of options", "NoneType": "nothing", "str": "text"}
        wanted, given = (names.get(n.rsplit(".", 1)[-1], n) for n in (wanted, given))
        return f"{key} takes {wanted}, not {given}"
    if "exist" not in text:
        return text if len(text) <= 300 else text[:300] + " ..."
    return f"{text}{near_names(text.rsplit(' ', 1)[-1], _all_keys(cfg), count=2)} ({_YOURS})"


def _all_keys(node: CfgNode, prefix: str = "") -> list[str]:
    keys = []
    for key, value in node.items():
        keys.append(prefix + key)
        if isinstance(value, CfgNode):
            keys += _all_keys(value, f"{prefix}{key}.")
    return keys
