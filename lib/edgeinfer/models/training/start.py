"""Starting weights of the members that are made from the target: which tensor of the target goes where.

Experts are cut from the target's feed-forward network: the neurons that matter most go into every expert, the others
are clustered by what excites them, and the router starts at the centres. Source: sparse-upcycling, moefication.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from edgeinfer.models.training.network import Network

SHARED = 64  # neurons that every expert has


@torch.no_grad()
def start_from(network: Network, target: Network) -> None:
    """Copy the target's tensors of the same name and shape; make experts and exits out of it."""
    theirs = target.state_dict()
    mine = network.state_dict()
    mine |= {name: tensor for name, tensor in theirs.items() if name in mine and mine[name].shape == tensor.shape}
    for number in network.exits:
        mine[f"model.exit_norms.{number}.weight"] = theirs["model.norm.weight"]
    if "num_local_experts" in network.config:
        for layer in range(network.config["num_hidden_layers"]):
            mine |= split_into_experts(
                theirs, layer, network.config["num_local_experts"], network.config["intermediate_size"]
            )
    network.load_state_dict({name: tensor.clone() for name, tensor in mine.items()})


def split_into_experts(tensors: dict[str, Tensor], layer: int, count: int, inner: int) -> dict[str, Tensor]:
    """Cut one feed-forward network into `count` experts of `inner` neurons each and a router.

    Args:
        tensors: the target's, by Hugging Face name.
        layer: number of the layer.
        count: experts.
        inner: neurons of each; SHARED of them are the same everywhere.

    Returns:
        {name: tensor} of this layer's mixture.
    """
    gate, up, down = (tensors[f"model.layers.{layer}.mlp.{n}_proj.weight"] for n in ("gate", "up", "down"))
    # How much a neuron can move the result: the product of its three weight vectors' lengths.
    importance = gate.norm(dim=1) * up.norm(dim=1) * down.norm(dim=0)
    order = importance.argsort(descending=True)
    shared, others = order[:SHARED], order[SHARED : SHARED + count * (inner - SHARED)]
    groups, centres = balanced_clusters(functional.normalize(gate[others], dim=1), count)
    prefix = f"model.layers.{layer}.block_sparse_moe"
    result = {f"{prefix}.gate.weight": 2.0 * gate.norm(dim=1).mean() * centres}
    for expert in range(count):
        neurons = torch.cat((shared, others[groups[expert]]))
        # The chosen experts' weights add up to one: shared neurons count once as before, an expert's own by about half.
        scale = torch.cat((torch.ones(SHARED), torch.full((inner - SHARED,), 2.0)))
        result[f"{prefix}.experts.{expert}.w1.weight"] = gate[neurons]
        result[f"{prefix}.experts.{expert}.w3.weight"] = up[neurons]
        result[f"{prefix}.experts.{expert}.w2.weight"] = down[:, neurons] * scale
    return result


def balanced_clusters(directions: Tensor, count: int, rounds: int = 12) -> tuple[list[Tensor], Tensor]:
    """Group unit vectors (M, K) into `count` groups of equal size by k-means; return the groups and unit centres."""
    size = len(directions) // count
    generator = torch.Generator().manual_seed(0)
    centres = directions[torch.randperm(len(directions), generator=generator)[:count]]
    groups: list[Tensor] = []
    for _ in range(rounds):
        near = directions @ centres.T
        taken = torch.zeros(len(directions), dtype=torch.bool)
        room = [size] * count
        members: list[list[int]] = [[] for _ in range(count)]
        for place in near.flatten().argsort(descending=True).tolist():
            vector, group = divmod(place, count)
            if not taken[vector] and room[group]:
                taken[vector] = True
                room[group] -= 1
                members[group].append(vector)
        groups = [torch.tensor(m) for m in members]
        centres = functional.normalize(torch.stack([directions[g].mean(0) for g in groups]), dim=1)
    return groups, centres
