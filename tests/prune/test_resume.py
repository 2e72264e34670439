"""A recovery that was interrupted goes on, whatever happened to its checkpoint."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

import pytest
from torch import nn

from edgefuse.prune.recovery import RecoverySettings, recover
from tests.prune.students import FAST, Encoder, agreement, encoder_examples, recovered, same, seeded


@pytest.mark.parametrize("stop", ["judge", "progress"])
def test_an_interrupted_recovery_goes_on_to_the_same_bytes(
    tmp_path: Path, stop: str, caplog: pytest.LogCaptureFixture
) -> None:
    student = seeded(lambda: Encoder(8, dropout=0.2), 2)
    examples = encoder_examples()
    judge = agreement(examples)
    whole = recovered(tmp_path, student=student)
    checkpoint = tmp_path / "c.pt"
    assert not checkpoint.exists()
    judged = 0

    def interrupted_judge(module: nn.Module) -> Mapping[str, float]:
        nonlocal judged
        judged += 1
        if stop == "judge" and judged == 4:
            raise KeyboardInterrupt
        return judge(module)

    def interrupted_progress(done: int, total: int, what: str) -> None:
        if stop == "progress" and done == 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        recover(
            student,
            examples,
            interrupted_judge,
            FAST,
            role="feature",
            checkpoint=checkpoint,
            progress=interrupted_progress,
        )
    assert checkpoint.exists()

    steps: list[int] = []
    with caplog.at_level(logging.INFO):
        rest = recover(
            student,
            examples,
            judge,
            FAST,
            role="feature",
            checkpoint=checkpoint,
            progress=lambda done, total, what: steps.append(done),
        )

    assert "goes on after epoch 2" in caplog.text
    assert steps == [7, 8, 9, 10, 11, 12]
    assert rest.history == whole.history
    assert same(rest.module, whole.module)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("change", ["settings", "student"])
def test_a_foreign_checkpoint_is_ignored(tmp_path: Path, change: str, caplog: pytest.LogCaptureFixture) -> None:
    def stop(module: nn.Module, calls: list[int] = []) -> Mapping[str, float]:  # noqa: B006
        calls.append(0)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return {"image": 0.5}

    with pytest.raises(KeyboardInterrupt):
        recovered(tmp_path, judge=stop)
    settings = RecoverySettings(epochs=2, batch=32) if change == "settings" else FAST
    student = seeded(lambda: Encoder(8), 3 if change == "student" else 2)

    result = recovered(tmp_path, settings, student)

    assert "belongs to another student, data or settings" in caplog.text
    assert len(result.history) == settings.epochs + 1


@pytest.mark.parametrize("damage", ["a bit", "half"])
def test_a_damaged_checkpoint_is_told_and_recovery_begins_anew(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    whole = recovered(tmp_path)

    def stop(module: nn.Module, calls: list[int] = []) -> Mapping[str, float]:  # noqa: B006
        calls.append(0)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return agreement(encoder_examples())(module)

    with pytest.raises(KeyboardInterrupt):
        recovered(tmp_path, judge=stop)
    data = bytearray((tmp_path / "c.pt").read_bytes())
    data[len(data) // 3] ^= 1
    (tmp_path / "c.pt").write_bytes(data if damage == "a bit" else data[: len(data) // 2])

    rest = recovered(tmp_path)

    assert caplog.text.count(f"the checkpoint {tmp_path / 'c.pt'} is damaged and not used: ") == 1
    assert rest.history == whole.history
    assert same(rest.module, whole.module)
    assert list(tmp_path.iterdir()) == []


def test_where_no_checkpoint_can_be_written_recovery_goes_on_and_says_so_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = recovered(tmp_path)
    (tmp_path / "file").touch()

    result = recovered(tmp_path / "file")

    assert same(result.module, whole.module)
    (message,) = caplog.messages
    assert message == (f"image: if it is interrupted, recovery begins anew ({tmp_path / 'file' / 'c.pt'}: File exists)")
