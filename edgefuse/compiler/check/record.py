"""What a check found, as a record: printed as tables, written as JSON, raised by a compile."""

from __future__ import annotations

from typing import Literal, TypeAlias

from edgefuse.bundle.spec import Record, Role

About: TypeAlias = Literal["model", "data", "target", "pruning", "padding", "budget"]
"""What a finding is about."""

BAD_INPUT: tuple[About, ...] = ("model", "data")
"""What is for the user to correct, whatever the target: a compile refuses it with exit code 2."""


class Finding(Record, frozen=True, kw_only=True):
    """One thing that a user should know before a compile.

    Attributes:
        about: what it is about.
        says: it, in a sentence.
        stops: whether it stands in the way: of its target if one is named, of every target otherwise. What does not
            is to be known.
        stage: that it is about; empty if none.
        target: whose bundle alone is concerned; empty for all.
    """

    about: About
    says: str
    stops: bool = False
    stage: str = ""
    target: str = ""


class FoundStage(Record, frozen=True, kw_only=True):
    """A stage of the model.

    Attributes:
        name: of the stage.
        role: of the stage.
        modality: that it belongs to; empty for what reads several.
        parameters: numbers in its weights.
        mac: multiply-accumulates of one run at the largest shapes; None if they cannot be counted.
        crossing_bytes: what other stages read of it, per sample, at the largest shapes.
    """

    name: str
    role: Role
    modality: str = ""
    parameters: int
    mac: int | None = None
    crossing_bytes: int = 0


class LoweredStage(Record, frozen=True, kw_only=True):
    """A stage lowered in float for a target, its file opened in the target's runtime and held to torch.

    Attributes:
        target: its name.
        stage: its name.
        says: why there is no such file, in a sentence; empty if all is well.
        size_bytes: of the file; 0 if there is none.
        seconds: that lowering took, when it was done.
        run_ms: what one run of the file took here, roughly; None if it did not run.
    """

    target: str
    stage: str
    says: str = ""
    size_bytes: int = 0
    seconds: float = 0.0
    run_ms: float | None = None

    @property
    def ok(self) -> bool:
        """Whether the file can be used."""
        return not self.says


class PrunedStage(Record, frozen=True, kw_only=True):
    """A pruning that was tried on a stage, without recovery.

    Attributes:
        stage: its name.
        pruning: the id of the pruning.
        asked: whether the recipe asks for it; otherwise it shows what could be pruned.
        parameters: that are left.
        nonzero: of them.
        widths: that the first step that narrows any looks at: channels that go together, and heads.
        narrows: how many of them can be narrowed.
        stays: why the others stay as they are, in sentences.
        says: why the stage cannot be pruned so, in a sentence; empty if it can.
    """

    stage: str
    pruning: str
    asked: bool
    parameters: int = 0
    nonzero: int = 0
    widths: int = 0
    narrows: int = 0
    stays: tuple[str, ...] = ()
    says: str = ""


class Estimate(Record, frozen=True, kw_only=True):
    """How long a compile takes with an empty cache and one job at a time, and the memory that it needs: an estimate.

    Attributes:
        seconds: by what they go to.
        memory_bytes: at the peak, of the compile's process.
        candidates: the files to be made, over all targets.
    """

    seconds: dict[str, float]
    memory_bytes: int
    candidates: int

    @property
    def total_seconds(self) -> float:
        """All of it."""
        return sum(self.seconds.values())


class Check(Record, frozen=True, kw_only=True):
    """What was found about a recipe.

    Attributes:
        model: its name.
        targets: whose bundles are wanted.
        stages: in the order in which they run.
        notes: on how the model was taken apart, in words.
        lowered: what each target makes of each stage.
        pruned: what was tried.
        findings: all else that a user should know, what stands in the way first.
        samples: per split, how many samples were read, and how many there are.
        estimate: of the compile; None if nothing can be compiled, or none was asked for.
        seconds: that the check took.
    """

    model: str
    targets: tuple[str, ...]
    stages: tuple[FoundStage, ...]
    notes: tuple[str, ...] = ()
    lowered: tuple[LoweredStage, ...] = ()
    pruned: tuple[PrunedStage, ...] = ()
    findings: tuple[Finding, ...] = ()
    samples: dict[str, tuple[int, int]] = {}  # noqa: RUF012 - msgspec copies empty defaults
    estimate: Estimate | None = None
    seconds: float = 0.0

    @property
    def stopped(self) -> tuple[str, ...]:
        """The targets of which nothing can come."""
        everywhere = any(finding.stops and not finding.target for finding in self.findings)
        failed = {finding.target for finding in self.findings if finding.stops}
        return tuple(t for t in self.targets if everywhere or t in failed or failed & {*t.split("+")})

    @property
    def exit_code(self) -> int:
        """0 if a compile can go on, 2 if model or data are wrong, 1 if no target is left or a budget cannot be met."""
        if any(finding.stops and finding.about in BAD_INPUT for finding in self.findings):
            return 2
        return 1 if len(self.stopped) == len(self.targets) else 0
