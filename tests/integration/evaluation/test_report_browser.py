"""The report in a real browser: it is drawn, light and dark, and asks nothing of any network."""

import json
import shutil
import subprocess
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image

from diagcot.evaluation import aggregate
from diagcot.jobs.testing import run_unit
from tests.unit.evaluation.evaluated_run import write_run
from tests.unit.evaluation.test_table import UNIT, ctx

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def shot(page, folder, *options):
    picture, log = folder / "page.png", folder / "net.json"
    command = [
        BROWSER,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--hide-scrollbars",
        f"--user-data-dir={folder}/me",
    ]
    command += [
        "--host-resolver-rules=MAP * ~NOTFOUND",
        f"--screenshot={picture}",
        f"--log-net-log={log}",
        "--window-size=1280,3000",
        *options,
        page.as_uri(),
    ]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    return np.asarray(Image.open(picture).convert("L"), dtype=float), log.read_text()


@pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine; .ci/run installs it")
def test_the_report_is_drawn_light_and_dark_and_asks_nobody(tmp_path):
    tasks = ("classification", "single", "view", "open", "fg")
    write_run(tmp_path, studies=10, size=64, questions=tasks)
    run_unit(aggregate, UNIT, ctx(tmp_path))
    page = tmp_path / "logs" / "demo" / "report.html"
    light, net = shot(page, tmp_path)
    assert light.shape == (3000, 1280) and light[:400].mean() > 200  # a light page,
    assert light.std() > 10 and len(np.unique(light)) > 50  # with something on it,
    assert light[1500:].std() > 5  # to its end
    dark, _ = shot(page, tmp_path, "--blink-settings=preferredColorScheme=0")
    assert dark[:400].mean() < 80 and dark.std() > 10
    # The browser asks its maker for things of its own, whatever it shows; the page must add nothing to that.
    blank, telling = tmp_path / "blank.html", tmp_path / "telling.html"
    blank.write_text("<p>nothing</p>")
    telling.write_text('<img src="http://films.invalid/x.png">')
    assert hosts(net) <= hosts(shot(blank, tmp_path)[1]) | hosts(shot(blank, tmp_path)[1])
    assert "films.invalid" in hosts(shot(telling, tmp_path)[1])


def hosts(log):
    events = (event.get("params") or {} for event in json.loads(log)["events"])
    found = {urlsplit(str(params.get("url", ""))) for params in events}
    return {url.hostname for url in found if url.scheme in ("http", "https", "ws", "wss")}
