"""How long the stages of a run have taken, interruptions in between not counted."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from nn_experiments.stages import Stage


class StageTimes:
    """Seconds of each stage, kept in a file until all are done: a run that is cut into pieces adds them up.

    config: what a stage's seconds belong to; those of another configuration are forgotten.
    """

    def __init__(self, path: Path, stages: Sequence[Stage], config: Callable[[Stage], str]) -> None:
        self._path, self._config = path, config
        self.seconds: dict[Stage, float] = {}
        with contextlib.suppress(OSError, ValueError, KeyError, IndexError, TypeError):
            found = json.loads(path.read_text(encoding="utf-8"))
            self.seconds = {s: float(found[s][0]) for s in stages if s in found and found[s][1] == config(s)}

    @contextlib.contextmanager
    def of(self, stage: Stage) -> Iterator[None]:
        """Measure a stage, whether it ends or is interrupted."""
        began = time.monotonic()
        try:
            yield
        finally:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + time.monotonic() - began
            content = {s: [seconds, self._config(s)] for s, seconds in self.seconds.items()}
            with contextlib.suppress(OSError):  # the run itself is worth more than how long it took
                self._path.parent.mkdir(parents=True, exist_ok=True)
                self._path.write_text(json.dumps(content), encoding="utf-8")

    def finish(self, device: str) -> str | None:
        """The breakdown in words, None where nothing was done; the file goes."""
        self._path.unlink(missing_ok=True)
        if not self.seconds:
            return None
        each = ", ".join(f"{stage} {seconds:.0f} s" for stage, seconds in self.seconds.items())
        return f"time: {each}; together {sum(self.seconds.values()):.0f} s on {device}"
