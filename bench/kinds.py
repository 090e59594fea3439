"""What rows of the benchmark are made of."""

from collections.abc import Callable
from dataclasses import dataclass, field

# The ending of names of figures over IPv6.
SUFFIX = "_6"


@dataclass(frozen=True)
class Figure:
    title: str
    unit: str
    digits: int = 2
    # Titles of columns with ratios, each with the subjects that subjects are compared with; None for the usual ones.
    references: dict | None = None


@dataclass(frozen=True)
class Row:
    """One measurement, with its subjects. It gives one or several figures."""

    subjects: list
    measure: Callable
    is_quick: bool = True
    # Subjects that are measured only if --subjects names them.
    on_demand: list = field(default_factory=list)
    # The version of IP.
    version: int = 4
    # False if the row is measured only if --rows names it.
    is_usual: bool = True

    def figures(self, lab, subject, times):
        """Measures, and returns values by the names of their figures."""
        seen = self.measure(lab, subject, times, self.version)
        return seen if self.version == 4 else {f"{name}{SUFFIX}": value for name, value in seen.items()}


@dataclass(frozen=True)
class Times:
    """Seconds that one measurement takes."""

    tcp: int
    other: float
    # A rate that is held, beside a limit.
    rate: int
    # A hundred pings beside something else.
    pings: int


@dataclass(frozen=True)
class Target:
    """A ratio of two medians, or a median itself, and its bound."""

    title: str
    figure: str
    subject: str
    reference: str | None
    bound: float
    is_ceiling: bool = False
    # Another figure of the same subject. The two are compared round by round, and the median of the ratios counts:
    # measurements right after each other have the same disturbances.
    twin: str | None = None
    # True if the value may be so far from zero on either side.
    is_deviation: bool = False

    @property
    def wanted(self):
        return "within" if self.is_deviation else "at most" if self.is_ceiling else "at least"

    def is_met(self, value):
        if self.is_deviation:
            return abs(value) <= self.bound
        return value <= self.bound if self.is_ceiling else value >= self.bound
