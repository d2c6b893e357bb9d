"""An artifact that failed verification: refused by profile without --force, failed in every later export."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from conftest import Run
from effbench.api.profile.request import ProfileRequest
from effbench.api.profile.select import Selection
from effbench.deploy.artifact import bundle
from effbench.profiles import devices
from effbench.schema import Artifact, Status

pytestmark = [pytest.mark.target("torch"), pytest.mark.target("ort"), pytest.mark.xdist_group("export")]
Refused = list[tuple[Status, int, str, str]]


@pytest.fixture
def failed(own: Run) -> Artifact:
    artifact = next(item for item in bundle.artifacts(own.folder / "runs") if item.subject.target == "ort")
    assert artifact.fidelity is not None
    wrong = replace(artifact.fidelity, passed=False, reasons=("max error 3 is above 0.001",))
    return bundle.annotate(artifact, fidelity=wrong)


def selected(artifact: Artifact, *names: str, force: bool = False) -> tuple[list[str], Refused]:
    home = artifact.folder.parent.parent
    request = ProfileRequest(names, targets=["ort"], force=force, out=home)
    artifacts, cells = Selection(request, home, devices.get("local"), lambda _: None).choose()
    return [item.name for item in artifacts], [(c.status, c.exit_code, c.reason, c.next_step) for c in cells]


@pytest.mark.parametrize("named", [True, False])
def test_profile_refuses_a_failed_artifact(failed: Artifact, named: bool) -> None:
    names = (failed.name,) if named else ()
    artifacts, ((status, code, reason, step),) = selected(failed, *names)
    assert (artifacts, status, code) == ([], Status.FAILED, 1)
    assert "is not the same model: max error 3 is above 0.001" in reason
    assert f"effbench profile {failed.name} --force" in step
    assert selected(failed, *names, force=True) == ([failed.name], [])


def test_a_failed_artifact_stays_failed_in_later_exports(own: Run, failed: Artifact) -> None:
    for option in ("--verify", "--no-verify"):
        done = own("export", "toy:net", "--res", "64", "-t", "ort", option)
        assert done.returncode == 1, done.stdout + done.stderr
        assert "failed (cached)" in done.stdout
        assert "ok (cached)" not in done.stdout
        assert "max error 3 is above 0.001" in done.stdout
    (cell,) = json.loads(own("export", "toy:net", "--res", "64", "-t", "ort", "--json").stdout)["data"]
    assert (cell["status"], cell["cached"]) == ("failed", True)
