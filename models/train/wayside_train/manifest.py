"""`manifest.toml`, read and written. What the fields mean stands in docs/reference/package.md."""

import json
import tomllib
from dataclasses import dataclass
from pathlib import Path

from wayside_train.preprocess import ImageInput

FILE = "manifest.toml"


@dataclass(frozen=True)
class WindowInput:
    """`[input.window]`; `columns` are (name, unit) pairs, `period` a duration such as "1m"."""

    rows: int
    step: int
    period: str
    columns: tuple[tuple[str, str], ...]
    features: tuple[str, ...]

    @property
    def shape(self) -> list[int]:
        return [1, len(self.features)]


@dataclass(frozen=True)
class Output:
    """One `[[output]]`; `labels` is empty for an embedding."""

    name: str
    role: str
    atol: float
    labels: tuple[str, ...] = ()
    rtol: float = 0.0


@dataclass(frozen=True)
class Manifest:
    name: str
    version: int
    licence: str
    latency_limit: str
    input_name: str
    input: ImageInput | WindowInput
    outputs: tuple[Output, ...]

    @property
    def answer(self) -> Output:
        """The first logits output."""
        return next(output for output in self.outputs if output.role == "logits")

    def write(self, folder: Path) -> None:
        (folder / FILE).write_text(self._toml())

    def _toml(self):
        kind = "image" if isinstance(self.input, ImageInput) else "window"
        lines = [
            "format = 1",
            f"name = {_value(self.name)}",
            f"version = {self.version}",
            f"licence = {_value(self.licence)}",
            f"latency_limit = {_value(self.latency_limit)}",
            "",
            "[input]",
            f'kind = "{kind}"',
            f"name = {_value(self.input_name)}",
            f"shape = {_value(self.input.shape)}",
            "",
            f"[input.{kind}]",
        ]
        if kind == "image":
            names = ("roi", "color", "resize", "filter", "pad", "layout", "mean", "std")
            lines += [f"{name} = {_value(getattr(self.input, name))}" for name in names]
        else:
            lines += [f"{name} = {_value(getattr(self.input, name))}" for name in ("rows", "step", "period")]
            columns = [f"{{ name = {_value(name)}, unit = {_value(unit)} }}" for name, unit in self.input.columns]
            lines += ["columns = [", *(f"    {column}," for column in columns), "]"]
            lines += ["features = [", *(f"    {_value(feature)}," for feature in self.input.features), "]"]
        for output in self.outputs:
            lines += ["", "[[output]]", f"name = {_value(output.name)}", f"role = {_value(output.role)}"]
            if output.labels:
                lines.append(f"labels = {_value(output.labels)}")
            lines += [f"atol = {_value(output.atol)}", f"rtol = {_value(output.rtol)}"]
        return "\n".join(lines) + "\n"


def read(folder: Path) -> Manifest:
    """The manifest of the package in `folder`.

    Raises `OSError` for a missing file, `tomllib.TOMLDecodeError`, `KeyError` or `TypeError` for a wrong one.
    """
    raw = tomllib.loads((folder / FILE).read_text())
    if raw["input"]["kind"] == "image":
        height, width = raw["input"]["shape"][2:] if raw["input"]["image"]["layout"] == "nchw" else raw["input"]["shape"][1:3]
        image = {key: tuple(value) if isinstance(value, list) else value for key, value in raw["input"]["image"].items()}
        model_input = ImageInput(width=width, height=height, **image)
    else:
        window = raw["input"]["window"]
        columns = tuple((column["name"], column["unit"]) for column in window["columns"])
        model_input = WindowInput(window["rows"], window["step"], window["period"], columns, tuple(window["features"]))
    outputs = tuple(
        Output(o["name"], o["role"], o["atol"], tuple(o.get("labels", ())), o["rtol"]) for o in raw["output"]
    )
    return Manifest(
        raw["name"], raw["version"], raw["licence"], raw["latency_limit"], raw["input"]["name"], model_input, outputs
    )


def _value(value):
    """A string, number or list of these: there TOML writes as JSON does."""
    return json.dumps(value, ensure_ascii=False)
