"""Search spaces: a YAML file says which recipes a study may try, and how each one is trained.

    description: one line
    family: spectrogram          # or photo: which augmentation operations exist
    resize: squash               # or center-crop
    training: {folds: 5, epochs: 10, batch_size: 32, image_size: null}   # null: the backbone's own
    parameters:                  # what the study tunes; the names are the fields of `Recipe`
      backbone: {choices: [resnet50, xception]}
      learning_rate: {low: 1e-5, high: 3e-3, log: true}
      freeze_depth: {low: 0, high: 5}
    defaults:                    # the untuned recipe, and the value of what is not tuned
      learning_rate: 1e-4

Only `parameters`, with a `backbone`, is required. Scalars follow YAML 1.2's core rules, so
`1e-4` is a number, and `no` and `off` are words. All faults of a file are told together, each
with its line.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeGuard, get_args, get_origin, get_type_hints

import yaml

from bench.errors import SpaceError, did_you_mean
from bench.records import PARTS, Family, Recipe, ResizeRule

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

Keys = tuple[str | int, ...]
"""Where a value stands in the file: ("parameters", "learning_rate", "low")."""

# Freezing depths that train in seconds: the head alone, and the head with the last part.
_QUICK_DEPTHS = (5, 4)


# --- the space ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Choices:
    """A parameter that takes one of several words."""

    choices: tuple[str, ...]

    def __str__(self) -> str:
        return f"one of {', '.join(self.choices)}"

    def contains(self, value: object) -> bool:
        return value in self.choices

    def distribution(self) -> BaseDistribution:
        from optuna.distributions import CategoricalDistribution

        return CategoricalDistribution(self.choices)

    def as_dict(self) -> dict[str, Any]:
        return {"choices": list(self.choices)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Range:
    """A parameter that takes a number from `low` to `high`, both included.

    `log` draws evenly over the logarithm; `whole` draws whole numbers only.
    """

    low: float
    high: float
    log: bool = False
    whole: bool = False

    def __str__(self) -> str:
        return f"{self.low} to {self.high}{' (log)' if self.log else ''}"

    def contains(self, value: object) -> bool:
        return isinstance(value, int | float) and self.low <= value <= self.high

    def distribution(self) -> BaseDistribution:
        from optuna.distributions import FloatDistribution, IntDistribution

        if self.whole:
            return IntDistribution(int(self.low), int(self.high), log=self.log)
        return FloatDistribution(self.low, self.high, log=self.log)

    def as_dict(self) -> dict[str, Any]:
        return {"low": self.low, "high": self.high, "log": self.log}


Parameter = Choices | Range


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchSpace:
    """What a study tunes and what its trials share.

    `parameters` are the tuned ones, in the order of `Recipe`'s fields. `defaults` holds every
    field of `Recipe` but the backbone: the untuned recipe, and the fixed value of whatever is
    not tuned. `image_size` is in pixels, None for the backbone's own.

    Raises:
        SpaceError: the parts do not fit together, however the space was made.
    """

    name: str
    description: str = ""
    family: Family = "spectrogram"
    resize: ResizeRule = "squash"
    folds: int = 5
    epochs: int = 10
    batch_size: int = 32
    image_size: int | None = None
    parameters: Mapping[str, Parameter]
    defaults: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "defaults", {**_recipe_defaults(), **self.defaults})
        _refuse(_space_faults(_without_name(self.as_dict())), lambda keys: _spot(self.name, keys))

    @property
    def backbones(self) -> tuple[str, ...]:
        backbone = self.parameters["backbone"]
        assert isinstance(backbone, Choices)
        return backbone.choices

    def distributions(self) -> dict[str, BaseDistribution]:
        """Return Optuna's distribution of every tuned parameter."""
        return {name: parameter.distribution() for name, parameter in self.parameters.items()}

    @property
    def freeze_depths(self) -> tuple[int, ...]:
        """How many of the five parts its recipes freeze, ascending."""
        tuned = self.parameters.get("freeze_depth")
        if tuned is None:
            return (self.defaults["freeze_depth"],)
        return tuple(depth for depth in range(PARTS + 1) if tuned.contains(depth))

    def recipe(self, params: Mapping[str, object]) -> Recipe:
        """Return the recipe that a trial's parameters stand for.

        Raises:
            SpaceError: `params` does not hold exactly the tuned parameters.
        """
        if set(params) != set(self.parameters):
            raise SpaceError(
                f"{self.name}: a trial must carry exactly the tuned parameters "
                f"({', '.join(self.parameters)}), this one has {', '.join(params) or 'none'}"
            )
        return Recipe(**_typed({**self.defaults, **params}))

    def default_params(self) -> tuple[dict[str, Any], ...]:
        """Return the untuned recipes, one a backbone, as a trial's parameters.

        Each holds every tuned parameter, for TPE models jointly only those parameters that all
        trials have in common.
        """
        return tuple(
            {name: {**self.defaults, "backbone": backbone}[name] for name in self.parameters}
            for backbone in self.backbones
        )

    def first_params(self) -> tuple[dict[str, Any], ...]:
        """Return the parameters of a study's first trials, the quickest ones first.

        They are the untuned recipes with most of the network frozen and without augmentation, as
        far as the space reaches, and the untuned recipes as they are: a good score is there at
        once, before anything slow. What is frozen computes one view of each picture where nothing
        is augmented, and one an epoch where it is.
        """
        defaults = self.default_params()
        plain = {"augmentation": "none"} if self._offers("augmentation", "none") else {}
        quick = [
            {**params, **plain, "freeze_depth": depth}
            for depth in _QUICK_DEPTHS
            if self._offers("freeze_depth", depth)
            for params in defaults
        ]
        return (*quick, *(params for params in defaults if params not in quick))

    def _offers(self, name: str, value: object) -> bool:
        """Whether the parameter is tuned and can have the value."""
        return name in self.parameters and self.parameters[name].contains(value)

    def with_backbones(self, names: Iterable[str]) -> SearchSpace:
        """Return this space with other backbones to choose from.

        Raises:
            SpaceError: no name is given, or one is given twice.
        """
        backbone = Choices(choices=tuple(names))
        return replace(self, parameters={**self.parameters, "backbone": backbone})

    def as_dict(self) -> dict[str, Any]:
        """Return the space as plain values: the file's form, plus `name`, nothing left out."""
        return {
            **{key: getattr(self, key) for key in (*_LABELS, *_CHOSEN)},
            "training": {key: getattr(self, key) for key in _TRAINING},
            "parameters": {name: p.as_dict() for name, p in self.parameters.items()},
            "defaults": dict(self.defaults),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> SearchSpace:
        """Rebuild a space from what `as_dict` returned.

        Raises:
            SpaceError: the values break the rules of a space.
        """
        name, body = str(data.get("name", "space")), _without_name(data)
        _refuse(_space_faults(body), lambda keys: _spot(name, keys))
        return _build(name, body)


def changes(
    old: SearchSpace | Mapping[str, Any], new: SearchSpace, *, leave_out: Collection[str] = ()
) -> tuple[str, ...]:
    """Say in sentences what differs between two spaces; an empty tuple: nothing that matters.

    `old` may be the stored form of a space that today's rules would refuse. `leave_out` names
    what is not compared, such as `epochs`.
    """
    before = _facts(old.as_dict() if isinstance(old, SearchSpace) else old, leave_out)
    after = _facts(new.as_dict(), leave_out)
    sentences = []
    for label in (*before, *(label for label in after if label not in before)):
        if label not in after:
            sentences.append(f"{label} was removed (it was {before[label]})")
        elif label not in before:
            sentences.append(f"{label} was added ({after[label]})")
        elif before[label] != after[label]:
            sentences.append(f"{label} was {before[label]} and is now {after[label]}")
    return tuple(sentences)


def _facts(data: Mapping[str, Any], leave_out: Collection[str]) -> dict[str, str]:
    """Every fact that shapes a study's trials, by the name that a person would give it."""
    facts = {f"`{key}`": str(data[key]) for key in _CHOSEN if key in data and key not in leave_out}
    facts |= {
        f"`{key}`": _show(value)
        for key, value in data.get("training", {}).items()
        if key not in leave_out
    }
    for name, spec in data["parameters"].items():
        facts[f"parameter `{name}`"] = str(
            Choices(choices=tuple(spec["choices"])) if "choices" in spec else Range(**spec)
        )
    for name, value in data.get("defaults", {}).items():
        facts[f"the default of `{name}`"] = str(value)
    return facts


# --- reading files --------------------------------------------------------------------------


def list_spaces() -> tuple[SearchSpace, ...]:
    """Return the bundled spaces, by name."""
    return tuple(load_space(name) for name in sorted(_bundled()))


def space_source(name_or_path: str | Path) -> str:
    """Return the YAML text of a bundled space, or of a file.

    Raises:
        SpaceError: there is no such space or file.
    """
    return _read(name_or_path)[1]


def load_space(name_or_path: str | Path) -> SearchSpace:
    """Read a bundled space by its name, or any file by a path ending in .yaml or .yml.

    Raises:
        SpaceError: there is no such space or file, or it breaks the rules; all faults of the
            file are in the one message, each with file and line.
    """
    label, text = _read(name_or_path)
    document = _parse(label, text)
    faults = (*document.faults, *_space_faults(document.data))
    _refuse(sorted(faults, key=lambda fault: document.line(fault.keys)), document.spot)
    return _build(Path(label).stem, document.data)


def _bundled() -> dict[str, Traversable]:
    files = resources.files("search_spaces").iterdir()
    return {f.name.removesuffix(".yaml"): f for f in files if f.name.endswith(".yaml")}


def _read(name_or_path: str | Path) -> tuple[str, str]:
    """Return a label for messages, and the text."""
    wanted = str(name_or_path)
    if wanted.lower().endswith((".yaml", ".yml")):
        try:
            return wanted, Path(wanted).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise SpaceError(f"{wanted}: cannot be read as a search space ({error})") from error
    bundled = _bundled()
    if wanted not in bundled:
        raise SpaceError(
            f"there is no search space `{wanted}`{did_you_mean(wanted, bundled)}: name one of "
            f"{', '.join(sorted(bundled))}, or a file ending in .yaml or .yml"
        )
    return f"search_spaces/{wanted}.yaml", bundled[wanted].read_text(encoding="utf-8")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Fault:
    keys: Keys
    message: str


@dataclass(slots=True, kw_only=True)
class _Document:
    """A parsed file: its values, the line of each, and faults of form."""

    label: str
    data: Any = None
    lines: dict[Keys, int] = field(default_factory=dict)
    faults: list[_Fault] = field(default_factory=list)

    def line(self, keys: Keys) -> int:
        """The line of a value, or of the nearest thing around it."""
        while keys and keys not in self.lines:
            keys = keys[:-1]
        return self.lines.get(keys, 1)

    def spot(self, keys: Keys) -> str:
        return f"{self.label}:{self.line(keys)}"


def _parse(label: str, text: str) -> _Document:
    try:
        # BaseLoader leaves scalars as text: YAML 1.1's rules would make `1e-4` a string and
        # `no` a boolean, so the core rules of YAML 1.2 are applied here instead.
        node = yaml.compose(text, Loader=yaml.BaseLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        why = ", ".join(part for part in (error.context, error.problem) if part)
        raise SpaceError(f"{label}:{line}: not valid YAML ({why})") from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise SpaceError(f"{label}:{line}: not valid YAML ({error.reason})") from error
    document = _Document(label=label)
    document.data = _collect(node, (), document) if node else None
    return document


_DEEPEST = len(("parameters", "backbone", "choices", 0))
_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]{0,17})")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_CONSTANTS = {"": None, "~": None, "null": None, "true": True, "false": False}


def _collect(node: yaml.Node, keys: Keys, document: _Document) -> Any:
    """Turn a node into plain values; lines, repeated keys and deep nesting are noted on the way."""
    document.lines.setdefault(keys, node.start_mark.line + 1)
    if isinstance(node, yaml.ScalarNode):
        return _scalar(node)
    if len(keys) >= _DEEPEST:
        # An alias can make a node its own child, so the walk has to end somewhere.
        document.faults.append(_Fault(keys=keys, message="must be a single value"))
        return None
    if isinstance(node, yaml.SequenceNode):
        return [_collect(child, (*keys, i), document) for i, child in enumerate(node.value)]
    values: dict[str, Any] = {}
    for key_node, child in node.value:
        key = str(key_node.value)
        if key in values:
            first = document.lines[(*keys, key)]
            # The second one's own line is told: the first stands in `lines` already.
            repeated = (*keys, key, "again")
            document.lines[repeated] = key_node.start_mark.line + 1
            document.faults.append(
                _Fault(keys=repeated, message=f"`{key}` is given twice, first on line {first}")
            )
            continue
        document.lines[(*keys, key)] = key_node.start_mark.line + 1
        values[key] = _collect(child, (*keys, key), document)
    return values


def _scalar(node: yaml.ScalarNode) -> str | int | float | bool | None:
    text = str(node.value)
    if node.style is not None:  # quoted or a block: always a word
        return text
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    if _INTEGER.fullmatch(text):
        return int(text)
    return float(text) if _FLOAT.fullmatch(text) else text


def _build(name: str, data: Mapping[str, Any]) -> SearchSpace:
    """Make a space of values in which `_space_faults` found nothing."""
    tuned = data["parameters"]
    return SearchSpace(
        name=name,
        **{key: data[key] for key in ("description", *_CHOSEN) if key in data},
        **_section(data, "training"),
        parameters={key: _parameter(key, tuned[key]) for key in _FIELDS if key in tuned},
        defaults=_typed(_section(data, "defaults")),
    )


def _parameter(name: str, spec: Mapping[str, Any]) -> Parameter:
    kind = _FIELDS[name].kind
    if kind is str:
        return Choices(choices=tuple(spec["choices"]))
    return Range(
        low=kind(spec["low"]),
        high=kind(spec["high"]),
        log=spec.get("log", False),
        whole=kind is int,
    )


# --- the rules ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Field:
    """A field of `Recipe`: its plain type, and the words it may hold (none: any word)."""

    kind: Callable[[Any], Any]
    words: tuple[str, ...] = ()


def _field(hint: Any) -> _Field:
    return _Field(str, get_args(hint)) if get_origin(hint) is Literal else _Field(hint)


_FIELDS = {name: _field(hint) for name, hint in get_type_hints(Recipe).items()}

_LIMITS: dict[str, tuple[Callable[[float], bool], str]] = {
    "learning_rate": (lambda x: x > 0, "above 0"),
    "weight_decay": (lambda x: x >= 0, "at least 0"),
    "freeze_depth": (lambda x: 0 <= x <= PARTS, "from 0 (nothing frozen) to 5 (all but the head)"),
    "label_smoothing": (lambda x: 0 <= x < 1, "at least 0 and below 1"),
    "mixup": (lambda x: x >= 0, "at least 0"),
    "head_lr_factor": (lambda x: x > 0, "above 0"),
}

_LABELS = ("name", "description")
_CHOSEN = {"family": get_args(Family), "resize": get_args(ResizeRule)}
_TRAINING = {"folds": 2, "epochs": 1, "batch_size": 2, "image_size": 32}  # the least of each
_TOP = ("description", *_CHOSEN, "training", "parameters", "defaults")


def _recipe_defaults() -> dict[str, Any]:
    return {f.name: f.default for f in fields(Recipe) if f.name != "backbone"}


def _typed(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values in the types of `Recipe`'s fields, so that 1 and 1.0 are one learning rate."""
    return {name: _FIELDS[name].kind(value) for name, value in values.items()}


def _without_name(data: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in data.items() if key != "name"}


def _spot(name: str, keys: Keys) -> str:
    return ": ".join(part for part in (name, ".".join(map(str, keys))) if part)


def _refuse(faults: Iterable[_Fault], spot: Callable[[Keys], str]) -> None:
    told = [f"{spot(fault.keys)}: {fault.message}" for fault in faults]
    if told:
        raise SpaceError("\n".join(told))


def _show(value: object) -> str:
    """A value as the file would write it."""
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _section(data: Mapping[str, Any], key: str) -> Any:
    """A part of the file that may be left out or left empty."""
    value = data.get(key)
    return {} if value is None else value


def _space_faults(data: Any) -> Iterator[_Fault]:
    """Every rule of the file format, over plain values."""
    if not isinstance(data, Mapping):
        yield _Fault(keys=(), message="a search space is a mapping with at least `parameters`")
        return
    yield from _unknown_keys(data, (), _TOP)
    description = data.get("description", "")
    if not isinstance(description, str) or "\n" in description:
        yield _Fault(keys=("description",), message="`description` must be one line of text")
    for key, allowed in _CHOSEN.items():
        if key in data and (message := _word_fault(key, data[key], allowed)):
            yield _Fault(keys=(key,), message=message)
    yield from _training_faults(_section(data, "training"))
    parameters, defaults = data.get("parameters"), _section(data, "defaults")
    yield from _parameters_faults(parameters)
    yield from _defaults_faults(defaults)
    if isinstance(parameters, Mapping) and isinstance(defaults, Mapping):
        yield from _outside_faults(parameters, defaults)


def _unknown_keys(data: Mapping[str, Any], keys: Keys, known: Iterable[str]) -> Iterator[_Fault]:
    known = tuple(known)
    place = f"under `{keys[-1]}`" if keys else "in a search space"
    for key in data:
        if key not in known:
            yield _Fault(
                keys=(*keys, key),
                message=f"`{key}` is not known {place}{did_you_mean(str(key), known)}: "
                f"known are {', '.join(known)}",
            )


def _training_faults(training: Any) -> Iterator[_Fault]:
    if not isinstance(training, Mapping):
        yield _Fault(keys=("training",), message="`training` must be a mapping: {epochs: 10}")
        return
    yield from _unknown_keys(training, ("training",), _TRAINING)
    for key, least in _TRAINING.items():
        value = training.get(key, least)
        if key == "image_size" and value is None:
            continue
        if not _is_number(value, whole=True) or value < least:
            yield _Fault(
                keys=("training", key),
                message=f"`{key}` must be a whole number of at least {least}, not {_show(value)}",
            )


def _parameters_faults(parameters: Any) -> Iterator[_Fault]:
    where: Keys = ("parameters",)
    if not isinstance(parameters, Mapping):
        yield _Fault(
            keys=where,
            message="`parameters` must be given, a mapping of what is tuned, "
            "for example {backbone: {choices: [resnet50]}}",
        )
        return
    yield from _unknown_keys(parameters, where, _FIELDS)
    if "backbone" not in parameters:
        yield _Fault(
            keys=where,
            message="`parameters` must hold `backbone`, for example {choices: [resnet50]}",
        )
    for name in _FIELDS:
        if name in parameters:
            check = _choices_faults if _FIELDS[name].kind is str else _range_faults
            yield from check(name, parameters[name])


def _choices_faults(name: str, spec: Any) -> Iterator[_Fault]:
    where: Keys = ("parameters", name)
    example = f"{{choices: [{', '.join(_FIELDS[name].words) or 'resnet50, xception'}]}}"
    if not isinstance(spec, Mapping):
        told = f"`{name}` must list its choices, for example {example}, not {_show(spec)}"
        if name != "backbone":
            told += "; a value that is not tuned belongs under `defaults`"
        yield _Fault(keys=where, message=told)
        return
    yield from _unknown_keys(spec, where, ("choices",))
    listed = spec.get("choices")
    if not isinstance(listed, list) or not listed:
        yield _Fault(
            keys=(*where, "choices"),
            message=f"`{name}` needs at least one choice, for example {example}",
        )
        return
    for index, choice in enumerate(listed):
        if message := _value_fault(name, choice):
            yield _Fault(keys=(*where, "choices", index), message=message)
        elif choice in listed[:index]:
            yield _Fault(
                keys=(*where, "choices", index),
                message=f"`{name}` lists `{choice}` twice: every choice must be given once",
            )


def _range_faults(name: str, spec: Any) -> Iterator[_Fault]:
    where: Keys = ("parameters", name)
    if not isinstance(spec, Mapping):
        yield _Fault(
            keys=where,
            message=f"`{name}` must be a range such as {{low: 1, high: 2}}, not {_show(spec)}; "
            "a value that is not tuned belongs under `defaults`",
        )
        return
    yield from _unknown_keys(spec, where, ("low", "high", "log"))
    wrong = False
    for key in ("low", "high"):
        message = _value_fault(name, spec[key]) if key in spec else f"`{name}` needs `{key}`"
        if message:
            wrong = True
            yield _Fault(keys=(*where, key), message=message)
    log = spec.get("log", False)
    if not isinstance(log, bool):
        yield _Fault(keys=(*where, "log"), message=f"`log` must be true or false, not {_show(log)}")
    if wrong:
        return
    low, high = spec["low"], spec["high"]
    if low >= high:
        yield _Fault(
            keys=(*where, "low"),
            message=f"`{name}` must have low below high, not {low} and {high}; "
            "a value that is not tuned belongs under `defaults`",
        )
    if log is True and low <= 0:
        yield _Fault(
            keys=(*where, "low"),
            message=f"`{name}` must have low above 0 to be drawn on a log scale, not {low}",
        )


def _defaults_faults(defaults: Any) -> Iterator[_Fault]:
    if not isinstance(defaults, Mapping):
        yield _Fault(
            keys=("defaults",), message="`defaults` must be a mapping: {learning_rate: 1e-4}"
        )
        return
    known = _recipe_defaults()
    yield from _unknown_keys(defaults, ("defaults",), known)
    for name in known:
        if name in defaults and (message := _value_fault(name, defaults[name])):
            yield _Fault(keys=("defaults", name), message=message)


def _outside_faults(parameters: Mapping[str, Any], defaults: Mapping[str, Any]) -> Iterator[_Fault]:
    """The untuned recipe is one of the first trials, so it has to lie inside the space."""
    for name, usual in _recipe_defaults().items():
        value = defaults.get(name, usual)
        spec = parameters.get(name)
        check = _choices_faults if _FIELDS[name].kind is str else _range_faults
        if spec is None or any(check(name, spec)) or _value_fault(name, value):
            continue
        parameter = _parameter(name, spec)
        if not parameter.contains(value):
            given = name in defaults
            yield _Fault(
                keys=("defaults", name) if given else ("parameters", name),
                message=f"the default of `{name}` must lie in its range ({parameter}), not "
                f"{_show(value)}: "
                + ("change one of them" if given else f"add `{name}` under `defaults`"),
            )


def _value_fault(name: str, value: object) -> str | None:
    """Say what is wrong with one value of a recipe's field, if anything is."""
    known = _FIELDS[name]
    if known.kind is str:
        return _word_fault(name, value, known.words)
    whole = known.kind is int
    if not _is_number(value, whole=whole):
        return f"`{name}` must be a {'whole ' if whole else ''}number, not {_show(value)}"
    is_allowed, rule = _LIMITS[name]
    return None if is_allowed(value) else f"`{name}` must be {rule}, not {_show(value)}"


def _word_fault(name: str, value: object, allowed: tuple[str, ...]) -> str | None:
    rule = f"one of {', '.join(allowed)}" if allowed else "a word"
    if isinstance(value, str) and (value in allowed or (value and not allowed)):
        return None
    if isinstance(value, bool):
        return f"`{name}` must be {rule}, not {_show(value)}, which is a word only in quotes"
    hint = did_you_mean(value, allowed) if isinstance(value, str) else ""
    return f"`{name}` must be {rule}, not `{_show(value)}`{hint}"


def _is_number(value: object, *, whole: bool) -> TypeGuard[float]:
    if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
        return False
    return math.isfinite(value)
