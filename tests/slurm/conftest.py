import os, pytest, tempfile, shutil
from pathlib import Path


@pytest.fixture(scope="session")
def devcluster():
    pass


@pytest.fixture
def shared_path():
    d = Path(tempfile.mkdtemp(prefix="dc-", dir="/var/tmp"))
    yield d
