"""Are the tolerances of a package tight enough, and loose enough?

Every planted fault must be refused by at least one golden sample, and what another right engine does (another JPEG
decoder, another resizer, additions in another order) must pass. `excess` below is the largest
|got - expected| / tolerance over outputs and values: above 1 a sample is refused.
"""

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from wayside_train import golden, manifest, network, preprocess, statistics
from wayside_train.golden import Sample
from wayside_train.preprocess import ImageInput

# Beside another decoder a fault that only just fails may pass, and noise that only just passes may fail.
LEAST_FAULT_EXCESS = 1.5
MOST_NOISE_EXCESS = 0.67

Outputs = dict[str, np.ndarray]


@dataclass(frozen=True)
class Trial:
    """A fault or a kind of noise: what an engine gives for a sample, and the labels it takes for the answer's."""

    name: str
    is_fault: bool
    outputs: Callable[[Sample], Outputs]
    labels: tuple[str, ...]


@dataclass(frozen=True)
class Finding:
    """What a trial does to the golden samples; `refused` counts those that its numbers or its label fail."""

    trial: Trial
    excess: float
    wrong_labels: int
    refused: int
    samples: int

    @property
    def as_wanted(self) -> bool:
        if self.trial.is_fault:
            return self.excess >= LEAST_FAULT_EXCESS or self.wrong_labels > 0
        return self.excess <= MOST_NOISE_EXCESS and self.wrong_labels == 0


def examine(package: Path) -> list[Finding]:
    """Judges each trial as an engine's self test does, noise first."""
    package_manifest, samples = manifest.read(package), golden.read(package)
    trials = list(_trials(package, package_manifest))
    return [_judge(trial, package_manifest, samples) for trial in sorted(trials, key=lambda trial: trial.is_fault)]


def table(findings: list[Finding]) -> str:
    """The findings as a Markdown table."""
    lines = ["| trial | wanted | largest deviation / tolerance | wrong labels | samples refused |", "|---|---|---|---|---|"]
    for f in findings:
        wanted = "refuse" if f.trial.is_fault else "accept"
        excess = "not comparable" if np.isinf(f.excess) else f"{f.excess:.2f}"
        lines.append(f"| {f.trial.name} | {wanted} | {excess} | {f.wrong_labels} | {f.refused} of {f.samples} |")
    return "\n".join(lines)


def _judge(trial, package_manifest, samples):
    answer = package_manifest.answer.name
    excesses, wrong_labels = [], []
    for sample in samples:
        got = trial.outputs(sample)
        excesses.append(max(_excess(got[o.name], sample.outputs[o.name], o) for o in package_manifest.outputs))
        wrong_labels.append(trial.labels[int(np.argmax(got[answer])) % len(trial.labels)] != sample.label)
    refused = sum(excess > 1 or wrong for excess, wrong in zip(excesses, wrong_labels))
    return Finding(trial, max(excesses), sum(wrong_labels), refused, len(samples))


def _excess(got, expected, output):
    if got.shape != expected.shape or not np.isfinite(got).all():
        return np.inf
    return float((np.abs(got - expected) / (output.atol + output.rtol * np.abs(expected))).max())


def _trials(package, package_manifest) -> Iterator[Trial]:
    model = network.Network(network.load(package))
    labels = package_manifest.answer.labels

    def right(sample):
        return model.run(golden.prepare(package_manifest, package / sample.input, sample.roi))

    yield Trial("outputs swapped", True, lambda sample: _rotated(right(sample)), labels)
    yield Trial("labels permuted", True, right, labels[1:] + labels[:1])
    logits = [output.name for output in package_manifest.outputs if output.role == "logits"]
    for name, change in {"head × 1.05": lambda v: v * 1.05, "NaN in the first logit": _with_nan}.items():
        yield Trial(name, True, lambda sample, change=change: _changed(right(sample), logits, change), labels)
    prepared = _image_inputs if isinstance(package_manifest.input, ImageInput) else _window_inputs
    for name, is_fault, value in prepared(package, package_manifest.input):
        yield Trial(name, is_fault, lambda sample, value=value: value(model, sample), labels)


def _rotated(outputs):
    names = list(outputs)
    return {name: outputs[other] for name, other in zip(names, names[1:] + names[:1])}


def _changed(outputs, names, change):
    return {name: change(value) if name in names else value for name, value in outputs.items()}


def _with_nan(values):
    return np.concatenate([[np.nan], values[1:]])


def _image_inputs(package, spec):
    """(name, is a fault, outputs of a network for a sample) of what can differ in preparing a picture."""

    def prepared(change_spec=None, change_roi=None, change_frame=None, resize=preprocess.resized):
        used = replace(spec, **(change_spec or {}))

        def outputs(model, sample):
            frame = preprocess.decode(package / sample.input)
            roi = change_roi(sample.roi, frame) if change_roi and sample.roi else sample.roi
            frame = change_frame(frame) if change_frame else frame
            return model.run(preprocess.tensor(resize(frame, roi, used), used))

        return outputs

    yield "BGR for RGB", True, prepared({"color": "bgr"})
    yield "letterbox for stretch", True, prepared({"resize": "letterbox"})
    yield "nearest for bilinear", True, prepared({"filter": "nearest"})
    for name, x, y in (("right", 0.1, 0.0), ("left", -0.1, 0.0), ("down", 0.0, 0.1), ("up", 0.0, -0.1)):
        yield f"ROI 10 % further {name}", True, prepared(change_roi=lambda roi, frame, x=x, y=y: _moved(roi, frame, x, y))
    yield "another decoder", False, prepared(change_frame=_as_another_decoder)
    yield "another resizer", False, prepared(resize=_as_another_resizer)
    yield "another decoder and resizer", False, prepared(change_frame=_as_another_decoder, resize=_as_another_resizer)


def _moved(roi, frame, x, y):
    """Moved by these parts of its size, but not out of the frame."""
    left, top, width, height = roi
    moved_left = min(max(left + round(x * width), 0), frame.width - width)
    return [moved_left, min(max(top + round(y * height), 0), frame.height - height), width, height]


def _as_another_decoder(frame):
    """Off by one to three levels where decoders are: a tenth of the values of a small crop, hardly any of a drawing.

    Encoded once more without loss but rounding; zune-jpeg beside Pillow's libjpeg-turbo differs as often and as much.
    """
    file = io.BytesIO()
    frame.save(file, "JPEG", quality=100, subsampling=0)
    with Image.open(file) as image:
        return image.convert("RGB")


def _as_another_resizer(frame, roi, spec):
    """Stretched without rounding between the two directions; a sixth of the values differ by one level."""
    x, y, width, height = roi or [0, 0, *frame.size]
    planes = [Image.fromarray(plane) for plane in np.asarray(frame, np.float32).transpose(2, 0, 1)]
    cut = [plane.crop((x, y, x + width, y + height)) for plane in planes]
    exact = [np.asarray(plane.resize((spec.width, spec.height), Image.Resampling.BILINEAR)) for plane in cut]
    return Image.fromarray(np.rint(np.stack(exact, axis=2)).clip(0, 255).astype(np.uint8))


def _window_inputs(package, spec):
    """As `_image_inputs`, of what can differ in preparing a window."""
    names = [name for name, _unit in spec.columns]

    def prepared(change_window=lambda window: window, change_features=lambda features: features):
        def outputs(model, sample):
            window = change_window(golden.read_window(package / sample.input))
            features = change_features(statistics.features(window, spec.features))
            return model.run(features.astype(np.float32)[None])

        return outputs

    yield "columns in another order", True, prepared(lambda w: dict(zip(names, [w[n] for n in names[1:] + names[:1]])))
    yield "features in another order", True, prepared(change_features=lambda features: np.roll(features, 1))
    yield "first column × 1000", True, prepared(lambda w: w | {names[0]: 1000 * w[names[0]]})
    if any(feature.startswith(("last(", "delta(")) for feature in spec.features):
        yield "rows in reverse order", True, prepared(lambda w: {n: column[::-1] for n, column in w.items()})
    noise = np.random.default_rng(0)
    yield "features ± 1e-5 of their size", False, prepared(
        change_features=lambda features: features * (1 + noise.uniform(-1e-5, 1e-5, len(features)))
    )
