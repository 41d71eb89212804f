from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import pytest

from analysis import options
from entropy_sim.errors import UserError, require


@dataclass(frozen=True)
class Bump:
    height: float = 4.0
    """Stiffness in the middle."""


@dataclass(frozen=True)
class Power:
    exponent: float = 2.0
    """Exponent of the stiffness."""


@dataclass(frozen=True)
class Channel:
    """A channel."""

    stiffness: Bump | Power = field(default_factory=Bump)
    directions: int = 1
    """Number of transverse directions."""


@dataclass(frozen=True)
class MullerBrown:
    """Two dimensions, three minima."""


@dataclass(frozen=True)
class Thermal:
    """Of a bath."""

    temperature: float = 0.1
    """Temperature, in units of the loss."""

    def __post_init__(self) -> None:
        require(self.temperature >= 0, "temperature", "a non-negative number", self.temperature)


@dataclass(frozen=True)
class LabelNoise:
    strength: float = 1.0


@dataclass(frozen=True)
class Hot:
    noise: LabelNoise | Thermal = field(default_factory=LabelNoise)


@dataclass(frozen=True)
class Cold:
    noise: Thermal | LabelNoise = field(default_factory=Thermal)


@dataclass(frozen=True)
class Either:
    run: Hot | Cold = field(default_factory=Cold)


@dataclass(frozen=True)
class Settings:
    duration: float = 10.0


@dataclass(frozen=True)
class Measure:
    """Measure it."""

    landscape: Channel | MullerBrown = field(default_factory=Channel)
    noise: Thermal | LabelNoise = field(default_factory=Thermal)
    settings: Settings = field(default_factory=Settings)
    starts: tuple[float, ...] = (0.25, 0.75)
    """Where walkers are released."""
    scheme: Literal["first", "second"] = "first"


def parse(*arguments: str, default: Measure | None = None) -> Measure:
    return options.parse(Measure, arguments, prog="entropic simulate measure", default=default or Measure())


def test_no_options_give_the_defaults():
    assert parse() == Measure()


def test_options_of_the_default_choices_need_no_choice():
    assert parse("--noise.temperature", "0.2", "--landscape.stiffness.height", "9") == Measure(
        Channel(Bump(9.0)), Thermal(0.2)
    )


def test_choices_and_options_may_stand_in_any_order():
    expected = Measure(Channel(Power(3.0), 2), LabelNoise(0.5), Settings(2.0), (0.1, 0.2, 0.3), "second")
    arguments = ["--scheme", "second", "--noise.strength", "0.5", "landscape.stiffness:power", "noise:label-noise"]
    arguments += ["--landscape.stiffness.exponent", "3", "--landscape.directions", "2", "--settings.duration", "2"]
    assert parse(*arguments, "--starts", "0.1", "0.2", "0.3") == expected
    assert parse("landscape:muller-brown") == Measure(MullerBrown())


def test_a_loaded_configuration_gives_the_defaults():
    loaded = Measure(Channel(Power(7.0), 5), LabelNoise(2.0))
    assert parse(default=loaded) == loaded
    assert parse("--noise.strength", "3", default=loaded) == Measure(loaded.landscape, LabelNoise(3.0))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--nonsense", "1"], "entropic simulate measure: Unrecognized options: --nonsense"),
        (["--starts", "a"], "entropic simulate measure: --starts: expected numbers, found.*'a'"),
        (["--scheme", "third"], "'third' for argument '--scheme'. Expected one of"),
        (["landscape:hill"], "landscape: expected one of channel, muller-brown, found 'hill'"),
        (["nouns:hill"], "unknown choice nouns .expected one of: landscape, landscape.stiffness, noise"),
        (["--noise.temperature", "-1"], "temperature: expected a non-negative number, found -1.0"),
    ],
)
def test_a_mistake_is_one_line_naming_the_option(arguments, message):
    with pytest.raises(UserError, match=message) as caught:
        parse(*arguments)
    assert "\n" not in str(caught.value)
    assert not set("│╭╰") & set(str(caught.value))


def test_help_shows_the_options_of_every_noun(capsys):
    with pytest.raises(SystemExit) as stop:
        parse("--help")
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    for part in ("--landscape.stiffness.height", "--noise.temperature", "--starts", "Where walkers are released"):
        assert part in shown


def test_config_is_taken_out_of_the_arguments():
    assert options.split_config(["--a", "1"]) == (None, ["--a", "1"])
    path, rest = options.split_config(["--config", "x.nc", "--a", "1"])
    assert (str(path), rest) == ("x.nc", ["--a", "1"])
    assert str(options.split_config(["--config=x.nc"])[0]) == "x.nc"
    with pytest.raises(UserError, match="--config: expected a JSON or netCDF file, found nothing"):
        options.split_config(["--config"])


def test_two_choices_of_one_noun_are_refused():
    with pytest.raises(UserError, match="landscape: expected one choice, found channel, muller-brown"):
        parse("landscape:channel", "landscape:muller-brown")


def test_help_lists_every_choice_of_every_noun_and_what_is_run(capsys):
    with pytest.raises(SystemExit):
        options.parse(Measure, ["--help"], prog="entropic", default=Measure(), description="Measure it.")
    shown = capsys.readouterr().out
    for part in (
        "Measure it.",
        "landscape: channel, muller-brown",
        "landscape.stiffness: bump, power",
        "noise: thermal",
    ):
        assert part in shown
    # Not what tyro begins with: every noun in the usage, and the description of the last one's choice.
    assert shown.startswith("usage: entropic [NOUN:CHOICE …] [options]\n\nMeasure it.\n\nchoices")
    assert shown.count("Measure it.") == 1
    assert "Of a bath." not in shown[: shown.index("--help")]
    assert "noise: thermal, label-noise\n" in shown


def test_what_two_choices_share_begins_with_the_default_of_the_default():
    assert options.nouns_of(Either, Either()) == {"run": ["cold", "hot"], "run.noise": ["thermal", "label-noise"]}


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("stiffness.height: expected a number, found x", "--system.stiffness.height: expected a number, found x"),
        ("time_windows: expected one, found 0", "--time-windows: expected one, found 0"),
        ("positions[1]: expected a number, found x", "--positions[1]: expected a number, found x"),
        ("height: expected a number, found x", "height: expected a number, found x"),  # two options end so
        ("noise: expected another, found Thermal", "noise: expected another, found Thermal"),
        ("no option at all", "no option at all"),
        # What tyro says of the place comes before what the field calls itself.
        ("Error parsing all.other: stiffness.height: expected x", "--other.height: expected x"),
        ("Error parsing all: system.stiffness.height: expected x", "--system.stiffness.height: expected x"),
        ("Error parsing all.system: system.stiffness: expected x", "system.stiffness: expected x"),
        ("Error parsing all.system.stiffness: positions: expected x", "--positions: expected x"),
        ("Error parsing all.system.stiffness: values[1]: expected x", "system.stiffness.values[1]: expected x"),
    ],
)
def test_a_field_is_named_as_the_option_that_was_typed(message, expected):
    names = ["system.stiffness.height", "other.height", "time-windows", "positions"]
    assert options.in_options(message, names) == expected


@dataclass(frozen=True)
class FromFile:
    file: str


@dataclass(frozen=True)
class Shaped:
    stiffness: Bump | FromFile = field(default_factory=Bump)


def test_a_function_in_a_file_is_a_value_and_a_value_left_out_is_named():
    def parse_shaped(*arguments):
        return options.parse(Shaped, ["stiffness:from-file", *arguments], prog="entropic", default=Shaped())

    assert parse_shaped("--stiffness.file", "shape.py:soft").stiffness.file == "shape.py:soft"
    with pytest.raises(UserError, match=r"entropic: --stiffness\.file: expected a value, found nothing$"):
        parse_shaped()
