"""The workflows, forms and hooks against GitHub's schemas, the Makefile and the tools of `make lint`."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parent.parent
GITHUB = ROOT / ".github"
WORKFLOWS = sorted((GITHUB / "workflows").glob("*.yml"))
SCHEMAS = {
    "workflows/*.yml": "vendor.github-workflows",
    "ISSUE_TEMPLATE/[!c]*.yml": "vendor.github-issue-forms",
    "ISSUE_TEMPLATE/config.yml": "vendor.github-issue-config",
    "dependabot.yml": "vendor.dependabot",
}


def check_schema(schema: str, *paths: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", schema, *map(str, paths)]
    return subprocess.run(command, capture_output=True, text=True)


def workflow(name: str) -> dict[str, Any]:
    return yaml.safe_load((GITHUB / "workflows" / f"{name}.yml").read_text(encoding="utf-8"))


@pytest.mark.parametrize(("pattern", "schema"), SCHEMAS.items())
def test_files_match_the_schema_of_github(pattern: str, schema: str) -> None:
    paths = sorted(GITHUB.glob(pattern))
    assert paths
    found = check_schema(schema, *paths)
    assert found.returncode == 0, found.stdout + found.stderr


def test_the_schema_finds_a_misspelled_key(tmp_path: Path) -> None:
    text = (GITHUB / "workflows" / "tests.yml").read_text(encoding="utf-8")
    (tmp_path / "tests.yml").write_text(text.replace("timeout-minutes", "timeout-minute"))
    found = check_schema("vendor.github-workflows", tmp_path / "tests.yml")
    assert found.returncode == 1
    assert "timeout-minute" in found.stdout


def test_workflows_call_targets_of_make_that_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    called: dict[str, set[str]] = {}
    for path in WORKFLOWS:
        for job in yaml.safe_load(path.read_text(encoding="utf-8"))["jobs"].values():
            lines = [line for step in job.get("steps", ()) for line in step.get("run", "").splitlines()]
            words = [word for line in lines if line.startswith("make ") for word in line.split()[1:]]
            called.setdefault(path.stem, set()).update(word for word in words if "=" not in word)
    assert called == {
        "tests": {"lint", "docs", "test", "test-device"},
        "system-tests": {"demo", "test-system"},
        "release": {"release", "docs"},
        "update": {"update", "test"},
    }
    assert set().union(*called.values()) <= targets


def test_the_tests_cover_the_pythons_of_the_package() -> None:
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    pythons = re.findall(r'"Programming Language :: Python :: (3\.\d+)"', project)
    jobs = workflow("tests")["jobs"]
    for name in ("with-torch", "without-torch"):
        assert jobs[name]["strategy"]["matrix"]["python"] == pythons, name
    assert jobs["without-torch"]["strategy"]["matrix"]["machine"] == ["ubuntu-24.04", "ubuntu-24.04-arm"]


def test_workflows_may_only_read_unless_they_publish() -> None:
    writing = set()
    for path in WORKFLOWS:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        scopes = [content["permissions"], *(job.get("permissions", {}) for job in content["jobs"].values())]
        if "write" in [value for scope in scopes for value in scope.values()]:
            writing.add(path.stem)
        for job in content["jobs"].values():
            assert "uses" in job or job["timeout-minutes"] <= 120, path.name
    assert writing == {"release", "update"}


def test_git_works_in_the_checkout_of_a_container(tmp_path: Path) -> None:
    """In a container, GitHub's checkout has another owner than the account that runs the steps, which git refuses."""
    repository, home = tmp_path / "checkout", tmp_path / "home"
    home.mkdir()
    subprocess.run(["git", "init", "--quiet", str(repository)], check=True)
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "GITHUB_WORKSPACE": str(repository),
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_TEST_ASSUME_DIFFERENT_OWNER": "1",
    }

    def status() -> subprocess.CompletedProcess[str]:
        command = ["git", "-C", str(repository), "status"]
        return subprocess.run(command, env=environment, capture_output=True, text=True)

    assert "dubious ownership" in status().stderr
    containers = [
        job
        for path in WORKFLOWS
        for job in yaml.safe_load(path.read_text(encoding="utf-8"))["jobs"].values()
        if "container" in job
    ]
    assert containers
    for job in containers:
        (home / ".gitconfig").unlink(missing_ok=True)
        for step in job["steps"]:
            if step.get("run", "").startswith("git config"):
                subprocess.run(["sh", "-ec", step["run"]], env=environment, check=True)
        assert status().returncode == 0, status().stderr


def test_hooks_run_the_tools_that_make_lint_runs() -> None:
    (repository,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"]
    assert repository["repo"] == "local", "another repository would bring its own version of a tool"
    assert {hook["language"] for hook in repository["hooks"]} == {"system"}
    recipe = (ROOT / "Makefile").read_text(encoding="utf-8").partition("\nlint:")[2].partition("\n\n")[0]
    linted = re.findall(r"@(\.venv/bin/.*)", recipe)

    def tool(command: str) -> str:
        words = command.replace(".venv/bin/python -m ", "").replace(".venv/bin/", "").split()
        return " ".join(words[:2]) if words[0] == "ruff" else words[0]

    hooks = [tool(hook["entry"]) for hook in repository["hooks"]]
    assert hooks == [tool(line) for line in linted] == ["ruff check", "ruff format", "mypy", "lint-imports"]
