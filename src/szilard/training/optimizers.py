"""Which optimiser, rate and decay each parameter of an objective gets, and several optimisers in one loop.

An objective may have
    learning_rate_of(name) -> float      the largest learning rate of a parameter
    weight_decay_of(name) -> float       its weight decay
    optimizer_of(name) -> str            a key of `optimizers`; "" is the loop's own AdamW
    optimizers: {name: parameter groups -> torch.optim.Optimizer}
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn


class SeveralOptimizers(torch.optim.Optimizer):
    """Optimisers that are stepped, scheduled and checkpointed as one.

    Args:
        members: by name; each parameter is in one of them. Schedules multiply the rate of each group of each member.
    """

    def __init__(self, members: Mapping[str, torch.optim.Optimizer]) -> None:
        self.members = dict(members)
        super().__init__(
            [weight for one in self.members.values() for g in one.param_groups for weight in g["params"]], {}
        )
        self._gather()

    def _gather(self) -> None:
        # The members' own dictionaries: a rate that a schedule writes into a group is the one that its member reads.
        self.param_groups = [group for one in self.members.values() for group in one.param_groups]

    def step(self, closure: Any = None) -> Any:
        """One step of each; a closure is evaluated once, before them."""
        loss = None if closure is None else closure()
        for one in self.members.values():
            one.step()
        return loss

    def state_dict(self) -> dict[str, Any]:
        """Of each member, by its name."""
        return {name: one.state_dict() for name, one in self.members.items()}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """What `state_dict` gave."""
        for name, one in self.members.items():
            one.load_state_dict(state_dict[name])
        self._gather()


def regrouped(optimizer: torch.optim.Optimizer, learner: nn.Module, objective: nn.Module) -> torch.optim.Optimizer:
    """An optimiser whose groups are as the objective wants them, or several; the given one where it wants nothing.

    Args:
        optimizer: AdamW over all that learns, with the config's rate and decay; it has made no step yet.
        learner: the objective as the loop runs it, perhaps wrapped; its parameters are the optimiser's.
        objective: what may have the hooks above.

    Raises:
        ValueError: `optimizer_of` names one that is not in `optimizers`.
    """
    hooks = {key: getattr(objective, hook, None) for key, hook in _HOOKS.items()}
    name_of = getattr(objective, "optimizer_of", None)
    if name_of is None and not any(hooks.values()):
        return optimizer
    names = {id(parameter): plain_name(name) for name, parameter in learner.named_parameters()}
    members: dict[str, dict[Any, dict[str, Any]]] = {}
    for index, group in enumerate(optimizer.param_groups):
        for parameter in group["params"]:
            name = names[id(parameter)]
            own = {key: float(hook(name)) for key, hook in hooks.items() if hook is not None}
            groups = members.setdefault("" if name_of is None else name_of(name), {})
            place = (index, *own.values())
            groups.setdefault(place, {**group, **own, "params": []})["params"].append(parameter)
    optimizer.param_groups = list(members.pop("", {}).values())
    made = {} if not optimizer.param_groups else {"": optimizer}
    factories = getattr(objective, "optimizers", {})
    for name, groups in members.items():
        if name not in factories:
            raise ValueError(f"there is no optimiser {name!r}; the objective has {', '.join(factories) or 'none'}.")
        kept = ("params", "lr", "weight_decay")  # what every optimiser knows; the rest is AdamW's
        made[name] = factories[name]([{key: group[key] for key in kept} for group in groups.values()])
    return next(iter(made.values())) if len(made) == 1 else SeveralOptimizers(made)


_HOOKS = {"lr": "learning_rate_of", "weight_decay": "weight_decay_of"}


def plain_name(name: str) -> str:
    """A parameter's name as the objective knows it, without what wraps it."""
    return name.replace("_fsdp_wrapped_module.", "").removeprefix("module.")
