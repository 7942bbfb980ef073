"""Whether what processes hold grows: the slope over the last half of a run, and what is allowed.

The slope is Theil and Sen's, the median of those between any two samples: a peak, or a step as an
allocator takes one now and then, hardly moves it, and what grows all the time does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import median
from typing import Any, NamedTuple


@dataclass(frozen=True)
class Footprint:
    """One process's at one time."""

    title: str
    rss_mib: float
    files: int
    sockets: int


class Sample(NamedTuple):
    """Of all processes by pid, `at_s` after the beginning."""

    at_s: float
    processes: dict[int, Footprint]


class Bound(NamedTuple):
    """What may be gained: so much per hour, and `noise` in all, however short the time."""

    per_h: float
    noise: float

    def most_per_h(self, hours: float) -> float:
        return self.per_h + self.noise / hours


BOUNDS = {"rss_mib": Bound(16, 4), "files": Bound(4, 2), "sockets": Bound(4, 2)}


class Course(NamedTuple):
    """Something that a process holds: at the beginning, at the end, and what was gained per hour
    over the last half, of which so much is allowed."""

    start: float
    end: float
    per_h: float
    most_per_h: float

    @property
    def grows(self) -> bool:
        return self.per_h > self.most_per_h


@dataclass(frozen=True)
class Growth:
    """What a process holds over a run, by the names of `BOUNDS`."""

    pid: int
    title: str
    courses: dict[str, Course]

    @property
    def growing(self) -> list[str]:
        """What it gains more of than is allowed."""
        return [name for name, course in self.courses.items() if course.grows]


def growth(samples: Sequence[Sample]) -> list[Growth]:
    """Of every process that was there at the end."""
    half_s = (samples[0].at_s + samples[-1].at_s) / 2
    hours = (samples[-1].at_s - half_s) / 3600
    found = []
    for pid, last in samples[-1].processes.items():
        seen = [(at_s, processes[pid]) for at_s, processes in samples if pid in processes]
        courses = {}
        for name, bound in BOUNDS.items():
            late = [(at_s, float(getattr(one, name))) for at_s, one in seen if at_s >= half_s]
            start, end = float(getattr(seen[0][1], name)), float(getattr(last, name))
            per_h = 3600 * slope_per_s(late)
            courses[name] = Course(start, end, per_h, bound.most_per_h(hours))
        found.append(Growth(pid, last.title, courses))
    return found


def slope_per_s(points: Sequence[tuple[float, float]]) -> float:
    """The median slope between two of the points (time, value), whose times rise; 0 of one."""
    slopes = [(b - a) / (then_s - at_s) for (at_s, a), (then_s, b) in combinations(points, 2)]
    return median(slopes) if slopes else 0.0


def as_markdown(found: Sequence[Growth]) -> str:
    """A table by process."""
    titles = ["process"]
    for name in BOUNDS:
        titles += [f"{name} at first", "at last", "per hour"]
    lines = [titles, ["---"] * len(titles)]
    for one in found:
        cells = [f"{one.title} ({one.pid})"]
        for course in one.courses.values():
            mark = f" (over {course.most_per_h:.0f})" if course.grows else ""
            cells += [f"{course.start:.0f}", f"{course.end:.0f}", f"{course.per_h:+.1f}{mark}"]
        lines.append(cells)
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def as_plain(found: Sequence[Growth]) -> list[dict[str, Any]]:
    """For JSON."""
    return [
        {"pid": one.pid, "title": one.title, "growing": one.growing}
        | {name: course._asdict() for name, course in one.courses.items()}
        for one in found
    ]
