"""Who is sampled when. Needs no torch, so that the selftest can look at it."""

import dataclasses
import typing

from peers import rows


@dataclasses.dataclass
class Entrant:
    """A peer at one shape: how it is sampled, what was found before, and what happened since."""

    method: str
    backend: str
    found: dict = dataclasses.field(default_factory=dict)  # columns known before the first sample
    replay_ns: typing.Callable[[], float] | None = None  # one sample: nanoseconds a launch
    times_ns: list = dataclasses.field(default_factory=list)
    err: str | None = None
    keeps: tuple = ()  # what a captured graph reads and writes: it holds addresses only, and freed memory goes to other peers

    def rows(self, shape, device):
        """A row a sample, then one that says why there are no more, if that is so."""
        place = (shape, self.method, device, self.backend)
        made = [
            rows.row(*place, **self.found, sample=i, duration_ns=round(t), timer="device") for i, t in enumerate(self.times_ns)
        ]
        if self.err is not None:
            made.append(rows.row(*place, **{**self.found, "verified": False, "err": self.err}))
        return made


def order(n, turn):
    """Every other turn runs backwards and every second starts one further on, as kvbench's rounds: a drift that is linear over
    two turns hits all alike, and nobody always follows the same neighbour."""
    places = list(range(n))
    first = turn // 2 % n if n else 0
    places = places[first:] + places[:first]
    return places[::-1] if turn % 2 else places


def take_turns(entrants, turns, keep=True):
    """One sample of each peer in every turn; whoever throws takes part no more."""
    for turn in range(turns):
        for i in order(len(entrants), turn):
            entrant = entrants[i]
            if entrant.err is not None:
                continue
            try:
                taken = entrant.replay_ns()
            except Exception as error:  # whatever a peer throws belongs into its row
                entrant.err = rows.text(error)
                continue
            if keep:
                entrant.times_ns.append(taken)
