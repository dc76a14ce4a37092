"""The image: linted, and what goes into it. `make imagecheck` builds it and runs it."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.dockerfile import Stage, read
from tests.deploy.image import allowed_in_context
from tests.deploy.sbom import write
from tests.deploy.tools import ROOT, Tools, run

DOCKERFILE = ROOT / "Dockerfile"
# What tries things out, and what names the others.
NOT_IN_THE_IMAGE = {"lab", "all"}


def pins(lock: Path) -> dict[str, tuple[str, set[str]]]:
    """Each package of a lock: its version with its marker, and its hashes."""
    found: dict[str, tuple[str, set[str]]] = {}
    name = ""
    for line in lock.read_text(encoding="utf-8").splitlines():
        if match := re.match(r"([a-z0-9][a-z0-9.-]*)==(.+?)\s*\\?$", line):
            name = match[1]
            found[name] = (match[2].strip(), set())
        elif match := re.search(r"--hash=(\S+)", line):
            found[name][1].add(match[1])
    return found


@pytest.fixture(scope="module")
def final() -> Stage:
    return read(DOCKERFILE)[1][-1]


def test_a_linter_of_dockerfiles_finds_nothing(tools: Tools) -> None:
    hadolint = [str(tools.bin / "hadolint"), "--no-color", "--failure-threshold", "warning"]
    run([*hadolint, str(DOCKERFILE)])


def test_both_stages_are_of_one_base_that_a_digest_can_pin() -> None:
    arguments, stages = read(DOCKERFILE)
    assert re.fullmatch(r"python:3\.\d+\.\d+-slim-\w+", arguments["PYTHON_IMAGE"])
    assert arguments["PYTHON_DIGEST"] == ""
    assert [stage.base for stage in stages] == ["${PYTHON_IMAGE}${PYTHON_DIGEST}"] * 2


def test_the_last_stage_gets_only_what_runs(final: Stage) -> None:
    copied = [(step.flags["from"], step.words()[0]) for step in final.all("COPY")]
    assert copied == [("build", "/opt/mcp-ops"), ("build", "/state/mcp-ops")]
    assert re.fullmatch(r"[1-9]\d+:[1-9]\d+", final.last("USER").text)
    assert final.last("ENTRYPOINT").words() == ["mcp-ops"]
    assert [step for step in final.steps if step.word == "ADD"] == []


def test_nothing_but_sources_goes_to_the_builder() -> None:
    assert allowed_in_context() == {
        "mcp_ops",
        "pyproject.toml",
        "README.md",
        "requirements-build.lock",
        "requirements-image.lock",
    }


@pytest.mark.parametrize("name", ["requirements-image.lock", "requirements-build.lock"])
def test_what_is_shipped_is_what_is_tested(name: str) -> None:
    tested, shipped = pins(ROOT / "requirements.lock"), pins(ROOT / name)
    differing = {each for each in shipped if shipped[each] != tested.get(each)}
    assert differing == set(), "make lock writes the locks again"
    assert [each for each, (_, hashes) in shipped.items() if not hashes] == []


def test_the_image_has_every_extra_but_the_lab() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"].keys() - NOT_IN_THE_IMAGE
    wanted = [*project["dependencies"]]
    wanted += [each for extra in extras for each in project["optional-dependencies"][extra]]
    names = {re.match(r"[\w.-]+", each)[0] for each in wanted}  # type: ignore[index]
    shipped = pins(ROOT / "requirements-image.lock").keys()
    assert names - {project["name"]} <= shipped, "make lock writes it again"
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8").replace("\\\n", " ")
    (line,) = (each for each in makefile.splitlines() if "requirements-image.lock" in each)
    assert set(re.findall(r"--extra ([\w-]+)", line)) == extras
    page = (ROOT / "docs" / "deploy" / "container.md").read_text(encoding="utf-8")
    assert [extra for extra in extras if f"`{extra}`" not in page] == []


def test_the_list_of_what_is_inside_names_every_package_with_its_hashes(
    tmp_path: Path,
) -> None:
    target = tmp_path / "sbom.json"
    write(target)
    listed: dict[str, Any] = json.loads(target.read_text(encoding="utf-8"))
    assert (listed["bomFormat"], listed["specVersion"]) == ("CycloneDX", "1.6")
    assert listed["metadata"]["component"]["name"] == "mcp-ops"
    found = {each["name"]: each for each in listed["components"]}
    expected = pins(ROOT / "requirements-image.lock")
    assert found.keys() == expected.keys()
    for name, (version, hashes) in expected.items():
        assert found[name]["version"] == version.split(";")[0].strip()
        assert found[name]["purl"].startswith(f"pkg:pypi/{name}@")
        distributed = [
            each for kind in found[name]["externalReferences"] for each in kind["hashes"]
        ]
        assert len(distributed) == len(hashes)
