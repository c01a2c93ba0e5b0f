"""The synthetic scene's frames and sprites."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edge_siamese.cameras.synthetic.scene import Scene, demo_scene
from edge_siamese.cameras.synthetic.script import Light, Script, Show
from edge_siamese.cameras.synthetic.sprites import SYMBOLS, Sprite, drawn_sprites, sprites_of_folder
from edge_siamese.errors import CameraError
from edge_siamese.settings import CameraSettings

SETTINGS = CameraSettings(kind="synthetic", width=160, height=120)


def scene(*steps: Show | Light, color: str = "gray", seed: int = 0) -> Scene:
    return Scene(Script(steps), drawn_sprites(120), 160, 120, color, seed)  # type: ignore[arg-type]


def ink(frame: np.ndarray) -> tuple[float, float, float]:  # type: ignore[type-arg]
    """The share of dark pixels; the middle of them, from the frame's middle, x and y in pixels."""
    y, x = np.nonzero(frame < 128)
    if not len(x):
        return 0.0, 0.0, 0.0
    return len(x) / frame.size, float(x.mean()) - 79.5, float(y.mean()) - 59.5


def test_an_empty_scene_is_white_paper() -> None:
    for time in (0.0, 3.0, 13.0):
        frame = scene().frame(time)
        assert frame.shape == (120, 160) and frame.dtype == np.uint8
        assert frame.min() >= 235
        assert frame.mean() > 254


def test_frames_are_the_same_for_the_same_seed_and_time_and_others_else() -> None:
    steps = Show("anchor", 0.0, 9.0)
    assert (scene(steps).frame(2.0) == scene(steps).frame(2.0)).all()
    once = scene(steps)
    first = once.frame(2.0)
    once.frame(7.0)
    assert (once.frame(2.0) == first).all()
    assert (first != once.frame(2.1)).any()
    assert (first != scene(steps, seed=1).frame(2.0)).any()


@pytest.mark.parametrize("name", SYMBOLS)
def test_an_object_lies_in_the_middle_and_fills_two_thirds_of_the_height(name: str) -> None:
    shown = scene(Show(name, 0.0, 9.0))
    for time in (1.0, 3.0, 6.0):
        frame = shown.frame(time)
        y, x = np.nonzero(frame < 128)
        extent = max(np.ptp(x), np.ptp(y)) / 120
        assert 0.60 <= extent <= 0.78
        middle = (x.max() + x.min()) / 2 - 79.5, (y.max() + y.min()) / 2 - 59.5
        assert np.abs(middle).max() < 0.06 * 120
        assert 0.02 < (frame[:, 20:140] < 128).mean() < 0.15


def test_an_object_comes_drifts_and_leaves() -> None:
    shown = scene(Show("house", 1.0, 5.0))
    full = ink(shown.frame(3.0))[0]
    assert ink(shown.frame(0.99)) == (0.0, 0.0, 0.0)
    assert ink(shown.frame(1.01))[0] < 0.1 * full  # it is on its way, mostly outside
    coming, there = ink(shown.frame(1.2)), ink(shown.frame(1.5))
    assert abs(coming[1]) > 10 > abs(there[1])
    places = {tuple(np.round(ink(shown.frame(t))[1:], 0)) for t in np.arange(1.5, 4.5, 0.25)}
    assert 2 <= len(places) <= 12
    assert ink(shown.frame(4.99))[0] < 0.1 * full
    assert ink(shown.frame(5.0))[0] == 0.0


def test_the_hand_never_lays_an_object_down_in_quite_the_same_way() -> None:
    shown = Scene(Script((Show("key", 1.0, 4.0),), repeat_from=0.0, length=5.0), drawn_sprites(120), 160, 120)
    places = {tuple(np.round(ink(shown.frame(2.0 + 5 * n))[1:], 1)) for n in range(6)}
    assert len(places) >= 5


def test_symbols_are_clearly_different() -> None:
    small = {
        name: sprite.pixels[::4, ::4].astype(float).ravel() for name, sprite in drawn_sprites(120).items()
    }
    names = list(small)
    assert len(names) >= 8
    for number, name in enumerate(names):
        for other in names[:number]:
            assert np.corrcoef(small[name], small[other])[0, 1] < 0.5, (name, other)


def test_the_light_can_be_dimmed_and_wavers_by_itself() -> None:
    dimmed = scene(Light(0.0, 0.5))
    means = [float(dimmed.frame(t).mean()) for t in np.arange(2.0, 20.0, 1.37)]
    assert 125 < min(means) < max(means) < 150
    assert max(means) - min(means) > 3
    assert scene(Light(0.0, 0.0)).frame(5.0).max() == 0


def test_noise_changes_from_frame_to_frame_and_does_not_overflow() -> None:
    dimmed = scene(Light(0.0, 0.7), Show("anchor", 0.0, 9.0))
    first, second = dimmed.frame(3.0).astype(int), dimmed.frame(3.033).astype(int)
    paper = first > 128
    assert 1.5 < (first - second)[paper].std() < 6.0
    # Ink is near 22, paper near 190: nothing has come round the other end of a byte.
    assert first.max() < 215
    assert scene(Show("anchor", 0.0, 9.0)).frame(3.0)[30:90, 40:120].min() > 15


def test_a_color_scene_has_the_same_objects() -> None:
    gray = scene(Show("fish", 0.0, 9.0)).frame(3.0)
    color = scene(Show("fish", 0.0, 9.0), color="rgb").frame(3.0)
    assert color.shape == (120, 160, 3)
    assert ((color[..., 1] < 128) == (gray < 128)).mean() > 0.99


def test_unknown_objects_are_named() -> None:
    with pytest.raises(CameraError) as caught:
        Scene(
            Script((Show("mug", 0.0, 1.0),)), {"pen": Sprite("pen", np.zeros((8, 8), np.uint8), True)}, 64, 48
        )
    assert str(caught.value) == "the scene shows 'mug', which is not one of pen"


def test_turned_sprites_are_kept_but_not_for_ever() -> None:
    shown = Scene(Script((Show("key", 0.0, 4.9),), repeat_from=0.0, length=5.0), drawn_sprites(120), 160, 120)
    for time in np.arange(0, 200, 0.7):
        shown.frame(float(time))
    assert len(shown._cache) == 24


# --- folders of pictures


def write(path: Path, pixels: np.ndarray) -> None:  # type: ignore[type-arg]
    image = pytest.importorskip("PIL.Image")
    image.fromarray(pixels).save(path)


def a_drawing(value: int = 0) -> np.ndarray:  # type: ignore[type-arg]
    drawing = np.full((60, 60), 255, np.uint8)
    drawing[20:40, 20:40] = value
    return drawing


def test_the_pictures_of_a_folder_can_be_the_objects(tmp_path: Path) -> None:
    for number in (1, 2, 3, 10, 11, 12):
        write(tmp_path / f"{number}.png", a_drawing())
    (tmp_path / "notes.txt").write_text("no picture")
    found = sprites_of_folder(tmp_path, 120)
    assert list(found) == ["1", "2", "3", "10", "11", "12"]
    assert all(sprite.on_paper and sprite.pixels.shape == (96, 96) for sprite in found.values())
    demo = demo_scene(CameraSettings(kind="synthetic", path=str(tmp_path), width=160, height=120))
    assert list(demo.sprites) == ["1", "2", "3", "10", "11"]
    assert demo.captions[0] == (1.0, "a new object appears: the 1")
    assert 0.03 < ink(demo.frame(2.0))[0] < 0.08  # a ninth of (96 / 120)² of (120 x 120) pixels


def test_a_photo_covers_the_paper(tmp_path: Path) -> None:
    photo = np.zeros((60, 80, 3), np.uint8)
    photo[...] = (200, 100, 50)
    write(tmp_path / "mug.png", photo)
    sprites = sprites_of_folder(tmp_path, 120)
    assert not sprites["mug"].on_paper
    shown = Scene(Script((Show("mug", 0.0, 9.0),)), sprites, 160, 120, "rgb").frame(3.0)
    middle = shown[40:80, 60:100].reshape(-1, 3).mean(axis=0)
    assert np.abs(middle - (200, 100, 50)).max() < 9
    assert shown[:8].min() > 235
    gray = Scene(Script((Show("mug", 0.0, 9.0),)), sprites, 160, 120).frame(3.0)
    assert abs(gray[40:80, 60:100].mean() - 124) < 6


def test_a_folder_without_pictures_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CameraError) as caught:
        sprites_of_folder(tmp_path / "none", 120)
    assert str(caught.value) == (f"{tmp_path / 'none'}: there is no such folder; correct camera.path")
    with pytest.raises(CameraError) as caught:
        sprites_of_folder(tmp_path, 120)
    assert str(caught.value) == f"{tmp_path} contains no pictures"
    (tmp_path / "a.png").write_bytes(b"not a picture")
    with pytest.raises(CameraError) as caught:
        sprites_of_folder(tmp_path, 120)
    assert str(caught.value) == f"{tmp_path / 'a.png'} is not a picture in a format that Pillow supports"


def test_the_demo_scene_has_the_settings_size_and_color() -> None:
    assert demo_scene(SETTINGS).frame(0.0).shape == (120, 160)
    assert demo_scene(SETTINGS, "rgb").frame(1.5).shape == (120, 160, 3)
