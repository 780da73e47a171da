"""A retraining job of the server: fits a new head on labelled samples and leaves a complete package.

    WAYSIDE_DATASET   folder with samples.json and the pictures that it names
    WAYSIDE_BASE      folder of the package whose backbone is kept
    WAYSIDE_OUTPUT    folder for the new package
    WAYSIDE_VERSION   its version; the base's plus one if absent

The penalty pulls the head to that of the base, so that few samples, or none of a class, change little. Exit status 1
with one line that says why, where the input does not allow it; nothing is written then.
"""

import json
import os
import shutil
import sys
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from PIL import Image  # noqa: E402
from wayside_train import golden, head, manifest, network, preprocess, reference  # noqa: E402
from wayside_train.manifest import Manifest  # noqa: E402
from wayside_train.network import Network  # noqa: E402
from wayside_train.preprocess import ImageInput  # noqa: E402

# The pull to the base's head, in samples' worth of loss.
PULL = 12.0
FOLDS = 5


class Unusable(Exception):
    """The dataset, the base or the environment does not allow a head to be fitted."""


@dataclass(frozen=True)
class Samples:
    """Labels as indices [n], embeddings float32 [n, dimension], drift features of the pictures [n] by name."""

    labels: np.ndarray
    embeddings: np.ndarray
    image: dict[str, np.ndarray]


def main() -> int:
    try:
        base, dataset, output = (folder(name) for name in ("WAYSIDE_BASE", "WAYSIDE_DATASET", "WAYSIDE_OUTPUT"))
        base_manifest = read_base(base)
        model = network.load(base)
        samples = read_samples(dataset, base_manifest, Network(model))
        version = read_version(base_manifest)
    except Unusable as reason:
        print(f"error: {reason}")
        return 1

    labels = base_manifest.answer.labels
    counts = Counter(labels[label] for label in samples.labels)
    print(f"base {base_manifest.name} version {base_manifest.version}; {len(samples.labels)} samples: "
          + ", ".join(f"{label} {counts[label]}" for label in labels))  # fmt: skip
    weight, bias = network.head(model)
    start = np.column_stack([weight, bias])
    fitted = fit(samples, np.ones(len(samples.labels), bool), start)
    out_of_fold = out_of_fold_logits(samples, start)
    before = accuracy(head.logits(samples.embeddings, start), samples.labels)
    after = accuracy(out_of_fold, samples.labels)
    print(f"accuracy on the samples: base {before:.4f}, new head out of fold {after:.4f}")

    ratio = float(np.linalg.norm(fitted) / np.linalg.norm(start))
    outputs = [replace(o, atol=o.atol * ratio) if o == base_manifest.answer else o for o in base_manifest.outputs]
    new_manifest = replace(base_manifest, version=version, outputs=tuple(outputs))
    new_model = network.with_head(model, fitted[:, :-1], fitted[:, -1])
    write(output, base, new_manifest, new_model, samples, out_of_fold, card(base_manifest, new_manifest, counts, before, after))
    print(f"wrote {new_manifest.name} version {version} to {output}")
    return 0


def folder(variable: str) -> Path:
    if not os.environ.get(variable):
        raise Unusable(f"{variable} is not set")
    return Path(os.environ[variable])


def read_version(base: Manifest) -> int:
    text = os.environ.get("WAYSIDE_VERSION") or str(base.version + 1)
    if not text.isdecimal() or int(text) < 1:
        raise Unusable(f"WAYSIDE_VERSION {text!r} is not a whole number from 1")
    return int(text)


def read_base(base: Path) -> Manifest:
    try:
        found = manifest.read(base)
    except (OSError, ValueError, KeyError, TypeError) as reason:
        raise Unusable(f"base {base}: {type(reason).__name__}: {reason}") from reason
    if not isinstance(found.input, ImageInput) or not any(o.role == "embedding" for o in found.outputs):
        raise Unusable(f"base {base}: not a model of pictures with an embedding")
    return found


def read_samples(dataset: Path, base: Manifest, runnable: Network) -> Samples:
    """Embeddings that samples.json does not carry come from the pictures."""
    try:
        raw = json.loads((dataset / "samples.json").read_text())["samples"]
    except (OSError, ValueError, KeyError, TypeError) as reason:
        raise Unusable(f"{dataset / 'samples.json'}: {type(reason).__name__}: {reason}") from reason
    weight_dimension = len(runnable.run(np.zeros(base.input.shape, np.float32))[embedding_name(base)])
    labels, embeddings, images = [], [], []
    for position, sample in enumerate(raw):
        label = sample.get("label") if isinstance(sample, dict) else None
        if label not in base.answer.labels:
            raise Unusable(f"sample {position}: label {label!r} is not one of {', '.join(base.answer.labels)}")
        labels.append(base.answer.labels.index(label))
        try:
            frame = preprocess.decode(dataset / sample["file"])
            image = preprocess.resized(frame, sample.get("roi"), base.input)
        except (OSError, KeyError, TypeError, ValueError, Image.DecompressionBombError) as reason:
            raise Unusable(f"sample {position}: {type(reason).__name__}: {reason}") from reason
        images.append(preprocess.image_features(image))
        embedding = sample.get("embedding")
        if embedding is None:
            embedding = runnable.run(preprocess.tensor(image, base.input))[embedding_name(base)]
        try:
            embeddings.append(np.asarray(embedding, np.float32))
        except (TypeError, ValueError) as reason:
            raise Unusable(f"sample {position}: embedding: {reason}") from reason
        if embeddings[-1].shape != (weight_dimension,) or not np.isfinite(embeddings[-1]).all():
            raise Unusable(f"sample {position}: the embedding is not {weight_dimension} finite numbers")
    if len(set(labels)) < 2:
        raise Unusable(f"{len(labels)} samples of {len(set(labels))} classes; two classes are the least")
    return Samples(np.array(labels), np.array(embeddings), {name: np.array([i[name] for i in images]) for name in images[0]})


def embedding_name(of: Manifest) -> str:
    return next(output.name for output in of.outputs if output.role == "embedding")


def fit(samples: Samples, rows: np.ndarray, start: np.ndarray) -> np.ndarray:
    return head.fit(samples.embeddings[rows], samples.labels[rows], len(start), PULL / rows.sum(), start)


def out_of_fold_logits(samples: Samples, start: np.ndarray) -> np.ndarray:
    """Each sample's logits from a head that was fitted without its contiguous fifth."""
    count = len(samples.labels)
    fold = np.arange(count) * min(FOLDS, count) // count
    result = np.empty((count, len(start)))
    for held_out in np.unique(fold):
        result[fold == held_out] = head.logits(samples.embeddings[fold == held_out], fit(samples, fold != held_out, start))
    return result


def accuracy(logits: np.ndarray, labels: np.ndarray) -> float:
    return float((logits.argmax(axis=1) == labels).mean())


def write(output, base, new_manifest, model, samples, out_of_fold, text) -> None:
    output.mkdir(parents=True, exist_ok=True)
    new_manifest.write(output)
    (output / "model.onnx").write_bytes(model.SerializeToString())
    shutil.copytree(base / "golden", output / "golden", dirs_exist_ok=True)
    inputs = [(sample.input, sample.roi) for sample in golden.read(base)]
    golden.write(output, new_manifest, Network(model), inputs)
    reference.write(output, samples.image | reference.answer_features(out_of_fold, samples.embeddings))
    (output / "card.md").write_text(text)


def card(base: Manifest, new: Manifest, counts: Counter, before: float, after: float) -> str:
    labels = "\n".join(f"| {label} | {counts[label]} |" for label in new.answer.labels)
    return f"""# {new.name}, version {new.version}

The backbone of {base.name} version {base.version} with a head fitted again on {sum(counts.values())} labelled samples from devices.
Data, licence and limits of the backbone are those of that version's card; the samples are the fleet owner's.

| label | samples |
|---|---|
{labels}

Accuracy on the samples: {before:.3f} with the base's head, {after:.3f} with heads fitted without the fifth that they are judged on.
`reference.json` counts the answers of those heads. Nothing is known about other pictures: compare with the base's
hold-out figures before this replaces it.
"""


if __name__ == "__main__":
    sys.exit(main())
