"""Optimisers of a policy against a reward, a file each behind one interface, and what they share: the loop, evaluation, the
probe before it, and the state from which a killed run goes on."""

from __future__ import annotations

from collections.abc import Callable

from paradox_utils.ppo import best_of_n, ppo, rloo
from paradox_utils.ppo.loop import Outcome, Setting

# By the parameter ``optimiser``.
OPTIMISERS: dict[str, Callable[[Setting], Outcome]] = {"ppo": ppo.run, "rloo": rloo.run, "best-of-n": best_of_n.run}
