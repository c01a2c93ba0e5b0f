"""Installed models: which one is current, fallback when one does not start, and the state after failures."""

from __future__ import annotations

import errno
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_siamese.errors import BundleNotFound, ChecksumError, ModelError, ModelsInUse, SelfTestFailed
from edge_siamese.models.bundle import Bundle
from edge_siamese.models.installed import MAX_ATTEMPTS, InstalledModels, model_directory
from edge_siamese.system.files import replace_directory, staging_directory
from tests.tiny_bundle import write_tiny_bundle


def accept(_: Bundle) -> None:
    """A device on which every model works."""


def refuse(_: Bundle) -> None:
    raise SelfTestFailed("int8 on onnxruntime: other scores")


@pytest.fixture
def models(tmp_path: Path) -> InstalledModels:
    return InstalledModels(tmp_path / "state" / "models")


@pytest.fixture
def bundles(tmp_path: Path) -> list[Path]:
    """Six bundles that differ."""
    return [write_tiny_bundle(tmp_path / f"bundle-{i}", model_id=f"tiny-{i:012d}") for i in range(6)]


def test_nothing_is_installed_at_first(models: InstalledModels) -> None:
    assert models.current() is None
    assert models.all() == []
    assert models.begin() == (None, "")
    models.confirm()
    assert not models.directory.exists()


def test_an_installed_model_is_a_copy_and_current(models: InstalledModels, bundles: list[Path]) -> None:
    model = models.install(bundles[0], accept)
    assert model.role == "current"
    assert model.name.startswith("tiny-000000000000-")
    assert models.current() == models.directory / model.name
    shutil.rmtree(bundles[0])
    assert (models.directory / model.name / "manifest.json").is_file()
    assert [path.name for path in models.directory.iterdir() if path.name.startswith(".")] == [
        ".incoming.lock"
    ]


def test_a_second_one_makes_the_first_the_previous(models: InstalledModels, bundles: list[Path]) -> None:
    first, second = (models.install(path, accept) for path in bundles[:2])
    assert [(item.name, item.role) for item in models.all()] == [
        (second.name, "current"),
        (first.name, "previous"),
    ]
    assert models.rollback().name == first.name
    assert [(item.name, item.role) for item in models.all()] == [
        (first.name, "current"),
        (second.name, "previous"),
    ]
    assert models.state().confirmed


def test_a_refusal_of_the_check_changes_nothing(models: InstalledModels, bundles: list[Path]) -> None:
    models.install(bundles[0], accept)
    before = models.state()
    with pytest.raises(SelfTestFailed, match="other scores"):
        models.install(bundles[1], refuse)
    assert models.state() == before
    assert len(models.all()) == 1


def test_what_changes_between_check_and_copy_is_not_installed(
    models: InstalledModels, bundles: list[Path]
) -> None:
    def change(bundle: Bundle) -> None:
        shutil.rmtree(bundle.path)
        shutil.copytree(bundles[1], bundle.path)

    with pytest.raises(ModelError, match="changed while it was copied: install it again"):
        models.install(bundles[0], change)
    assert models.all() == []


def test_a_damaged_bundle_is_not_installed(models: InstalledModels, bundles: list[Path]) -> None:
    path = bundles[0] / "encoder.int8.onnx"
    damaged = bytearray(path.read_bytes())
    damaged[100] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(ChecksumError):
        models.install(bundles[0], accept)
    with pytest.raises(BundleNotFound):
        models.install(bundles[0] / "nowhere", accept)
    assert models.current() is None


def test_equal_bundles_share_a_directory_and_others_do_not(bundle: Bundle, bundles: list[Path]) -> None:
    from edge_siamese.models.bundle import load_bundle

    names = {model_directory(load_bundle(path)) for path in bundles}
    assert len(names) == 6
    assert model_directory(bundle) == model_directory(bundle)


def test_installing_the_current_one_again_keeps_the_previous_one(
    models: InstalledModels, bundles: list[Path]
) -> None:
    first, second = (models.install(path, accept) for path in bundles[:2])
    models.install(bundles[1], accept)
    assert (models.state().current, models.state().previous) == (second.name, first.name)


@pytest.mark.parametrize("seconds", [86_400, -86_400, 0], ids=["ahead", "back", "still"])
def test_old_models_are_removed_but_never_current_or_previous(
    models: InstalledModels, bundles: list[Path], seconds: int
) -> None:
    names = []
    for index, path in enumerate(bundles):
        names.append(models.install(path, accept).name)
        moment = 1e9 + index * seconds  # by a clock that jumps between two installations
        os.utime(models.directory / names[-1], (moment, moment))
    assert [item.name for item in models.all()][:2] == [names[5], names[4]]
    assert {item.name for item in models.all()} == {names[5], names[4], names[3], names[2]}


def test_a_model_that_is_installed_again_counts_as_new(models: InstalledModels, bundles: list[Path]) -> None:
    names = [models.install(path, accept).name for path in bundles[:4]]
    for path in (bundles[0], bundles[4], bundles[5]):
        names.append(models.install(path, accept).name)
    assert [item.name for item in models.all()][:2] == [names[6], names[5]]
    assert {item.name for item in models.all()} == {names[6], names[5], names[0], names[3]}


def test_models_that_the_state_does_not_name_are_removed_first(
    models: InstalledModels, bundles: list[Path]
) -> None:
    first = models.install(bundles[0], accept)
    copied = models.directory / "copied"
    shutil.copytree(first.path, copied)
    names = [first.name, *(models.install(path, accept).name for path in bundles[1:4])]
    assert {item.name for item in models.all()} == set(names)


def test_a_model_on_trial_that_does_not_come_up_is_given_up(
    models: InstalledModels, bundles: list[Path]
) -> None:
    first = models.install(bundles[0], accept)
    models.confirm()
    second = models.install(bundles[1], accept)
    for _ in range(MAX_ATTEMPTS):
        assert models.begin() == (models.directory / second.name, "")
    path, told = models.begin()
    assert path == models.directory / first.name
    assert told == (
        f"{second.name} was rejected (it did not start in 3 attempts); {first.name} is current again"
    )
    assert models.state().rejected == {second.name: "it did not start in 3 attempts"}
    assert [item.problem for item in models.all()] == ["", "it did not start in 3 attempts"]


def test_a_confirmed_model_may_be_started_any_number_of_times(
    models: InstalledModels, bundles: list[Path]
) -> None:
    models.install(bundles[0], accept)
    second = models.install(bundles[1], accept)
    models.begin()
    models.confirm()
    for _ in range(3 * MAX_ATTEMPTS):
        assert models.begin() == (models.directory / second.name, "")


def test_two_models_that_fail_do_not_take_turns_for_ever(
    models: InstalledModels, bundles: list[Path]
) -> None:
    models.install(bundles[0], accept)
    models.install(bundles[1], accept)
    models.reject("broken")
    with pytest.raises(ModelError, match="there is no other: broken too"):
        models.reject("broken too")


def test_a_rejected_model_may_be_installed_again(models: InstalledModels, bundles: list[Path]) -> None:
    models.install(bundles[0], accept)
    second = models.install(bundles[1], accept)
    models.reject("no runtime")
    models.install(bundles[1], accept)
    assert models.state().current == second.name
    assert models.state().rejected == {}


@pytest.mark.usefixtures("nothing_shipped")
def test_going_back_needs_a_previous_model(models: InstalledModels, bundles: list[Path]) -> None:
    with pytest.raises(ModelError, match="no previous model; install one"):
        models.rollback()
    models.install(bundles[0], accept)
    with pytest.raises(ModelError, match="no previous model"):
        models.rollback()


def test_without_a_previous_model_rollback_returns_to_the_shipped_one(
    models: InstalledModels, bundles: list[Path], objects_shipped: Path
) -> None:
    with pytest.raises(
        ModelError, match=r"^there is no model other than objects, shipped with edge-siamese$"
    ):
        models.rollback()
    first = models.install(bundles[0], accept)
    back = models.rollback()
    assert (back.name, back.path, back.role) == ("objects", objects_shipped, "shipped")
    assert (models.current(), models.used(), models.begin()) == (None, objects_shipped, (None, ""))
    assert [(item.name, item.role) for item in models.all()] == [(first.name, "previous")]
    assert models.rollback().name == first.name
    assert models.used() == first.path
    models.rollback()
    second = models.install(bundles[1], accept)  # what it replaces is the shipped one
    assert models.rollback().role == "shipped"
    assert models.rollback().name == second.name


def test_a_previous_model_that_was_removed_is_none(
    models: InstalledModels, bundles: list[Path], objects_shipped: Path
) -> None:
    first = models.install(bundles[0], accept)
    models.install(bundles[1], accept)
    shutil.rmtree(first.path)
    assert models.rollback().path == objects_shipped


def test_an_only_model_stays_however_often_its_trial_is_cut_short(
    models: InstalledModels, bundles: list[Path], objects_shipped: Path
) -> None:
    """The plug may have been pulled; a model that crashes is replaced by the daemon's own count of starts."""
    first = models.install(bundles[0], accept)
    for _ in range(MAX_ATTEMPTS + 2):
        assert models.begin() == (first.path, "")
    assert not models.rejects_trial()


def test_results_of_self_tests_are_kept(models: InstalledModels) -> None:
    assert models.outcome("a") is None
    models.remember("a")
    models.remember("b", "it crashes")
    assert (models.outcome("a"), models.outcome("b")) == ("", "it crashes")
    for number in range(20):
        models.remember(str(number))
    assert (models.outcome("a"), models.outcome("3"), models.outcome("4")) == (None, None, "")
    (models.directory / "self_tests.json").write_text('{"4": 1}')
    assert models.outcome("4") is None
    models.remember("4")
    assert models.outcome("4") == ""


def test_a_damaged_state_is_an_error(models: InstalledModels, bundles: list[Path]) -> None:
    models.install(bundles[0], accept)
    (models.directory / "state.json").write_text('{"curent": "x"}')
    with pytest.raises(ModelError, match=r'curent: unknown key; did you mean "current"\?'):
        models.current()


def test_a_torn_installation_leaves_the_current_one(models: InstalledModels, bundles: list[Path]) -> None:
    """A process that is killed in the check leaves its copy in the staging directory; the next one clears it away."""
    first = models.install(bundles[0], accept)

    def killed(_: Bundle) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        models.install(bundles[1], killed)
    left = models.directory / ".incoming" / "tiny-left"
    left.mkdir(parents=True)
    assert models.current() == models.directory / first.name
    models.install(bundles[1], accept)
    assert not left.exists()


@pytest.fixture
def of_the_service() -> Iterator[InstalledModels]:
    """Models in a state directory that another account owns and can reach."""
    with tempfile.TemporaryDirectory() as place:
        os.chmod(place, 0o755)
        state = Path(place) / "state"
        state.mkdir()
        os.chown(state, 12345, 12346)
        yield InstalledModels(state / "models")


only_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root acts for others")


@only_root
def test_what_root_installs_belongs_to_the_owner_of_the_state_at_every_moment(
    of_the_service: InstalledModels, bundles: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    models, owners = of_the_service, set()

    def look(new: Path, place: Path) -> None:
        owners.update((path.stat().st_uid, path.stat().st_gid) for path in models.directory.rglob("*"))
        assert new in models.directory.rglob("*")
        replace_directory(new, place)

    monkeypatch.setattr("edge_siamese.models.installed.replace_directory", look)
    model = models.install(bundles[0], accept)
    for path in (models.directory, models.directory / "state.json", *(model.path.rglob("*"))):
        owners.add((path.stat().st_uid, path.stat().st_gid))
    assert owners == {(12345, 12346)}
    assert (os.geteuid(), os.getegid()) == (0, 0)


@only_root
@pytest.mark.parametrize("link", ["models", "models/.incoming", "models/.incoming.lock"])
def test_links_of_the_service_do_not_lead_root_elsewhere(
    of_the_service: InstalledModels, bundles: list[Path], link: str
) -> None:
    models = of_the_service
    precious = models.directory.parent.parent / "precious"
    precious.mkdir()
    (precious / "shadow").write_text("root's")
    place = models.directory.parent / link
    place.parent.mkdir(exist_ok=True)
    os.chown(place.parent, 12345, 12346)
    place.symlink_to(precious)
    if link == "models/.incoming":  # the link is removed, not its target
        models.install(bundles[0], accept)
    else:
        with pytest.raises(ModelError):
            models.install(bundles[0], accept)
    assert [path.name for path in precious.iterdir()] == ["shadow"]


def test_a_full_disk_is_told_as_such(
    models: InstalledModels, bundles: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    models.install(bundles[0], accept)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("edge_siamese.models.installed.write_text_atomically", full)
    with pytest.raises(ModelError, match=r"models cannot be changed: No space left on device"):
        models.confirm()


def test_a_model_that_came_while_another_failed_is_not_given_up_for_it(
    models: InstalledModels, bundles: list[Path]
) -> None:
    broken = models.install(bundles[0], accept)
    new = models.install(bundles[1], accept)
    told = models.reject("other scores", broken.path)
    assert told == f"{broken.name} does not work (other scores); {new.name} was made current meanwhile"
    assert models.current() == new.path
    assert models.state().rejected == {}


def test_the_state_is_json_for_people(models: InstalledModels, bundles: list[Path]) -> None:
    model = models.install(bundles[0], accept)
    assert json.loads((models.directory / "state.json").read_text()) == {
        "current": model.name,
        "previous": None,
        "confirmed": False,
        "attempts": 0,
        "rejected": {},
        "order": [model.name],
    }


def test_another_process_that_changes_the_models_is_waited_for_a_moment(
    models: InstalledModels, bundles: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    models.install(bundles[0], accept)
    held = staging_directory(models.directory / ".incoming")
    held.__enter__()
    waited: list[float] = []

    def let_go(seconds: float) -> None:
        waited.append(seconds)
        if len(waited) == 3:
            held.__exit__(None, None, None)

    monkeypatch.setattr("edge_siamese.models.installed.time.sleep", let_go)
    assert models.install(bundles[1], accept).role == "current"
    assert waited == [0.05] * 3


def test_another_process_that_does_not_end_is_told_of(
    models: InstalledModels, bundles: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    models.install(bundles[0], accept)
    monkeypatch.setattr("edge_siamese.models.installed.time.sleep", lambda _: None)
    with (
        staging_directory(models.directory / ".incoming"),
        pytest.raises(ModelsInUse, match="another process is changing the models in"),
    ):
        models.rollback()
