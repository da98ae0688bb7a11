"""Nothing grows: many jobs, many clients. The figures are printed by `tests.benchmarks.load`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.benchmarks.load import many_clients, many_jobs
from tests.tiny import write_sd1


@pytest.mark.slow
def test_two_thousand_jobs_leave_memory_and_files_flat(tmp_path: Path) -> None:
    write_sd1(tmp_path / "models/Stable-diffusion/tiny.safetensors")
    marks = many_jobs(tmp_path, 2000)
    sizes = [size for _, size, _, _ in marks]
    assert sizes[-1] < sizes[0] * 1.03
    assert marks[-1][3] <= marks[0][3] + 2  # threads
    unsaved = sum(path.is_file() for path in (tmp_path / "data/unsaved").rglob("*"))
    assert unsaved <= 500


@pytest.mark.slow
def test_fifty_switches_and_five_hundred_pictures_leave_memory_flat(tmp_path: Path) -> None:
    for name in ("tiny", "other"):
        write_sd1(tmp_path / f"models/Stable-diffusion/{name}.safetensors")
    marks = many_jobs(tmp_path, 500, ("tiny", "other"), switches=50)
    sizes = [size for _, size, _, _ in marks]
    assert sizes[-1] < sizes[0] * 1.03
    assert marks[-1][3] <= marks[0][3] + 2  # threads


@pytest.mark.slow
def test_fifty_clients_at_once_each_get_their_picture(tmp_path: Path) -> None:
    write_sd1(tmp_path / "models/Stable-diffusion/tiny.safetensors")
    assert len(many_clients(tmp_path, 50)) == 50
