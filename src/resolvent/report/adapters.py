"""The scale of LoRA updates: adapter_config.json beside an adapter, or an alpha beside a pair."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from resolvent.report.stored import Stored, printable, size_text

NAME = "adapter_config.json"
_LONGEST = 1 << 20
# No training takes a larger alpha; the product of such a number and a matrix would be one of its accidents.
LARGEST = 1e9
# PEFT puts its own modules around the model, and the patterns speak of the model's.
_WRAPPED = "base_model.model."
# PEFT's names: the other ones come from programs that read no config.
_FACTOR = re.compile(r"(?P<module>.+?)\.lora_(embedding_)?[AB](\.[^.]+)*")
# Steps that matching all patterns with all names may take: some seconds.
_STEPS = 1e9


@dataclass(frozen=True)
class Scale:
    """The factor of a LoRA product.

    Attributes
    ----------
    factor : None where it is not known
    note : where it comes from, or why it is not known
    rank : the rank that it holds for; None for any
    """

    factor: float | None
    note: str
    rank: int | None = None


@dataclass(frozen=True)
class AdapterConfig:
    """What an adapter_config.json says of scales.

    Attributes
    ----------
    alpha : its `lora_alpha`
    rank : its `r`
    rslora : alpha over the root of the rank instead of the rank
    alphas, ranks : the exceptions by module, as patterns in their order
    remark : what the product leaves out, for its note; else ""
    """

    alpha: float
    rank: int
    rslora: bool = False
    alphas: tuple[tuple[re.Pattern[str], float], ...] = ()
    ranks: tuple[tuple[re.Pattern[str], int], ...] = ()
    remark: str = ""

    def scale(self, module: str) -> Scale:
        """The scale of one module.

        Parameters
        ----------
        module : its name within the model

        Examples
        --------
        >>> AdapterConfig(alpha=16.0, rank=4).scale("layers.0.q_proj")
        Scale(factor=4.0, note='times lora_alpha / r = 16 / 4 = 4, from adapter_config.json', rank=4)
        """
        alpha = next((value for pattern, value in self.alphas if pattern.match(module)), self.alpha)
        rank = next((value for pattern, value in self.ranks if pattern.match(module)), self.rank)
        factor = alpha / (math.sqrt(rank) if self.rslora else rank)
        root, below = ("sqrt(r)", f"sqrt({rank})") if self.rslora else ("r", f"{rank}")
        note = f"times lora_alpha / {root} = {alpha:g} / {below} = {factor:g}, from {NAME}{self.remark}"
        return Scale(factor, note, rank)


def with_adapter_scales(tensors: Sequence[Stored], path: Path) -> list[Stored]:
    """Give PEFT's LoRA factors the scale that the config beside their file tells, or the reason why it does not.

    Parameters
    ----------
    tensors : those of one file
    path : the file, or its directory

    Returns
    -------
    As many, in the same order; those that are no factors as they are, and all of them where there is no config.
    """
    modules = {t.name: match["module"].removeprefix(_WRAPPED) for t in tensors if (match := _FACTOR.fullmatch(t.name))}
    content = read_config(path) if modules else None
    if content is None:
        return list(tensors)
    config = parse_config(content, sorted(set(modules.values()))) if isinstance(content, dict) else content
    scales = {
        module: Scale(None, f"unscaled: {config}") if isinstance(config, str) else config.scale(module)
        for module in set(modules.values())
    }
    return [dataclasses.replace(t, lora=scales[modules[t.name]]) if t.name in modules else t for t in tensors]


def read_config(path: Path) -> dict[str, Any] | str | None:
    """The content of the config beside a file or in a directory, why it cannot be read, or None where there is none."""
    config = (path if path.is_dir() else path.parent) / NAME
    try:
        if not config.is_file():
            return None
        with config.open("rb") as file:
            raw = file.read(_LONGEST + 1)
        if len(raw) > _LONGEST:
            return f"{NAME} is larger than {size_text(_LONGEST)}"
        content = json.loads(raw)
    except OSError:
        return f"{NAME} cannot be read"
    except (ValueError, RecursionError):
        return f"{NAME} is no valid JSON"
    return content if isinstance(content, dict) else f"{NAME} is no JSON object"


def parse_config(content: Mapping[str, Any], modules: Sequence[str]) -> AdapterConfig | str:
    """The config of an adapter, or one clause that says what is wrong with it.

    Parameters
    ----------
    content : the JSON object
    modules : the names that its patterns are going to be matched with

    Examples
    --------
    >>> parse_config({"lora_alpha": "much", "r": 4}, [])
    "lora_alpha is 'much' in adapter_config.json, not a number up to 1e+09"
    """
    kind = content.get("peft_type", "LORA")
    if kind != "LORA":
        return f"peft_type is {_shown(kind)} in {NAME}, not 'LORA'"
    try:
        alpha, rank = _alpha(content.get("lora_alpha"), "lora_alpha"), _rank(content.get("r"), "r")
        rslora = content.get("use_rslora") or False
        if rslora is not True and rslora is not False:
            raise ValueError(f"use_rslora is {_shown(rslora)} in {NAME}, not true or false")
        alphas = [
            (key, _alpha(value, f"alpha_pattern[{_shown(key)}]")) for key, value in _items(content, "alpha_pattern")
        ]
        ranks = [(key, _rank(value, f"rank_pattern[{_shown(key)}]")) for key, value in _items(content, "rank_pattern")]
        keys = [key for key, _ in (*alphas, *ranks)]
        longest = max(map(len, modules), default=0)
        if sum(_steps(key, longest) for key in keys) * len(modules) > _STEPS:
            raise ValueError(f"the patterns in {NAME} would take too long to match")
        patterns = {key: _compiled(key) for key in keys}
    except ValueError as error:
        return str(error)
    return AdapterConfig(
        alpha,
        rank,
        rslora,
        tuple((patterns[key], value) for key, value in alphas),
        tuple((patterns[key], count) for key, count in ranks),
        " (without the magnitudes of DoRA)" if content.get("use_dora") is True else "",
    )


def is_alpha(value: Any) -> bool:
    """Whether this can be an alpha: a finite number of a size that is no accident."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= LARGEST


def _alpha(value: Any, name: str) -> float:
    if not is_alpha(value):
        raise ValueError(f"{name} is {_shown(value)} in {NAME}, not a number up to {LARGEST:g}")
    return float(value)


def _rank(value: Any, name: str) -> int:
    if type(value) is not int or not 0 < value <= LARGEST:
        raise ValueError(f"{name} is {_shown(value)} in {NAME}, not a whole number from 1 to {LARGEST:g}")
    return value


def _items(content: Mapping[str, Any], name: str) -> list[tuple[str, Any]]:
    patterns = content.get(name)
    if patterns is None:
        return []
    if not isinstance(patterns, dict):
        raise ValueError(f"{name} is {_shown(patterns)} in {NAME}, not an object")
    return list(patterns.items())


def _compiled(key: str) -> re.Pattern[str]:
    """The rule of PEFT: a regular expression for the end of the name, from a dot on."""
    try:
        return re.compile(rf"(.*\.)?({key})$")
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f"the pattern {_shown(key)} in {NAME} is no regular expression") from error


def _steps(key: str, length: int) -> float:
    """Bound on the steps of matching a pattern with a name: it comes from a file and may be made to take for ever."""
    # an escape or a class of characters is one character
    plain = re.sub(r"\\.|\[(?:\\.|[^\]\\])*\]", "x", key, flags=re.DOTALL)
    if len(plain) > 1000 or re.search(r"\)[*+?{]", plain):
        return math.inf
    repeats = len(re.findall(r"[*+?{]", plain))
    if repeats > 20:
        return math.inf
    choices = math.prod(part.count("|") + 1.0 for part in re.split(r"[()]", plain))
    # places where each repetition may end, and the one before the pattern
    return choices * math.comb(length + repeats + 1, repeats + 1)


def _shown(value: Any) -> str:
    """A value in at most 40 characters; an integer of thousands of digits may not even be spelt out."""
    if value is None:
        return "missing"
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "a list"
    if isinstance(value, int) and abs(value) > 10**30:
        return "a number of too many digits"
    text = printable(value) if isinstance(value, str) else repr(value)
    text = text if len(text) <= 40 else text[:37] + "..."
    return f"'{text}'" if isinstance(value, str) else text
