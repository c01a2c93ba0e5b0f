"""Grocery Store Dataset: 81 kinds of fruit, vegetables and packages, photographed with a phone in shops.

Klasson, Zhang, Kjellström, "A Hierarchical Grocery Store Image Dataset with Visual and Semantic Labels", WACV 2019 (MIT
license). One-shot figures require classes that the network has not seen, so this project splits the classes. Of the 52
`base` classes, whole families (yoghurts, peppers) are for validation and the others for training. The 29 `novel` classes,
with families of their own (juices, melons, pears), are for the final figures. Each class also has an `iconic` picture, as in
a shop's catalog: a support from another domain than the queries.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edge_siamese.errors import DataError
from edge_siamese.recognition.imaging import Preprocessing
from export.data.folders import prepared_pictures
from export.data.images import ImageSet, Splits
from export.data.omniglot import ROOT_VARIABLE

OFFICIAL_URL = "https://github.com/marcusklasson/GroceryStoreDataset"
ICONIC_ENDING = "_Iconic"

VALIDATION_FAMILIES = ("Pepper", "Yoghurt")
NOVEL: dict[str, str] = {
    "Anjou": "Pear", "Conference": "Pear", "Kaiser": "Pear",
    "Cantaloupe": "Melon", "Galia-Melon": "Melon", "Honeydew-Melon": "Melon", "Watermelon": "Melon",
    "Bravo-Apple-Juice": "Juice", "Bravo-Orange-Juice": "Juice", "God-Morgon-Apple-Juice": "Juice",
    "God-Morgon-Orange-Juice": "Juice", "God-Morgon-Orange-Red-Grapefruit-Juice": "Juice",
    "God-Morgon-Red-Grapefruit-Juice": "Juice", "Tropicana-Apple-Juice": "Juice",
    "Tropicana-Golden-Grapefruit": "Juice", "Tropicana-Juice-Smooth": "Juice", "Tropicana-Mandarin-Morning": "Juice",
    "Oatly-Natural-Oatghurt": "Oatghurt", "Oatly-Oat-Milk": "Oat-Milk", "Arla-Sour-Milk": "Sour-Milk",
    "Kiwi": "Kiwi", "Lime": "Lime", "Mango": "Mango", "Peach": "Peach",
    "Cabbage": "Cabbage", "Cucumber": "Cucumber", "Garlic": "Garlic", "Leek": "Leek", "Yellow-Onion": "Onion",
}  # fmt: skip
BASE: dict[str, str] = {
    "Golden-Delicious": "Apple", "Granny-Smith": "Apple", "Pink-Lady": "Apple", "Red-Delicious": "Apple",
    "Royal-Gala": "Apple", "Avocado": "Avocado", "Banana": "Banana", "Lemon": "Lemon", "Nectarine": "Nectarine",
    "Orange": "Orange", "Papaya": "Papaya", "Passion-Fruit": "Passion-Fruit", "Pineapple": "Pineapple", "Plum": "Plum",
    "Pomegranate": "Pomegranate", "Red-Grapefruit": "Red-Grapefruit", "Satsumas": "Satsumas",
    "Arla-Ecological-Medium-Fat-Milk": "Milk", "Arla-Lactose-Medium-Fat-Milk": "Milk", "Arla-Medium-Fat-Milk": "Milk",
    "Arla-Standard-Milk": "Milk", "Garant-Ecological-Medium-Fat-Milk": "Milk",
    "Garant-Ecological-Standard-Milk": "Milk", "Arla-Ecological-Sour-Cream": "Sour-Cream",
    "Arla-Sour-Cream": "Sour-Cream", "Alpro-Blueberry-Soyghurt": "Soyghurt", "Alpro-Vanilla-Soyghurt": "Soyghurt",
    "Alpro-Fresh-Soy-Milk": "Soy-Milk", "Alpro-Shelf-Soy-Milk": "Soy-Milk", "Arla-Mild-Vanilla-Yoghurt": "Yoghurt",
    "Arla-Natural-Mild-Low-Fat-Yoghurt": "Yoghurt", "Arla-Natural-Yoghurt": "Yoghurt",
    "Valio-Vanilla-Yoghurt": "Yoghurt", "Yoggi-Strawberry-Yoghurt": "Yoghurt", "Yoggi-Vanilla-Yoghurt": "Yoghurt",
    "Asparagus": "Asparagus", "Aubergine": "Aubergine", "Carrots": "Carrots", "Ginger": "Ginger",
    "Brown-Cap-Mushroom": "Mushroom", "Green-Bell-Pepper": "Pepper", "Orange-Bell-Pepper": "Pepper",
    "Red-Bell-Pepper": "Pepper", "Yellow-Bell-Pepper": "Pepper", "Floury-Potato": "Potato", "Solid-Potato": "Potato",
    "Sweet-Potato": "Potato", "Red-Beet": "Red-Beet", "Beef-Tomato": "Tomato", "Regular-Tomato": "Tomato",
    "Vine-Tomato": "Tomato", "Zucchini": "Zucchini",
}  # fmt: skip


def load_grocery(preprocessing: Preprocessing, data_root: Path | None = None) -> Splits:
    """Read the photographs, and split them by families of classes; the split is always the same.

    Args:
        preprocessing: the encoder's input.
        data_root: clone of the official repository, its folder `dataset`, or a folder with `base/CLASS/*.jpg`,
            `novel/CLASS/*.jpg` and `iconic/CLASS.jpg`. Default: `$EDGE_SIAMESE_DATA/grocery`.

    Raises:
        DataError: the folder does not exist, or a class is missing.
    """
    root = _find_root(data_root)
    pictures = _Pictures.find(root)
    held_out = {name for name, family in BASE.items() if family in VALIDATION_FAMILIES}
    parts = {
        "train": sorted(set(BASE) - held_out),
        "validation": sorted(held_out),
        "novel": sorted(NOVEL),
    }
    sets = {
        part: _image_set(f"grocery {part}", names, pictures.photographs, root, preprocessing)
        for part, names in parts.items()
    }
    return Splits(
        train=sets["train"],
        validation=sets["validation"],
        evaluation=sets["novel"],
        catalog=_image_set("grocery iconic", parts["novel"], pictures.iconic, root, preprocessing),
        provenance={
            "data": "grocery",
            "source": OFFICIAL_URL,
            "split": f"families {', '.join(VALIDATION_FAMILIES)} held out",
            "train": sets["train"].summary(),
            "validation": sets["validation"].summary(),
            "evaluation": sets["novel"].summary(),
            "evaluation_classes": list(sets["novel"].class_names),
            "warnings": [],
        },
    )


def _find_root(data_root: Path | None) -> Path:
    advice = f"clone {OFFICIAL_URL} and pass its folder with --data-root"
    if data_root is None and (chosen := os.environ.get(ROOT_VARIABLE)):
        data_root = Path(chosen).expanduser() / "grocery"
    if data_root is None:
        raise DataError(f"the grocery photographs are not downloaded automatically: {advice}")
    if not data_root.is_dir():
        raise DataError(f"there is no folder {data_root}; {advice}")
    return data_root / "dataset" if (data_root / "dataset").is_dir() else data_root


@dataclass(frozen=True)
class _Pictures:
    """Files of each class."""

    photographs: dict[str, list[Path]]
    iconic: dict[str, list[Path]]

    @classmethod
    def find(cls, root: Path) -> _Pictures:
        """Find the pictures of both layouts: the folder of a photograph is its class."""
        photographs = [p for part in ("base", "novel", "train", "val", "test") for p in _jpegs(root / part)]
        iconic = [*_jpegs(root / "iconic"), *_jpegs(root / "iconic-images-and-descriptions")]
        files = cls({}, {})
        for path in photographs:
            files.photographs.setdefault(path.parent.name, []).append(path)
        for path in iconic:
            if path.parent.name == "iconic" or path.stem.endswith(ICONIC_ENDING):
                files.iconic.setdefault(path.stem.removesuffix(ICONIC_ENDING), []).append(path)
        return files


def _jpegs(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.jpg")) if folder.is_dir() else []


def _image_set(
    name: str, classes: Iterable[str], files: dict[str, list[Path]], root: Path, preprocessing: Preprocessing
) -> ImageSet:
    classes = tuple(classes)
    if missing := [c for c in classes if c not in files]:
        raise DataError(
            f"{root} has no pictures of {missing[0]} for {name} ({len(missing)} of {len(classes)} classes are missing);"
            f" its layout must be that of {OFFICIAL_URL}"
        )
    chosen = [path for c in classes for path in files[c]]
    images, reasons = prepared_pictures(root, chosen, preprocessing)
    if bad := [reason for reason in reasons if reason]:
        raise DataError(f"{name}: {bad[0]}")
    return ImageSet(
        name=name,
        images=images,
        labels=np.repeat(np.arange(len(classes)), [len(files[c]) for c in classes]).astype(np.int64),
        class_names=classes,
        # One group: a device has to distinguish a juice from melons as well as from other juices.
        class_groups=np.zeros(len(classes), dtype=np.int64),
        group_names=("grocery",),
        drawers=np.full(len(images), -1, dtype=np.int64),
    )
