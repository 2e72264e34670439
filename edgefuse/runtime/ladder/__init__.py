"""The degradation ladder: which rung of a bundle runs now, under late answers, load, heat, little memory or battery.

    ladder = Ladder(pipeline.manifest, System())
    ...
    ladder.observe(now_s, took_s, deadline_s)       # after each prediction
    if change := ladder.decide(now_s):              # None: it stays
        pipeline = pipeline.at(change.rung)         # and what `change.without` names is left out

- `reading`: what a device says of itself at one moment, and where that comes from;
- `replay`: readings that were written down;
- `system`: readings of this device;
- `settings`: the limits, and how long it waits;
- `alarms`: which limits a reading is beyond, and for how long;
- `window`: the last predictions and their deadlines;
- `steps`: the rungs in order, and what each costs;
- `ladder`: the controller.
"""

from edgefuse.runtime.ladder.ladder import Ladder
from edgefuse.runtime.ladder.reading import Reading, Signals
from edgefuse.runtime.ladder.replay import Replay
from edgefuse.runtime.ladder.settings import Settings
from edgefuse.runtime.ladder.steps import Change, Price, Step, steps_of
from edgefuse.runtime.ladder.system import System

__all__ = ["Change", "Ladder", "Price", "Reading", "Replay", "Settings", "Signals", "Step", "System", "steps_of"]
