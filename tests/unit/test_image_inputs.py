"""The image's inputs: the lock names no index, and the host's own packages stay out."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from compose import base_image, image

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("name", ["compose/requirements.lock", "requirements-dev.lock"])
def test_lock_files_name_no_index_and_pin_every_hash(name: str) -> None:
    text = (ROOT / name).read_text()
    assert "://" not in text
    assert "index" not in re.sub(r"#.*", "", text)
    entries = re.split(r"\n(?=[a-z])", text.strip())
    assert all("--hash=sha256:" in entry for entry in entries)


def test_the_runtime_lock_loses_host_packages_only() -> None:
    lock = "alpha==1 \\\n    --hash=sha256:00\n    # via x\nclick==8 \\\n    --hash=sha256:01\nomega==2 ; python_version < '3.12' \\\n    --hash=sha256:02\n"
    kept = image.runtime_requirements(lock)
    assert "click" not in kept
    assert "alpha==1" in kept
    assert "omega==2" in kept
    assert kept.count("--hash") == 2


def test_the_real_lock_keeps_what_controller_and_agent_import() -> None:
    kept = image.runtime_requirements(image.LOCK.read_text())
    names = {line.split("==")[0] for line in kept.splitlines() if "==" in line}
    assert {"cryptography", "grpcio", "msgspec", "protobuf", "pyyaml", "structlog"} <= names
    assert not names & image.HOST_ONLY


def test_no_registry_or_mirror_is_written_down() -> None:
    for source in (ROOT / "compose").rglob("*"):
        if source.is_file() and source.suffix in {".py", "", ".lock"}:
            assert not re.search(r"https?://", source.read_text()), source


def test_the_recipe_hash_is_stable_and_short() -> None:
    assert base_image.recipe_hash() == base_image.recipe_hash()
    assert re.fullmatch(r"[0-9a-f]{16}", base_image.recipe_hash())
