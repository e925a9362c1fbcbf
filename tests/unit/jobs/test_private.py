"""What a run makes is closed to others, also below a folder with a default ACL, and no folder of a run breaks PYTHONPATH."""

import os
import struct
from pathlib import Path

import pytest

from diagcot.jobs import Pipeline, UserError
from diagcot.jobs.state.files import DEFAULT_ACL
from diagcot.preflight.doctor import machine
from tests import chains

NOBODY = 65534
# acl(5): owner rwx, user 65534 rwx, group r-x, mask rwx, others r-x; version 2 of the kernel's form.
ACL = struct.pack("<I", 2) + b"".join(
    struct.pack("<HHI", tag, rights, name)
    for tag, rights, name in ((1, 7, -1 & 0xFFFFFFFF), (2, 7, NOBODY), (4, 5, -1 & 0xFFFFFFFF), (16, 7, -1 & 0xFFFFFFFF),
                              (32, 5, -1 & 0xFFFFFFFF))
)  # fmt: skip


def test_a_default_acl_opens_nothing_of_a_run(tmp_path: Path) -> None:
    try:
        os.setxattr(tmp_path, DEFAULT_ACL, ACL)
    except OSError as error:
        pytest.skip(f"this file system has no ACLs ({error.strerror})")
    (tmp_path / "control").mkdir(mode=0o700)
    (tmp_path / "control" / "file").write_text("")
    assert (tmp_path / "control" / "file").stat().st_mode & 0o077  # so the umask is ignored
    flow = Pipeline(
        "run", chains.cluster("debug", roots={n: tmp_path / n for n in ("logs", "shards", "models")}), tmp_path
    )
    flow.stage("first", "tests.kinds.count", ["a"], "small")
    flow.submit()
    made = [path for name in ("logs", "shards", "models") for path in [tmp_path / name, *(tmp_path / name).rglob("*")]]
    assert len(made) > 20 and not [path for path in made if path.stat().st_mode & 0o077]
    os.setxattr(tmp_path / "logs", DEFAULT_ACL, ACL)
    (found,) = machine.outputs([tmp_path / "logs"])
    assert found.level == "note" and f"setfacl -b {tmp_path}/logs" in found.remedy


def test_a_folder_whose_name_is_not_utf8_is_told_before_anything_is_written(tmp_path: Path) -> None:
    """Records of the run, such as places.json, could not be read again."""
    with pytest.raises(UserError, match="a folder whose name is not UTF-8"):
        Pipeline("run", chains.cluster(), tmp_path / os.fsdecode(b"sur\xff"))


def test_a_folder_with_a_colon_is_told_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a:b/logs/run has ':' in its name, at which PYTHONPATH ends"):
        Pipeline("run", chains.cluster(roots={"logs": tmp_path / "a:b" / "logs"}), tmp_path)
