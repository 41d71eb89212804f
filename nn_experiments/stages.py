"""The stages of a network run, and where each leaves its result."""

from __future__ import annotations

from typing import Literal

Stage = Literal["train", "path", "profile", "plane", "mean-force", "relaxation", "escape", "barrier", "all"]
#: What "all" does; the measurements after these are done when asked for by name.
ALL: tuple[Stage, ...] = ("train", "path", "profile", "plane", "mean-force", "relaxation")
STAGES: tuple[Stage, ...] = (*ALL, "escape", "barrier")
#: Stages that train networks of their own: nothing comes before them.
ALONE: tuple[Stage, ...] = ("train", "barrier")
#: The group of the dataset, and the field of the configuration, of each stage that has one.
GROUPS: dict[Stage, str] = {s: s.replace("-", "_") for s in STAGES if s != "train"}
