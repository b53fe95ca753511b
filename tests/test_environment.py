"""pyproject.toml, requirements.lock and environment.yml say the same."""

import importlib.metadata
import re
import sys
import tomllib
from pathlib import Path

import grimp
import pytest
import yaml
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from paradox_utils.files import ROOT

locked_environment = pytest.mark.skipif(
    Path(sys.prefix).resolve() != (ROOT / ".venv").resolve(), reason="runs in another environment than the one make installs"
)


def exact_pins(lines: list[str]) -> dict[str, Requirement]:
    """Name → requirement of a lock's lines, each of which must be ``name==version``, once."""
    pins: dict[str, Requirement] = {}
    for line in lines:
        pin = Requirement(line)
        operators = [part.operator for part in pin.specifier]
        assert operators == ["=="], f"{line}: is not an exact pin"
        assert "*" not in str(pin.specifier), f"{line}: is not an exact pin"
        name = canonicalize_name(pin.name)
        assert name not in pins, f"{line}: pinned twice"
        pins[name] = pin
    return pins


def unmet(required: list[Requirement], pins: dict[str, Requirement]) -> list[str]:
    """The requirements that no pin satisfies."""
    return [str(r) for r in required if not any(r.specifier.contains(v, prereleases=True) for v in versions(r, pins))]


def versions(required: Requirement, pins: dict[str, Requirement]) -> list[str]:
    pin = pins.get(canonicalize_name(required.name))
    return [part.version for part in pin.specifier] if pin else []


@pytest.fixture(scope="module")
def pins() -> dict[str, Requirement]:
    return exact_pins((ROOT / "requirements.lock").read_text(encoding="utf-8").split("\n")[:-1])


@pytest.fixture(scope="module")
def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_every_dependency_has_one_fitting_pin(project, pins):
    optional = project["project"]["optional-dependencies"]
    locked = [extra for name, extra in optional.items() if name not in ("adapters", "slurm")]
    needed = [*project["project"]["dependencies"], *(d for extra in locked for d in extra)]
    assert unmet([Requirement(d) for d in needed], pins) == []


def test_the_lock_can_build_the_project_itself(project, pins):
    # a fresh Python 3.12 environment has no setuptools, and the project is installed without build isolation
    assert unmet([Requirement(d) for d in project["build-system"]["requires"]], pins) == []


@pytest.mark.heavy
@locked_environment
@pytest.mark.parametrize("python", ["3.11", "3.12"])
def test_the_lock_is_closed(pins, python):
    # what a pinned package needs is pinned too, so that tomorrow's install is today's; torch's own GPU libraries excepted
    environment = default_environment() | {"python_version": python, "python_full_version": f"{python}.0", "extra": ""}
    environment["platform_system"], environment["sys_platform"], environment["os_name"] = "Linux", "linux", "posix"
    for name, pin in pins.items():
        if name == "torch" or (pin.marker and not pin.marker.evaluate(default_environment())):
            continue
        needs = [Requirement(d) for d in importlib.metadata.requires(name) or []]
        assert unmet([r for r in needs if not r.marker or r.marker.evaluate(environment)], pins) == [], f"needed by {name}"


@locked_environment
def test_the_installed_packages_are_the_locked_ones(pins):
    for name, pin in pins.items():
        if not pin.marker or pin.marker.evaluate():
            installed = Version(importlib.metadata.version(name)).public  # torch 2.13.0+cpu is torch 2.13.0
            assert versions(pin, pins) == [installed], f"{name}: run `make` again, or install requirements.lock"


def test_conda_installs_exactly_the_lock(project):
    conda = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))["dependencies"]
    python = [d for d in conda if isinstance(d, str) and d.startswith("python=")]
    assert [d for d in conda if isinstance(d, str)] == [*python, "pip"]
    assert Requirement(f"python{project['project']['requires-python']}").specifier.contains(python[0].removeprefix("python="))
    assert [d["pip"] for d in conda if isinstance(d, dict)] == [["-r requirements.lock", "-e ."]]


@pytest.mark.parametrize("path", sorted((ROOT / ".github/workflows").glob("*.yml")), ids=lambda path: path.stem)
def test_a_workflow_uses_the_tested_python_and_calls_targets_that_exist(path):
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))
    for job in yaml.safe_load(path.read_text(encoding="utf-8"))["jobs"].values():
        given = [step["with"]["python-version"] for step in job["steps"] if "setup-python" in step.get("uses", "")]
        called = re.findall(r"^make ([a-z-]+)", "\n".join(step.get("run", "") for step in job["steps"]), flags=re.MULTILINE)
        assert set(given) <= {"3.11"}
        assert set(called) <= targets
        assert called or "deploy" in str(job)


def third_party(start: str) -> set[str]:
    """Distributions that a module imports, itself and through the package."""
    graph = grimp.build_graph("paradox_utils", include_external_packages=True)
    reached = {module for one in (start, *graph.find_descendants(start)) for module in graph.find_upstream_modules(one)}
    outside = {module.partition(".")[0] for module in reached} - {"paradox_utils"} - sys.stdlib_module_names
    owners = importlib.metadata.packages_distributions()
    return {canonicalize_name(owners[module][0]) for module in outside if module in owners}


@pytest.mark.parametrize("tower", ["pages", "figures", "analysis"])
def test_a_reader_needs_no_more_than_the_extra_read(project, tower):
    listed = [*project["project"]["dependencies"], *project["project"]["optional-dependencies"]["read"]]
    allowed = {canonicalize_name(Requirement(d).name) for d in listed}
    assert third_party(f"paradox_utils.{tower}") <= allowed


def test_binder_installs_the_reader():
    lines = (ROOT / "binder" / "requirements.txt").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if line and not line.startswith("#")] == ["-e .[read]"]
    assert (ROOT / "binder" / "runtime.txt").read_text(encoding="utf-8").strip() == "python-3.11"


@pytest.mark.parametrize("lines", [["numpy>=2"], ["numpy"], ["numpy==2.*"], ["numpy==2.0", "NumPy==2.0"]])
def test_a_loose_or_double_pin_is_noticed(lines):
    with pytest.raises(AssertionError, match="pin"):
        exact_pins(lines)


def test_a_missing_or_unfitting_pin_is_noticed():
    pins = exact_pins(["numpy==1.26.4"])
    required = [Requirement("numpy>=2"), Requirement("scipy"), Requirement("NumPy>=1")]
    assert unmet(required, pins) == ["numpy>=2", "scipy"]
