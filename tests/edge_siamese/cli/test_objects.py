"""Commands on objects, as text and as JSON, with a running daemon."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edge_siamese.cli.main import main
from edge_siamese.cli.objects import PRINTERS
from edge_siamese.errors import CameraStalled
from edge_siamese.models.bundle import Bundle
from edge_siamese.recognition.imaging import Bytes
from tests.edge_siamese.daemon.running import CUP, MUG, PEN, Daemon, daemon_in, until

pytest.importorskip("onnxruntime")

Command = Callable[..., str]


@pytest.fixture
def daemon(tmp_path: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> Iterator[Daemon]:
    with daemon_in(tmp_path, monkeypatch) as made:
        made.configure(bundle.path)
        made.start().up()
        # The daemon prints events on stdout, which the commands use here.
        made.service.call(lambda: made.service.bus.set_sinks([]))
        yield made


@pytest.fixture
def command(daemon: Daemon, capsys: pytest.CaptureFixture[str]) -> Command:
    """Run a command that has to succeed; what it prints."""

    def run(*words: str) -> str:
        capsys.readouterr()
        status = main([*words, "--config", str(daemon.config)])
        captured = capsys.readouterr()
        assert (status, captured.err) == (0, ""), captured.err
        return captured.out

    return run


@pytest.fixture
def refused(daemon: Daemon, capsys: pytest.CaptureFixture[str]) -> Command:
    """Run a command that has to fail; its line on stderr."""

    def run(*words: str) -> str:
        capsys.readouterr()
        status = main([*words, "--config", str(daemon.config)])
        captured = capsys.readouterr()
        assert (status, captured.out) == (1, "")
        assert captured.err.startswith("edge-siamese: ")
        assert captured.err.count("\n") == 1
        return captured.err[len("edge-siamese: ") : -1]

    return run


def picture(directory: Path, name: str, pixels: Bytes) -> str:
    path = directory / f"{name}.png"
    pytest.importorskip("PIL.Image").fromarray(pixels).save(path)
    return str(path)


@pytest.fixture
def mug(tmp_path: Path) -> str:
    return picture(tmp_path, "mug", MUG)


@pytest.fixture
def pen(tmp_path: Path) -> str:
    return picture(tmp_path, "pen", PEN)


class TestRegister:
    def test_register_from_the_camera(self, daemon: Daemon, capsys: pytest.CaptureFixture[str]) -> None:
        daemon.stage.picture = MUG
        until(lambda: daemon.service.engine and daemon.service.engine.frame.pixels is MUG)  # type: ignore[union-attr]
        assert main(["register", "mug", "--config", str(daemon.config)]) == 0
        assert capsys.readouterr() == ('"mug" is registered\n', "good\n")

    def test_register_prints_problems_while_it_runs(
        self, daemon: Daemon, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["register", "mug", "--config", str(daemon.config)]) == 1
        out, err = capsys.readouterr()
        first, last = err.splitlines()
        assert (out, first) == ("", "too bright: dim the light, or avoid the glare")
        assert last.startswith("edge-siamese: none of ")

    def test_register_as_json(self, daemon: Daemon, command: Command) -> None:
        daemon.stage.picture = MUG
        found = json.loads(command("register", "mug", "--json"))
        assert found["text"] == '"mug" is registered'
        assert found["object"]["uid"] == daemon.ask("objects")["objects"][0]["uid"]

    def test_register_with_pictures_views_and_force(
        self, daemon: Daemon, command: Command, refused: Command, mug: str, pen: str
    ) -> None:
        assert command("register", "mug", "--picture", mug) == '"mug" is registered\n'
        assert command("register", "mug", "--view", "--picture", pen) == '"mug" has 2 views now\n'
        assert refused("register", "cup", "--picture", mug) == (
            'it looks like "mug", which is registered: add a view to that object, or forget it first'
        )
        assert refused("register", "mug", "--picture", mug).startswith('there is already an object "mug"')
        assert refused("register", "mgu", "--view") == 'there is no object "mgu"; did you mean "mug"?'
        assert command("register", "cup", "--force", "--picture", mug) == '"cup" is registered\n'

    def test_register_reports_an_invalid_picture(self, refused: Command, tmp_path: Path) -> None:
        assert str(tmp_path / "none.png") in refused("register", "a", "--picture", str(tmp_path / "none.png"))
        (tmp_path / "text.png").write_text("no picture")
        assert str(tmp_path / "text.png") in refused("score", str(tmp_path / "text.png"))


class TestObjects:
    def test_list_without_objects(self, command: Command) -> None:
        assert command("objects") == (
            "no objects are registered; hold one in front of the camera and run: edge-siamese register NAME\n"
        )
        assert json.loads(command("objects", "--json"))["objects"] == []

    def test_list_as_a_table(self, command: Command, mug: str, pen: str) -> None:
        command("register", "mug", "--picture", mug)
        command("register", "pen", "--picture", pen)
        header, rule, first, second = command("objects").splitlines()
        assert header.split() == ["name", "views", "negatives", "registered"]
        assert set(rule) == {"-", " "}
        assert first.split()[:3] == ["mug", "1", "0"]
        assert second.split()[:3] == ["pen", "1", "0"]
        assert [item["name"] for item in json.loads(command("objects", "--json"))["objects"]] == [
            "mug",
            "pen",
        ]

    def test_views_of_an_object(self, command: Command, refused: Command, mug: str) -> None:
        command("register", "mug", "--picture", mug)
        header, _, row = command("objects", "views", "mug").splitlines()
        assert header.split() == ["view", "kind", "from", "pictures", "registered"]
        assert row.split()[:4] == ["1", "view", "picture", "1"]
        assert json.loads(command("objects", "views", "mug", "--json"))[0]["source"] == "picture"
        assert refused("objects", "views", "cup") == 'there is no object "cup"'

    def test_list_notes_views_without_an_embedding(self, daemon: Daemon, command: Command, mug: str) -> None:
        command("register", "mug", "--picture", mug)
        engine = daemon.service.engine
        assert engine is not None

        def forget_embedding() -> None:
            with engine.store._database.change() as connection:
                connection.execute("DELETE FROM embeddings")

        daemon.service.call(forget_embedding)
        assert command("objects").splitlines()[-1] == (
            "1 of them have views without an embedding of the model tiny-0123456789ab, "
            "and no picture to compute it from"
        )


class TestChanges:
    def test_rename_forget_and_undo(
        self, daemon: Daemon, command: Command, refused: Command, mug: str
    ) -> None:
        command("register", "mug", "--picture", mug)
        assert command("rename", "mug", "cup") == '"mug" is now called "cup"\n'
        assert json.loads(command("rename", "cup", "mug", "--json"))["object"]["name"] == "mug"
        assert command("forget", "mug") == '"mug" is forgotten; edge-siamese undo restores it\n'
        assert refused("forget", "mug") == 'there is no object "mug"; nothing is registered'
        assert command("undo") == 'undone: "mug" is registered again\n'
        assert json.loads(command("forget", "mug", "--json"))["object"]["views"] == 1
        assert json.loads(command("undo", "--json")) == {"text": 'undone: "mug" is registered again'}

    def test_remove_view_and_undo(self, command: Command, refused: Command, mug: str, pen: str) -> None:
        command("register", "mug", "--picture", mug)
        assert refused("objects", "remove-view", "mug", "1") == (
            'view 1 is the only view of "mug"; forget the object instead, or add a view first'
        )
        command("register", "mug", "--view", "--picture", pen)
        assert command("objects", "remove-view", "mug", "1") == (
            'view 1 of "mug" is removed; edge-siamese undo restores it\n'
        )
        assert [view["id"] for view in json.loads(command("objects", "views", "mug", "--json"))] == [2]
        assert refused("objects", "remove-view", "mug", "1") == '"mug" has no view 1; it has 2'
        assert command("undo") == 'undone: restored the removed view of "mug"\n'
        assert json.loads(command("objects", "remove-view", "mug", "2", "--json"))["object"]["last_view"] == 1

    def test_merge_and_undo(self, command: Command, refused: Command, mug: str, pen: str) -> None:
        command("register", "mug", "--picture", mug)
        command("register", "pen", "--picture", pen)
        assert refused("merge", "pen", "PEN") == ('"pen" cannot be merged with itself; name another object')
        assert refused("merge", "pen", "mugg") == 'there is no object "mugg"; did you mean "mug"?'
        assert command("merge", "pen", "mug") == (
            '"pen" is now part of "mug", which has 2 views; edge-siamese undo restores it\n'
        )
        assert command("score", pen).startswith(f"{pen}: mug (p = 0.9")
        assert command("undo") == 'undone: "pen" is a separate object again\n'
        assert command("score", pen).startswith(f"{pen}: pen (p = 0.9")
        assert json.loads(command("merge", "mug", "pen", "--json"))["object"]["name"] == "pen"

    def test_wrong(self, daemon: Daemon, command: Command, refused: Command, mug: str) -> None:
        assert refused("wrong") == "nothing was recognized recently that could be wrong"
        command("register", "mug", "--picture", mug)
        daemon.show(MUG, "mug")
        assert command("wrong", "mug") == 'that was not "mug": the view is kept as its negative number 1\n'
        command("undo")
        daemon.show(MUG, "mug")
        assert json.loads(command("wrong", "--json"))["object"]["negatives"] == 1

    def test_undo_without_changes(self, refused: Command) -> None:
        assert refused("undo") == "there is nothing to undo"


class TestScores:
    def test_score(self, command: Command, mug: str, pen: str, tmp_path: Path) -> None:
        command("register", "mug", "--picture", mug)
        cup = picture(tmp_path, "cup", CUP)
        first, second = command("score", mug, cup).splitlines()
        assert first.startswith(f"{mug}: mug (p = 0.9")
        assert second.startswith(f"{cup}: unknown (nearest: mug, p = 0.")
        found = json.loads(command("score", mug, "--json"))
        assert (found[0]["picture"], found[0]["name"], found[0]["rule"]) == (mug, "mug", "recognized")

    def test_explain(self, daemon: Daemon, command: Command, refused: Command, mug: str) -> None:
        command("register", "mug", "--picture", mug)
        text, *lines = command("explain", mug).splitlines()
        assert text.startswith("mug (p = 0.9")
        assert lines[0].startswith("  This is mug: p = 0.9")
        assert lines[-1] == "  There is no runner-up."
        daemon.show(MUG, "mug")
        assert json.loads(command("explain", "--json"))["name"] == "mug"
        daemon.stage.error = CameraStalled("it hangs")
        until(lambda: daemon.service.engine and daemon.service.engine.latest is None)
        assert refused("explain") == "there is no frame to explain: no frames: it hangs"


class TestSurroundings:
    def test_they_are_shown_and_cleared(self, daemon: Daemon, command: Command, mug: str) -> None:
        none = "the camera has seen 0 scenes without a registered object\n"
        assert command("surroundings") == none
        command("register", "mug", "--picture", mug)
        assert command("surroundings").splitlines()[-1].split(maxsplit=1) == [
            "mug",
            "this camera has seen 0 of the 30 other scenes that are needed",
        ]
        (item,) = json.loads(command("surroundings", "--json"))["objects"]
        assert (item["name"], item["further"], item["near"], item["tightened"]) == ("mug", None, False, False)
        assert command("surroundings", "clear") == "0 scenes of the surroundings forgotten\n"

    def test_objects_that_are_near_are_named(self, capsys: pytest.CaptureFixture[str]) -> None:
        item = {"further": 0.9, "near": True, "tightened": False, "text": "90.0 % is further away"}
        result = {"enabled": True, "scenes": 1, "objects": [{**item, "name": "mug"}, {**item, "name": "cup"}]}
        PRINTERS["surroundings"]("surroundings", result)
        lines = capsys.readouterr().out.splitlines()
        assert lines[0] == "the camera has seen 1 scene without a registered object"
        assert lines[-1] == "not different enough: mug, cup; add a view: edge-siamese register NAME --view"
        result["objects"][0]["tightened"] = True  # type: ignore[index]
        PRINTERS["surroundings"]("surroundings", result)
        assert capsys.readouterr().out.splitlines()[-1] == "recognized more strictly because of that: mug"
        PRINTERS["surroundings"]("surroundings", {"enabled": False})
        off = "learning of the surroundings is off: see [surroundings] in the settings\n"
        assert capsys.readouterr().out == off


class TestCollections:
    def test_export_and_import(
        self,
        daemon: Daemon,
        command: Command,
        mug: str,
        bundle: Bundle,
        tmp_path_factory: pytest.TempPathFactory,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        command("register", "mug", "--picture", mug)
        file = daemon.home / "shelf.zip"
        out = command("objects", "export", str(file))
        size = f"{file.stat().st_size:,}"
        assert out == f"wrote 1 object to {file} ({size} bytes)\n"
        told = json.loads(command("objects", "export", str(file), "--json"))
        assert told == {"objects": 1, "file": str(file), "bytes": file.stat().st_size}
        with daemon_in(tmp_path_factory.mktemp("other"), monkeypatch) as other:
            other.configure(bundle.path)
            other.start().up()
            other.service.call(lambda: other.service.bus.set_sinks([]))
            capsys.readouterr()
            words = ["objects", "import", str(file), "--config", str(other.config)]
            assert main(words) == 0
            assert capsys.readouterr().out == "imported: objects 1, views 1, negatives 0\n"
            assert main([*words, "--on-conflict", "skip", "--json"]) == 0
            assert json.loads(capsys.readouterr().out)["known"] == 1
            other.show(MUG, "mug")

    def test_import_reports_an_invalid_file(self, refused: Command, tmp_path: Path) -> None:
        assert refused("objects", "import", "/none.zip") == "/none.zip: there is no such file"
        assert refused("objects", "import", str(tmp_path)) == f"{tmp_path} cannot be read: Is a directory"
        (tmp_path / "empty.zip").touch()
        assert refused("objects", "import", str(tmp_path / "empty.zip")) == f"{tmp_path}/empty.zip is empty"
        (tmp_path / "text.zip").write_text("no collection")
        assert "zip" in refused("objects", "import", str(tmp_path / "text.zip"))

    def test_a_failed_export_keeps_the_existing_file(
        self, daemon: Daemon, refused: Command, tmp_path: Path
    ) -> None:
        file = tmp_path / "shelf.zip"
        file.write_text("what was there")
        daemon.stop()
        assert refused("objects", "export", str(file)).startswith("the daemon is not running")
        assert file.read_text() == "what was there"
