"""`Node`: a relay's place in a tree of relays.

Separate from what a relay does in a run: here it finds the relays below it, shares its
limits with them, and its stages and their outputs are found by name. Knows no runner.
"""

from __future__ import annotations

import weakref
from contextlib import nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from opm_engine.plan import wants_of
from opm_engine.relay import tree
from opm_engine.relay.branch import (
    FRAME,
    SEPARATOR,
    Branch,
    free_name,
    needs_whole_volumes,
    settled,
)
from opm_engine.relay.budget import Budget
from opm_engine.relay.lane import Lane
from opm_engine.relay.outlet import Outlet, Tie

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from opm_engine.relay.branch import Policy
    from opm_engine.relay.outlet import Form
    from opm_engine.relay.stats import BranchStats


class Seat(NamedTuple):
    """A branch of a relay, below which another relay is; the relay may be gone."""

    relay: weakref.ref[Node]
    branch: Branch

    def lane(self) -> Lane | None:
        """Return the branch's lane in this run, or in the last."""
        relay = self.relay()
        lanes = relay._lanes if relay is not None else ()
        return next((lane for lane in lanes if lane.branch is self.branch), None)

    def resting(self) -> AbstractContextManager[None]:
        """Return a context in which the branch's handler is not judged."""
        lane = self.lane()
        return nullcontext() if lane is None else lane.resting()


class Limits(NamedTuple):
    """What all relays of a tree have in common: the outermost one's."""

    budget: Budget
    start_timeout_s: float
    drain_timeout_s: float


class Node(tree.Fork):
    """A relay among relays.

    Parameters
    ----------
    branches : tuple of handlers and Branch
    limits : Limits
        Of the whole tree, as long as this is the outermost relay.
    """

    def __init__(self, branches: tuple[object, ...], limits: Limits) -> None:
        self._limits = limits
        self._seat: Seat | None = None
        self._lanes: tuple[Lane, ...] = ()
        self._lanes = tuple(map(self._new_lane, settled(branches)))
        self._adopt()

    @property
    def branches(self) -> tuple[Branch, ...]:
        """The branches, with their names."""
        return tuple(lane.branch for lane in self._lanes)

    @property
    def outputs(self) -> tuple[object, ...]:
        """The branches' handlers."""
        return tuple(branch.handler for branch in self.branches)

    @property
    def wants(self) -> frozenset[str]:
        """The forms in which one branch or another wants volumes."""
        return frozenset[str]().union(*map(wants_of, self.outputs))

    @property
    def whole_volumes(self) -> bool:
        """Whether planes are of no use to some branch unless all of a volume come."""
        return any(map(needs_whole_volumes, self.outputs))

    @property
    def stats(self) -> tuple[BranchStats, ...]:
        """What each branch of the tree has done in this run, or did in the last."""
        lanes = {
            id(lane.branch.handler): lane
            for relay in self._tree()
            for lane in relay._lanes
        }
        return tuple(
            replace(lane.stats, name=path, depth=path.count(SEPARATOR))
            for path, handler in tree.stages(self).items()
            if (lane := lanes.get(id(handler))) is not None
        )

    @property
    def waiting_bytes(self) -> int:
        """Bytes that wait in the whole tree, each array counted once."""
        return self._limits.budget.waiting_bytes

    @property
    def error(self) -> Exception | None:
        """First error of a lossless branch in this run, or in the last."""
        raise NotImplementedError

    def stage(self, name: str) -> Any:
        """Return the handler of a branch, here or below: ``"deskew"``.

        Parameters
        ----------
        name : str
            A path as in `stats`, like ``"deskew/writer"``, or its end if no other
            path ends so. Outputs that are no branches go by their class.

        Raises
        ------
        KeyError
            Lists the names.
        """
        return tree.pick(tree.stages(self), name)

    def add_output(self, branch: object) -> None:
        """Add a handler or `Branch`, between runs.

        Raises
        ------
        RuntimeError
            If a run goes on.
        TypeError, ValueError
            As for a new relay.
        """
        self._refuse_running()
        before = self._lanes
        *_, added = settled((*self.branches, branch))
        self._lanes = (*before, self._new_lane(added))
        try:
            self._adopt()
        except ValueError:
            self._lanes = before
            raise

    def outlet(
        self,
        stage: str = "",
        *,
        policy: Policy = "lossless",
        max_bytes: int | None = None,
        wants: Form = FRAME,
    ) -> Outlet:
        """Return an `Outlet` from which a stage's output can be read; between runs.

        Parameters
        ----------
        stage : str
            See `stage`. Empty, or "camera" if no stage is called so: what comes into
            this relay.
        policy : {"lossless", "latest"}
            Whether all can be read, or the newest.
        max_bytes : int, optional
            That may wait to be read, beside the tree's limit. By default there is no
            further limit if lossless, one item if latest.
        wants : {"frameReady", "projectionsReady"}
            The form in which volumes are wanted. Whole volumes need memory.

        Raises
        ------
        KeyError
            If there is no such stage; lists the names.
        TypeError
            If the stage hands nothing on that could be read.
        RuntimeError
            If a run goes on.
        """
        self._refuse_running()
        handlers = tree.stages(self)
        is_here = not stage or (stage == "camera" and stage not in handlers)
        source: Any = self if is_here else tree.pick(handlers, stage)
        if not callable(getattr(source, "add_output", None)):
            msg = f"{stage!r} hands nothing on: it has no add_output"
            raise TypeError(msg)
        outlet = Outlet(policy, max_bytes, wants)
        if isinstance(source, Node):
            name = free_name("outlet", {branch.name for branch in source.branches})
            source.add_output(Branch(outlet, policy, name))
        else:
            source.add_output(self._fork(Branch(outlet, policy, "outlet")))
            self._adopt()
        return outlet

    # ---- the tree ------------------------------------------------------------

    def _fork(self, branch: Branch) -> Node:
        """Return a relay with one branch."""
        raise NotImplementedError

    def _refuse_running(self) -> None:
        """Raise if a run goes on."""
        raise NotImplementedError

    def _branch_failed(self, branch: Branch, error: BaseException) -> None:
        """React to the first error of a branch."""
        raise NotImplementedError

    def _new_lane(self, branch: Branch) -> Lane:
        self._tie(branch)
        return Lane(
            branch,
            self._limits.budget,
            self._limits.drain_timeout_s,
            self._branch_failed,
            self._resting,
        )

    def _adopt(self) -> None:
        """Make relays below part of this tree, those that came since included."""
        tree.stages(self)  # refuses what is in two places
        for branch in self.branches:
            for fork in tree.nearest_forks(branch.handler):
                if isinstance(fork, Node):
                    fork._join(Seat(weakref.ref(self), branch), self._limits)

    def _join(self, seat: Seat, limits: Limits) -> None:
        """Become part of another relay's tree."""
        if self._above() not in (None, seat.relay()):
            msg = "a relay below a handler is part of another relay already"
            raise ValueError(msg)
        self._seat = seat
        if limits != self._limits:
            self._limits = limits
            self._lanes = tuple(
                lane.successor(limits.budget, limits.drain_timeout_s)
                for lane in self._lanes
            )
            for branch in self.branches:
                self._tie(branch)
        self._adopt()

    def _tie(self, branch: Branch) -> None:
        if isinstance(branch.handler, Outlet):
            seat = Seat(weakref.ref(self), branch)
            branch.handler.tie(
                Tie(
                    self._limits.budget,
                    self._error_of_tree,
                    seat.resting,
                    self._limits.drain_timeout_s,
                )
            )

    def _above(self) -> Node | None:
        return None if self._seat is None else self._seat.relay()

    def _error_of_tree(self) -> Exception | None:
        above = self._above()
        return self.error if above is None else above._error_of_tree()

    def _resting(self) -> AbstractContextManager[None]:
        return nullcontext() if self._seat is None else self._seat.resting()

    def _below(self) -> list[Node]:
        """Return the relays right below this one."""
        forks = [
            fork for handler in self.outputs for fork in tree.nearest_forks(handler)
        ]
        return [fork for fork in forks if isinstance(fork, Node)]

    def _tree(self) -> list[Node]:
        """Return this relay and all below it."""
        found: list[Node] = [self]
        for relay in found:
            found.extend(below for below in relay._below() if below not in found)
        return found

    def _tell_readers(self) -> None:
        """Let nobody wait for items of a run that was refused."""
        for relay in self._tree():
            for handler in relay.outputs:
                if isinstance(handler, Outlet):
                    handler.refused()
