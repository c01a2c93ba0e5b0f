"""The fuzz targets: the inputs of each one, and the code that reads them.

An input is a sequence of bytes: a file, a message, or a first line that says where the rest goes.
"""

from __future__ import annotations

import io
import json
import random
import shutil
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from msgspec import structs

from edge_siamese.daemon.saved_regions import to_toml as regions_to_toml
from edge_siamese.errors import EdgeSiameseError
from edge_siamese.models.bundle import GOLDEN, IMPOSTORS, MANIFEST, load_bundle
from edge_siamese.models.manifest import Manifest, choose_threshold
from edge_siamese.pictures import (
    decode_png,
    encode_png,
    png_size,
    read_photograph,
    read_picture,
    read_uploaded_picture,
)
from edge_siamese.recognition.registration import NewView
from edge_siamese.recognizer import Recognizer
from edge_siamese.settings import RegionSettings, Settings
from edge_siamese.settings_file import load_settings
from edge_siamese.store import SupportStore, picture_archive
from edge_siamese.store.mistakes import Mistake
from edge_siamese.validation import Record, convert, parse_toml
from tests.fuzz import live
from tests.fuzz.mutation import ODD_TOML, mutate_bytes, mutate_tree, to_json, to_toml
from tests.fuzz.running import Feed, Target, require_one_line
from tests.tiny_bundle import MODEL_ID, MODELS, describe, write_tiny_bundle
from tests.tiny_network import DIMENSIONS, forward, pictures

ROOT = Path(__file__).parents[2]


def attempt(function: Callable[..., object], *arguments: Any) -> None:
    """Call a function that may refuse its input."""
    try:
        function(*arguments)
    except EdgeSiameseError as error:
        require_one_line(error)


# --- settings ---


@cache
def settings_samples() -> tuple[dict[str, Any], tuple[bytes, ...]]:
    """All settings with their defaults and two regions, as tables and as texts."""
    tables = _without_none(msgspec.to_builtins(structs.replace(Settings(), regions=REGIONS)))
    commented = (ROOT / "systemd" / "config.toml").read_text(encoding="utf-8")
    return tables, (
        to_toml(tables),
        commented.replace("\n#", "\n").encode(),
        b"\xef\xbb\xbf" + to_toml(tables),
    )


class Saved(Record):
    """The file of regions that were drawn in the dashboard."""

    regions: tuple[RegionSettings, ...] = ()


REGIONS = (
    RegionSettings("shelf", (0.0, 0.0, 0.5, 1.0)),
    RegionSettings("door 2", (0.25, 0.5, 0.5, 0.5), "foreground", 0.001, 0.9, 5, 3, 0),
)


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_none(item) for key, item in value.items() if item is not None}
    return [_without_none(item) for item in value] if isinstance(value, list) else value


def make_settings(chance: random.Random) -> bytes:
    tables, texts = settings_samples()
    if chance.random() < 0.3:
        return mutate_bytes(chance.choice(texts), chance, texts)
    some = {name: tables[name] for name in chance.sample(list(tables), chance.randint(1, 3))}
    return to_toml(mutate_tree(some, chance, ODD_TOML))


@contextmanager
def open_settings(directory: Path) -> Iterator[Feed]:
    path = directory / "config.toml"

    def feed(data: bytes) -> None:
        path.write_bytes(data)
        settings = load_settings(path)
        _ = settings.dashboard.url, settings.socket, settings.store, settings.models
        for region in settings.regions:
            region.recognition(settings.recognition)
        saved = convert(parse_toml(regions_to_toml(settings.regions)), Saved)
        assert saved.regions == settings.regions
        for place in (settings.socket, settings.store, settings.models):
            place.exists()

    yield feed


# --- manifest and bundle ---


@cache
def bundle_samples() -> dict[str, bytes]:
    """The files of a tiny bundle that Python reads, by name; of one with a weighted head."""
    import tempfile

    with tempfile.TemporaryDirectory() as place:
        directory = write_tiny_bundle(Path(place) / "bundle", weighted=True)
        names = (MANIFEST, GOLDEN, IMPOSTORS, "head_weights.npy")
        return {name: (directory / name).read_bytes() for name in names}


def make_manifest(chance: random.Random) -> bytes:
    sample = bundle_samples()[MANIFEST]
    if chance.random() < 0.3:
        return mutate_bytes(sample, chance)
    return to_json(mutate_tree(json.loads(sample), chance))


@contextmanager
def open_manifest(directory: Path) -> Iterator[Feed]:
    def feed(data: bytes) -> None:
        manifest = Manifest.from_json(data.decode("utf-8", "surrogateescape"), MANIFEST)
        manifest.to_json()
        attempt(choose_threshold, manifest, None, 0.01)
        attempt(manifest.model, "tflite", "int8")

    yield feed


def make_bundle(chance: random.Random) -> bytes:
    samples = bundle_samples()
    name = chance.choice(list(samples))
    if name == MANIFEST:
        manifest = json.loads(samples[MANIFEST])
        part = chance.choice(("embedding", "head", "input", "thresholds", "models", "attachments"))
        return _named(name, to_json(manifest | {part: mutate_tree(manifest[part], chance)}))
    if chance.random() < 0.5:
        return _named(name, mutate_bytes(samples[name], chance, tuple(samples.values())))
    arrays = np.load(io.BytesIO(samples[name]))
    file = io.BytesIO()
    if isinstance(arrays, np.ndarray):
        np.save(file, odd_array(arrays, chance), allow_pickle=False)
    else:
        found = {
            key: odd_array(arrays[key], chance) if chance.random() < 0.3 else arrays[key] for key in arrays
        }
        (np.savez if chance.random() < 0.5 else np.savez_compressed)(file, **found)
    return _named(name, file.getvalue())


def odd_array(values: np.ndarray, chance: random.Random) -> np.ndarray:
    """An array with numbers, a shape or a type that do not belong there."""
    match chance.randrange(6):
        case 0:
            dtype = chance.choice(("<f2", "<f4", ">f4", "<f8", "u1", "i8", "?", "c8", "S3", "U2", "M8[s]"))
            return values.astype(dtype)
        case 1:
            return np.resize(values, [chance.choice((0, 1, 2, 3, size, size + 1)) for size in values.shape])
        case 2:
            return values.reshape(chance.choice(((-1,), (1, *values.shape), (*values.shape, 1))))
        case 3:
            return np.asfortranarray(values)
        case 4 if values.dtype.kind == "f":
            changed = values.copy()
            odd = chance.choice((np.nan, np.inf, -np.inf, 3e38, 1e-45, 0.0, -1.0))
            with np.errstate(over="ignore"):
                changed.reshape(-1)[chance.randrange(max(1, changed.size))] = odd
            return changed if chance.random() < 0.7 else np.full_like(values, odd)
    return np.zeros_like(values)


def _named(name: str, data: bytes) -> bytes:
    return f"{name}\n".encode() + data


@contextmanager
def open_bundle(directory: Path) -> Iterator[Feed]:
    bundle = write_tiny_bundle(directory / "bundle", weighted=True)
    originals = {name: (bundle / name).read_bytes() for name in bundle_samples()}
    query = forward(pictures(1))[0]

    def feed(data: bytes) -> None:
        first, _, content = data.partition(b"\n")
        name = first.decode()
        try:
            (bundle / name).write_bytes(content)
            if name != MANIFEST:
                _list_again(bundle, name)
            loaded = load_bundle(bundle)
            impostors = loaded.impostors
            _ = loaded.golden
            if impostors is not None and loaded.manifest.embedding.dimensions == len(query):
                with np.errstate(over="raise", invalid="raise"):
                    scores = loaded.head.score(query[None], impostors)
                assert np.isfinite(scores).all()
        finally:
            for changed in {name, MANIFEST}:
                (bundle / changed).write_bytes(originals[changed])

    yield feed


def _list_again(bundle: Path, name: str) -> None:
    """Make the manifest agree with a changed file."""
    content = json.loads((bundle / MANIFEST).read_bytes())
    info = msgspec.to_builtins(describe(bundle / name))
    for item in (*content["models"], *content["attachments"]):
        if item["path"] == name:
            item.update(info)
    (bundle / MANIFEST).write_text(json.dumps(content))


# --- collections ---


@cache
def archive_sample() -> dict[str, bytes]:
    """The members of a collection of two objects with three views, a negative and pictures."""
    from edge_siamese.recognition.embedding import unit_vectors

    images = pictures(6)
    vectors = unit_vectors(forward(images))
    views = [
        NewView(v, (i[..., 0], np.repeat(i, 3, 2)), "camera") for v, i in zip(vectors, images, strict=True)
    ]
    store = SupportStore(None, MODEL_ID, DIMENSIONS)
    store.register("mug", views[0])
    store.add_view("mug", views[1])
    store.add_negative("mug", views[2])
    store.register("pen ☕", views[3])
    with store:
        return members_of(store.export_archive)


def members_of(write: Callable[[Path], object]) -> dict[str, bytes]:
    """The members of a zip file that a function writes."""
    import tempfile

    with tempfile.TemporaryDirectory() as place:
        write(Path(place) / "a.zip")
        with zipfile.ZipFile(Path(place) / "a.zip") as archive:
            return {name: archive.read(name) for name in archive.namelist()}


def make_archive(chance: random.Random) -> bytes:
    members = dict(archive_sample())
    if chance.random() < 0.2:
        rows = np.frombuffer(members["embeddings.f32"], "<f4").reshape(-1, DIMENSIONS)
        changed = odd_array(rows, chance).tobytes() if chance.random() < 0.6 else None
        members["embeddings.f32"] = changed or mutate_bytes(rows.tobytes(), chance)
        return zipped(members, chance)
    return mutate_archive(members, chance)


def mutate_archive(members: dict[str, bytes], chance: random.Random) -> bytes:
    """A zip file of these members with a change of its manifest, its pictures, its list of members, or any bytes."""
    kind = chance.choice(("bytes", "manifest", "manifest", "pictures", "members"))
    if kind == "manifest":
        members["manifest.json"] = to_json(mutate_tree(json.loads(members["manifest.json"]), chance))
    elif kind == "pictures":
        name = chance.choice([name for name in members if name.endswith(".png")])
        members[name] = mutate_png(members[name], chance)
    elif kind == "members":
        name = chance.choice(list(members))
        match chance.randrange(4):
            case 0:
                del members[name]
            case 1:
                members[chance.choice(("../x", "/etc/passwd", "crops/", "a" * 300, name.upper()))] = members[
                    name
                ]
            case 2:
                members[name] = bytes(chance.choice((0, 1, 100_000, 5_000_000)))
            case 3:
                members |= {f"crops/x{index}.png": b"" for index in range(2000)}
    data = zipped(members, chance)
    return mutate_bytes(data, chance) if kind == "bytes" else data


def zipped(members: dict[str, bytes], chance: random.Random) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in members.items():
            compression = chance.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_DEFLATED))
            archive.writestr(zipfile.ZipInfo(name), data, compression)
    return file.getvalue()


TIME = "2026-11-24T10:00:00.000+00:00"


@cache
def training_sample() -> dict[str, bytes]:
    """The members of an archive of pictures for training: of views, and of mistakes with and without a name."""
    image = np.kron(pictures(1)[0, ..., 0], np.ones((4, 4), np.uint8))
    view = NewView(forward(pictures(1))[0], (image,), "camera")
    store = SupportStore(None, MODEL_ID, DIMENSIONS)
    with store:
        store.register("mug", view)
        store.add_negative("mug", view)
        uid = store.add_negative("mug", view).uid
        mistake = Mistake(store.views(uid)[-1].uid, "pen ☕", None, TIME, MODEL_ID, encode_png(image))
        return members_of(lambda path: store.export_pictures(path, [mistake]))


def make_training_archive(chance: random.Random) -> bytes:
    return mutate_archive(dict(training_sample()), chance)


@contextmanager
def open_training_archive(directory: Path) -> Iterator[Feed]:
    from export.data.collected import CollectedFolder

    root = directory / "root"
    path, place = root / "a.zip", root / "collected"
    root.mkdir()

    def feed(data: bytes) -> None:
        path.write_bytes(data)
        try:
            with picture_archive.open_pictures(path, "nothing was collected") as archive:
                CollectedFolder.open(place / "photos").add("pi@door.local", archive)
        finally:
            assert {entry.name for entry in root.iterdir()} <= {"a.zip", "collected"}
            if place.exists():
                assert {entry.name for entry in place.iterdir()} <= {"photos", "photos-strangers"}
                CollectedFolder.open(place / "photos").contents()
            shutil.rmtree(place, ignore_errors=True)

    yield feed


@contextmanager
def open_archive(directory: Path) -> Iterator[Feed]:
    bundle = write_tiny_bundle(directory / "bundle")
    recognizer = Recognizer(bundle, 0.6, runtime="onnxruntime", threads=1)
    path, image = directory / "a.zip", np.kron(pictures(1)[0, ..., 0], np.ones((8, 8), np.uint8))
    fed = 0

    def feed(data: bytes) -> None:
        nonlocal recognizer, fed
        fed += 1
        if fed % 500 == 0:
            recognizer = Recognizer(bundle, 0.6, runtime="onnxruntime", threads=1)
        path.write_bytes(data)
        try:
            recognizer.load(path, ("rename", "skip", "merge")[len(data) % 3])
        finally:
            recognizer.recognize(image)
            recognizer.save(directory / "b.zip")
            for name in recognizer.names:
                recognizer.forget(name)

    yield feed


# --- pictures ---


@cache
def picture_samples() -> tuple[bytes, ...]:
    """Small pictures of all kinds of the formats that an upload may have, and a few of others."""
    from PIL import Image

    chance = np.random.default_rng(4)
    color = Image.fromarray(
        np.kron(chance.integers(0, 256, (6, 8, 3), np.uint8), np.ones((8, 8, 1), np.uint8))
    )
    turned = Image.Exif()
    turned[0x0112] = 6
    options: list[tuple[str, str, dict[str, Any]]] = [
        ("RGB", "JPEG", {}), ("L", "JPEG", {}), ("RGB", "JPEG", {"progressive": True}), ("CMYK", "JPEG", {}),
        ("RGB", "JPEG", {"exif": turned, "subsampling": 0}), ("RGB", "PNG", {}), ("L", "PNG", {}), ("RGBA", "PNG", {}),
        ("P", "PNG", {"transparency": 3}), ("1", "PNG", {}), ("LA", "PNG", {}), ("I;16", "PNG", {}), ("RGB", "WEBP", {}),
        ("RGBA", "WEBP", {"lossless": True}), ("P", "GIF", {}), ("P", "GIF", {"transparency": 1}), ("RGB", "BMP", {}),
        ("RGB", "TIFF", {"compression": "tiff_lzw"}), ("RGB", "PPM", {}), ("RGBA", "TGA", {}),
    ]  # fmt: skip
    frames = [color.rotate(90 * turn) for turn in range(3)]
    found = []
    for mode, format, more in options:
        file = io.BytesIO()
        (color.convert("L").convert(mode) if mode == "I;16" else color.convert(mode)).save(
            file, format, **more
        )
        found.append(file.getvalue())
    for format in ("GIF", "PNG", "WEBP", "TIFF"):
        file = io.BytesIO()
        frames[0].save(file, format, save_all=True, append_images=frames[1:])
        found.append(file.getvalue())
    return tuple(found)


def make_picture(chance: random.Random) -> bytes:
    samples = picture_samples()
    data = chance.choice(samples)
    if data.startswith(b"\x89PNG") and chance.random() < 0.6:
        return mutate_png(data, chance)
    if data.startswith(b"\xff\xd8") and chance.random() < 0.6:
        return mutate_jpeg(data, chance)
    return mutate_bytes(data, chance, samples)


def make_photograph(chance: random.Random) -> bytes:
    """As `make_picture`, and large pictures of little data."""
    if chance.random() < 0.99:
        return make_picture(chance)
    from PIL import Image

    mode, format = chance.choice(
        (("L", "BMP"), ("RGB", "TIFF"), ("RGBA", "TIFF"), ("1", "PPM"), ("P", "TIFF"))
    )
    size = chance.choice(((4000, 3000), (12_000, 500), (6000, 4000)))
    file = io.BytesIO()
    options = {"compression": "tiff_deflate"} if format == "TIFF" else {}
    Image.new(mode, size).save(file, format, **options)
    return file.getvalue()


def mutate_png(data: bytes, chance: random.Random) -> bytes:
    """Change a chunk of a PNG; its checksum is right again."""
    if chance.random() < 0.2:
        return mutate_bytes(data, chance)
    chunks, place = [], 8
    while place + 12 <= len(data):
        (size,) = struct.unpack_from(">I", data, place)
        chunks.append((data[place + 4 : place + 8], data[place + 8 : place + 8 + size]))
        place += 12 + size
    index = chance.randrange(len(chunks))
    kind, content = chunks[index]
    match chance.randrange(7):
        case 0 | 1:
            sides = chance.choice((0, 1, 5000, 65_535, 2**31 - 1)), chance.choice((1, 3000, 65_536, 2**31))
            depth = bytes(chance.choice((0, 1, 2, 3, 4, 6, 8, 16)) for _ in range(2))
            header = struct.pack(">II", *sides) if chance.random() < 0.5 else chunks[0][1][:8]
            chunks[0] = b"IHDR", header + (depth if chance.random() < 0.5 else chunks[0][1][8:10]) + bytes(3)
        case 2:
            chunks[index] = kind, mutate_bytes(content, chance)
        case 3:
            chunks[index:index] = [(kind, content)] * chance.choice((1, 2, 5000))
        case 4:
            name = chance.choice(
                (
                    b"tEXt",
                    b"zTXt",
                    b"iTXt",
                    b"iCCP",
                    b"eXIf",
                    b"acTL",
                    b"fcTL",
                    b"fdAT",
                    b"tRNS",
                    b"PLTE",
                    b"junk",
                )
            )
            text = b"a\0\0" + zlib.compress(bytes(chance.choice((0, 100, 5_000_000))), 1)
            chunks[1:1] = [(name, mutate_bytes(text, chance))] * chance.choice((1, 1, 50))
        case 5:
            packed = b"".join(body for name, body in chunks if name == b"IDAT")
            pixels = zlib.compress(
                mutate_bytes(_inflated(packed), chance) + bytes(chance.choice((0, 4_000_000))), 1
            )
            chunks = [chunk for chunk in chunks if chunk[0] != b"IDAT"]
            chunks.insert(-1, (b"IDAT", pixels))
        case 6:
            del chunks[index]
    return data[:8] + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in chunks
    )


def _inflated(data: bytes) -> bytes:
    try:
        return zlib.decompressobj().decompress(data, 1_000_000)
    except zlib.error:
        return data


def mutate_jpeg(data: bytes, chance: random.Random) -> bytes:
    """Change a segment of a JPEG: its size, its content, or how often it is there."""
    segments, place = [], 2
    while place + 4 <= len(data) and data[place] == 0xFF:
        (size,) = struct.unpack_from(">H", data, place + 2)
        end = place + 2 + size
        if data[place + 1] == 0xDA:  # a scan reaches to the next marker
            while end + 1 < len(data) and (data[end] != 0xFF or data[end + 1] in (0, *range(0xD0, 0xD8))):
                end += 1
        segments.append(data[place:end])
        place = end
    index = chance.randrange(len(segments))
    match chance.randrange(5):
        case 0:
            frame = next(i for i, part in enumerate(segments) if part[1] in (0xC0, 0xC2))
            sides = chance.choice((0, 1, 4000, 65_535)), chance.choice((1, 3000, 65_535))
            segments[frame] = segments[frame][:5] + struct.pack(">HH", *sides) + segments[frame][9:]
        case 1:
            segments[index] = segments[index][:4] + mutate_bytes(segments[index][4:], chance)
        case 2:
            body = mutate_bytes(segments[index][4:], chance)[:65_000]
            segments[index] = segments[index][:2] + struct.pack(">H", len(body) + 2) + body
        case 3:
            scans = [i for i, part in enumerate(segments) if part[1] == 0xDA]
            chosen = chance.choice(scans or [index])
            segments[chosen:chosen] = [segments[chosen]] * chance.choice((1, 10, 500))
        case 4:
            del segments[index]
    return data[:2] + b"".join(segments) + data[place:]


@contextmanager
def open_pictures(directory: Path) -> Iterator[Feed]:
    def feed(data: bytes) -> None:
        attempt(png_size, data)
        attempt(decode_png, data)
        read_uploaded_picture(data, 640)

    yield feed


@contextmanager
def open_picture_files(directory: Path) -> Iterator[Feed]:
    path = directory / "picture"

    def feed(data: bytes) -> None:
        path.write_bytes(data)
        read_picture(path)

    yield feed


@contextmanager
def open_photographs(directory: Path) -> Iterator[Feed]:
    path = directory / "picture"

    def feed(data: bytes) -> None:
        path.write_bytes(data)
        read_photograph(path, 640)

    yield feed


# --- models ---


def make_model(chance: random.Random) -> bytes:
    name = chance.choice(
        ("encoder.int8.tflite", "encoder.fp32.tflite", "encoder.int8.onnx", "encoder.fp32.onnx")
    )
    model = (MODELS / name).read_bytes()
    if chance.random() < 0.5:
        return _named(name, mutate_bytes(model, chance, [model]))
    changed = bytearray(model)
    for place in chance.sample(range(len(model)), chance.choice((1, 2, 8))):
        changed[place] = chance.choice((0, 1, 0x7F, 0x80, 0xFF, changed[place] ^ 1, chance.randrange(256)))
    return _named(name, bytes(changed))


@contextmanager
def open_models(directory: Path) -> Iterator[Feed]:
    from edge_siamese.runtimes.confined_self_test import run_self_test
    from edge_siamese.system.sandbox import Limits

    bundle = write_tiny_bundle(directory / "bundle")
    manifest = (bundle / MANIFEST).read_bytes()
    limits = Limits(processor_seconds=8, seconds=60)

    def feed(data: bytes) -> None:
        first, _, content = data.partition(b"\n")
        name = first.decode()
        _, precision, format = name.split(".")
        try:
            (bundle / name).write_bytes(content)
            _list_again(bundle, name)
            result = run_self_test(
                load_bundle(bundle), "auto" if format == "tflite" else "onnxruntime", precision, 1, limits
            )
            assert isinstance(result.report.passed, bool)
        finally:
            shutil.copyfile(MODELS / name, bundle / name)
            (bundle / MANIFEST).write_bytes(manifest)

    yield feed


TARGETS = {
    target.name: target
    for target in (
        Target("settings", 100_000, 1500, make_settings, open_settings),
        Target("manifest", 20_000, 1000, make_manifest, open_manifest),
        Target("bundle", 20_000, 500, make_bundle, open_bundle, peak_mib=150),
        Target("collection", 20_000, 300, make_archive, open_archive, peak_mib=150),
        Target("training-pictures", 20_000, 300, make_training_archive, open_training_archive, peak_mib=150),
        Target("pictures", 20_000, 400, make_picture, open_pictures, peak_mib=120),
        Target("picture-files", 20_000, 200, make_picture, open_picture_files),
        Target("photographs", 20_000, 200, make_photograph, open_photographs, peak_mib=120),
        Target("models", 2_000, 6, make_model, open_models),
        *live.TARGETS,
    )
}
"""By name."""
