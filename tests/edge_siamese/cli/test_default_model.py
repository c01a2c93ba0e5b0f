"""Commands without a bundle, or with its name alone: that of the settings, the current one or a shipped one."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edge_siamese.cli.main import main
from edge_siamese.models.bundle import Bundle
from edge_siamese.models.installed import InstalledModels
from tests.tiny_bundle import write_tiny_bundle

pytest.importorskip("onnxruntime")


@pytest.fixture
def config(tmp_path: Path, nothing_shipped: Path) -> Path:
    path = tmp_path / "config.toml"
    path.write_text(f'[paths]\nstate = "{tmp_path / "state"}"\n')
    return path


@pytest.fixture
def installed(tmp_path: Path, config: Path, bundle: Bundle) -> Path:
    InstalledModels(tmp_path / "state" / "models").install(bundle.path, lambda _: None)
    return config


@pytest.mark.parametrize("command", ["info", "selftest", "bench"])
def test_without_a_model_the_error_names_a_remedy(
    command: str, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command, "--config", str(config)]) == 1
    assert capsys.readouterr().err == (
        "edge-siamese: no model is installed: name a bundle, or install one: "
        "edge-siamese model install BUNDLE\n"
    )


def test_info_uses_the_current_model(installed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "--config", str(installed)]) == 0
    assert capsys.readouterr().out.startswith("model      tiny-0123456789ab\n")


def test_selftest_uses_the_current_model(installed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["selftest", "--config", str(installed), "--runtime", "onnxruntime", "--precision", "int8"]
    assert main([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["passed"] is True


def test_bench_uses_the_current_model(installed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["bench", "--config", str(installed), "--runtime", "onnxruntime", "--runs", "3", "--json"]
    assert main(words) == 0
    assert json.loads(capsys.readouterr().out)["model_id"] == "tiny-0123456789ab"
    assert main([*words, "--encoder"]) == 0
    assert json.loads(capsys.readouterr().out)["runs"] == 3


def test_the_bundle_in_the_settings_has_priority(
    installed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = write_tiny_bundle(tmp_path / "other", model_id="other")
    installed.write_text(f'[model]\nbundle = "{other}"\n{installed.read_text()}')
    assert main(["info", "--config", str(installed)]) == 0
    assert capsys.readouterr().out.startswith("model      other\n")


def test_a_named_bundle_has_priority_over_both(
    installed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    third = write_tiny_bundle(tmp_path / "third", model_id="third")
    assert main(["info", str(third), "--config", str(installed)]) == 0
    assert capsys.readouterr().out.startswith("model      third\n")


def test_invalid_settings_are_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "--config", str(tmp_path / "none.toml")]) == 1
    assert capsys.readouterr().err == f"edge-siamese: {tmp_path}/none.toml: there is no such file\n"


def test_without_a_model_the_shipped_one_is_used(
    config: Path, objects_shipped: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["info", "--config", str(config)]) == 0
    assert capsys.readouterr().out.startswith(
        "model      shipped-000000000000; objects, shipped with edge-siamese\n"
    )


def test_an_installed_model_has_priority_over_the_shipped_one(
    installed: Path, objects_shipped: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["info", "--config", str(installed)]) == 0
    assert capsys.readouterr().out.startswith("model      tiny-0123456789ab\n")


def test_every_bundle_command_accepts_a_shipped_name(
    config: Path, objects_shipped: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture, images = str(tmp_path / "a.png"), tmp_path / "images.npy"
    Image.fromarray(np.zeros((16, 16), np.uint8)).save(picture)
    np.save(images, np.zeros((1, 12, 12), np.uint8))
    common = ["--json", "--config", str(config)]
    runtime = ["--runtime", "onnxruntime"]
    commands = {
        "info": [],
        "selftest": runtime,
        "bench": ["--encoder", "--runs", "1", *runtime],
        "compare": [picture, picture, *runtime],
        "recognize": [picture, "--object", f"thing={picture}", *runtime],
        "embed": [str(images), "--out", str(tmp_path / "out.npy"), *runtime],
    }
    for name, words in commands.items():
        assert main([name, "objects", *words, *common]) == 0, name
        assert json.loads(capsys.readouterr().out)
        assert main([name, "flowers", *words, *common]) == 1, name
        assert capsys.readouterr().err == (
            "edge-siamese: no bundle at flowers: no such directory; shipped bundles: objects\n"
        )
