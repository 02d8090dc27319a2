"""The site builds from the docstrings, with no broken reference."""

import importlib.util
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.skipif(importlib.util.find_spec("mkdocs") is None, reason="needs the extra docs")
def test_the_site_builds(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    outcome = subprocess.run(build, cwd=ROOT, capture_output=True, text=True)
    assert outcome.returncode == 0, outcome.stderr
    reference = (tmp_path / "reference" / "networks" / "index.html").read_text()
    assert "hatify.module.HATModule.explain" in reference


@pytest.mark.parametrize("package", ["analysis", "capture", "extraction", "rewriting", "serialization", "verification"])
def test_a_package_says_what_each_of_its_modules_is(package: str) -> None:
    module = importlib.import_module(f"hatify.{package}")
    listed = re.findall(r"^(\w+(?:, \w+)*) {2,}\S", str(module.__doc__), re.MULTILINE)
    named = [name for names in listed for name in names.split(", ")]
    assert sorted(named) == sorted(each.name for each in pkgutil.iter_modules(module.__path__))
