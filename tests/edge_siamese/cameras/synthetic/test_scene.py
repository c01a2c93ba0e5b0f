"""The synthetic scene's frames and sprites."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edge_siamese.cameras.synthetic.scene import Scene, demo_scene
from edge_siamese.cameras.synthetic.script import Light, Script, Show
from edge_siamese.cameras.synthetic.sprites import (
    SYMBOLS,
    Sprite,
    TurningSprite,
    drawn_sprites,
    sprites_of_folder,
)
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


# --- turning objects


def a_cut_out(value: int) -> np.ndarray:  # type: ignore[type-arg]
    """A square of one color; the space around it is transparent, 10 pixels wide, and red if it were seen."""
    cut_out = np.zeros((60, 60, 4), np.uint8)
    cut_out[..., 0] = 255
    cut_out[10:50, 10:50] = (value, value, 40, 255)
    return cut_out


def turning(folder: Path, *names: str, views: int = 5) -> Path:
    for name in names:
        (folder / name).mkdir(parents=True)
        for number in range(views):
            write(folder / name / f"{number + 1}.png", a_cut_out(60 + 30 * (number % 5)))
    return folder


def middle_of(frame: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
    """The mean color of the middle of an object: its square has 53 rows of 120, and stands at row 98."""
    return np.asarray(frame[60:80, 70:90].reshape(400, -1).mean(axis=0))


def test_each_subfolder_is_an_object_that_turns(tmp_path: Path) -> None:
    turning(tmp_path, "1-coffee-cup", "2_pen", "10-teddy bear", "mug", "mug-2")
    write(tmp_path / "notes.png", a_drawing())
    (tmp_path / "empty").mkdir()
    found = sprites_of_folder(tmp_path, 120)
    assert list(found) == ["coffee cup", "pen", "teddy bear", "mug", "mug 2"]
    cup = found["coffee cup"]
    assert isinstance(cup, TurningSprite) and len(cup.views) == 5
    # 0.66 of 120 rows are 79; what is empty below the square is above it; 9 pixels of shadow on three sides.
    assert (cup.views[0].shape, cup.stand) == ((88, 97, 4), 79)
    rows, columns = np.nonzero(cup.views[0][..., 3] > 240)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (27, 77, 23, 73)
    assert 90 < cup.views[0][79, 48, 3] < 153 and cup.views[0][79, 48, :3].max() == 0


def test_two_objects_may_have_one_name(tmp_path: Path) -> None:
    assert list(sprites_of_folder(turning(tmp_path, "1-mug", "2-mug"), 120)) == ["mug", "2-mug"]


def test_an_object_turns_once_while_it_is_in_view(tmp_path: Path) -> None:
    sprites = sprites_of_folder(turning(tmp_path, "mug"), 120)
    shown = Scene(Script((Show("mug", 0.0, 10.0),)), sprites, 160, 120, "rgb")
    seen = [middle_of(shown.frame(time)) for time in (1.0, 3.0, 5.0, 7.0, 9.0)]
    order = [round((float(color[0]) - 60) / 30) for color in seen]
    assert order in ([0, 1, 2, 3, 4], [4, 3, 2, 1, 0])
    for number, color in zip(order, seen, strict=True):
        assert np.abs(color - (60 + 30 * number, 60 + 30 * number, 40)).max() < 8
    gray = Scene(Script((Show("mug", 0.0, 10.0),)), sprites, 160, 120)
    value = 60 + 30 * order[2]
    assert abs(float(middle_of(gray.frame(5.0))[0]) - (0.886 * value + 0.114 * 40)) < 6


def test_objects_turn_on_a_table_in_front_of_a_wall(tmp_path: Path) -> None:
    sprites = sprites_of_folder(turning(tmp_path, "mug"), 120)
    shown = Scene(Script((Show("mug", 1.0, 5.0),)), sprites, 160, 120, "rgb")
    empty, frame = shown.frame(0.5).astype(int), shown.frame(3.0).astype(int)
    wall, table = (empty[rows].reshape(-1, 3).mean(axis=0) for rows in (slice(0, 40), slice(60, 120)))
    assert np.ptp(wall) < 25 and table[0] - table[2] > 50
    assert empty.min() > 60 and empty.max() < 250
    # Transparent parts show the background, without red; the shadow darkens the table beside the object.
    assert np.abs(frame[60:95, 40:50] - empty[60:95, 40:50]).mean() < 12
    dark = shown.frame(0.5)[99:102, 70:90].mean() - shown.frame(3.0)[99:102, 70:90].mean()
    assert 20 < dark < 110
    assert np.abs(shown.frame(5.1).astype(int) - empty).mean() < 12


def test_views_are_kept_but_not_for_ever(tmp_path: Path) -> None:
    sprites = sprites_of_folder(turning(tmp_path, "a", "b", views=20), 120)
    steps = (Show("a", 0.0, 4.0), Show("b", 5.0, 9.0))
    shown = Scene(Script(steps), sprites, 160, 120, "rgb")
    for time in np.arange(0.0, 9.0, 0.1):
        shown.frame(float(time))
    assert len(shown._views) == 24


def test_a_cut_out_that_cannot_be_read(tmp_path: Path) -> None:
    turning(tmp_path, "mug")
    (tmp_path / "mug" / "3.png").write_bytes(b"not a picture")
    with pytest.raises(CameraError) as caught:
        sprites_of_folder(tmp_path, 120)
    assert (
        str(caught.value) == f"{tmp_path / 'mug' / '3.png'} is not a picture in a format that Pillow supports"
    )


def test_the_demo_registers_the_first_objects_of_a_folder(tmp_path: Path) -> None:
    turning(tmp_path, "1-cup", "2-bear", "3-pen", "4-plane", "5-cactus", "6-fan")
    demo = demo_scene(CameraSettings(kind="synthetic", path=str(tmp_path), width=160, height=120), "rgb")
    assert list(demo.sprites) == ["cup", "bear", "pen", "plane", "cactus"]
    assert demo.captions[0] == (1.4, "a new object appears: the cup")
    texts = [text for _, text in demo.captions]
    assert "an object that was never registered appears: the plane" in texts
    assert "the button is held: undo, which forgets the cactus" in texts


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
