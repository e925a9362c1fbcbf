"""What `sweep` and `study` show before they run: the command that really starts what was shown."""

import pytest

from diagcot.cli.main import main


@pytest.mark.parametrize(
    ("arguments", "command"),
    [
        (
            ["sweep", "--recipe", "cx-mind-tiny", "--over", "grpo-open.kl_coef=0,0.05", "--seeds", "7,8", "--dry"],
            "make sweep RECIPE=cx-mind-tiny OVER=grpo-open.kl_coef=0,0.05 SEEDS=7,8 CLUSTER=laptop",
        ),
        (
            ["study", "--half", "cx-mind", "--seeds", "7", "--run", "mine", "--dry"],
            "make study HALF=cx-mind SEEDS=7 CLUSTER=laptop RUN=mine",
        ),
    ],
)
def test_a_dry_run_ends_with_the_command(
    arguments: list[str], command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert main(arguments) == 0
    shown = capsys.readouterr().out
    assert f"nothing was submitted; to submit: `{command}`" in " ".join(shown.split())
