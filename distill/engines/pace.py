"""How many requests one server gets at a time: found by trying, as TCP finds a line's capacity (additive increase, halving).

The limit begins at `FIRST_LIMIT` and doubles with each round of successes until the server first pushes back (HTTP 429, 503, a
timeout); from then on it grows by one a round. A push-back halves it, once for all requests that were sent before it.
"""

from __future__ import annotations

from dataclasses import dataclass

FIRST_LIMIT = 16


@dataclass(slots=True)
class Pace:
    """The state for one server. Tell it of every request's start and end; `has_room` says whether another may start."""

    max_limit: int
    limit: float = 0.0
    outstanding: int = 0
    num_started: int = 0
    num_pushed_back: int = 0
    halved_at: int = 0
    has_met_resistance: bool = False

    def __post_init__(self) -> None:
        self.limit = float(min(FIRST_LIMIT, self.max_limit))

    def has_room(self) -> bool:
        return self.outstanding < int(self.limit)

    def start(self) -> int:
        """A request goes out; its number, to be given to `succeed` or `push_back`."""
        self.outstanding += 1
        self.num_started += 1
        return self.num_started

    def end(self) -> None:
        """A request came back, with whatever."""
        self.outstanding -= 1

    def succeed(self) -> None:
        """An answer came: a whole round of them raises the limit by one, or doubles it as long as nothing ever resisted."""
        gain = 1 / self.limit if self.has_met_resistance else 1.0
        self.limit = min(float(self.max_limit), self.limit + gain)

    def push_back(self, number: int) -> None:
        """Request `number` was refused for want of capacity. Those sent before the last halving say nothing new."""
        self.num_pushed_back += 1
        self.has_met_resistance = True
        if number > self.halved_at:
            self.limit = max(1.0, self.limit / 2)
            self.halved_at = self.num_started
