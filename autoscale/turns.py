"""When those who were refused are to come back, one after the other."""

from __future__ import annotations

from dataclasses import dataclass

from autoscale.fair_queue import Flow, line_weights
from autoscale.service_class import ServiceClass

LATEST_S = 45.0  # that a turn is given ahead


@dataclass(slots=True)
class _Line:
    service_class: ServiceClass
    until_s: float  # when the last of its turns is over


class Turns:
    """Turns of refused requests, as if these were worked off one after the other from now on.

    Told the same time, they would all come back together, to be refused again. Higher priorities
    have their turns first; classes of one priority share the time by weight, tenants of a class
    equally. New requests take seats meanwhile, so who comes back may be given another turn.
    """

    def __init__(self) -> None:
        self._lines: dict[Flow, _Line] = {}

    def give(self, asker: Flow, promised: ServiceClass, work_s: float, now_s: float) -> float:
        """Seconds until a request is done that is `work_s` of everybody's whole time.

        Nobody is asked to wait longer than `LATEST_S`, and who is holds no turn.
        """
        self._lines = {who: line for who, line in self._lines.items() if line.until_s > now_s}
        own = self._lines.get(asker, _Line(promised, now_s))
        before_s = [
            line.until_s
            for line in self._lines.values()
            if line.service_class.priority > promised.priority
        ]
        peers = {asker: promised} | {
            who: line.service_class
            for who, line in self._lines.items()
            if line.service_class.priority == promised.priority
        }
        weights = line_weights(peers)
        share = weights[asker] / sum(weights.values())
        until_s = max([own.until_s, *before_s]) + work_s / share
        if until_s - now_s > LATEST_S:
            return LATEST_S
        self._lines[asker] = _Line(promised, until_s)
        return until_s - now_s
