"""The training loop: loss, two optimizers, checkpoints that can be resumed, a JSON log. It knows no member by name.

Matrices are trained with Muon, the embedding, norms and routers with AdamW; the learning rate warms up, stays, and
falls linearly to zero. A checkpoint holds model, optimizers and step as safetensors and JSON. Source: muon, adamw.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from edgeinfer.models.training.data import Mixture
from edgeinfer.models.training.network import Network


@dataclass(frozen=True)
class Rate:
    """Peak learning rates until `until` of the budget: of the matrices (Muon) and of everything else (AdamW)."""

    until: float
    matrices: float
    others: float


@dataclass(frozen=True)
class Recipe:
    """What a run does: budget, learning rates, and the weights of the parts of its loss."""

    tokens: int
    rates: tuple[Rate, ...] = (Rate(1.0, 2e-3, 1.4e-3),)
    warmup: int = 60
    steady_until: float = 0.35
    distil: float = 0.0  # weight of the divergence from the teacher's logits
    answers: float = 1.0  # weight of the cross-entropy of the last exit
    exits: float = 0.0  # weight of the cross-entropy of each earlier exit
    auxiliary: float = 0.0  # weight of the auxiliary values: router balance, or magnitude of the gate
    weight_decay: float = 0.05


def cross_entropy(logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """Return the weighted mean of -log p(label), nats per token; logits (B, T, V), labels and weights (B, T)."""
    loss = functional.cross_entropy(logits.float().flatten(0, 1), labels.flatten(), reduction="none")
    return (loss * weights.flatten()).sum() / weights.sum()


def divergence(logits: Tensor, teacher: Tensor, weights: Tensor) -> Tensor:
    """Return the weighted mean over tokens of KL(teacher || student), nats."""
    loss = functional.kl_div(
        logits.float().log_softmax(-1), teacher.float().log_softmax(-1), reduction="none", log_target=True
    )
    return (loss.sum(-1) * weights).sum() / weights.sum()


def make_optimizers(network: nn.Module, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """Give matrices to Muon and everything else to AdamW."""
    matrices: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, parameter in network.named_parameters():
        is_matrix = parameter.dim() == 2 and "embed_tokens" not in name and not name.endswith("moe.gate.weight")
        (matrices if is_matrix else others).append(parameter)
    return [
        torch.optim.Muon(matrices, 1.0, recipe.weight_decay, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, 1.0, (0.9, 0.98), weight_decay=0.0),
    ]


def save_state(folder: Path, network: nn.Module, optimizers: list[torch.optim.Optimizer], meta: dict[str, Any]) -> None:
    """Write the checkpoint beside the old one and replace it, so that an interruption leaves a whole one."""
    tensors = {f"model/{k}": v.detach().clone() for k, v in network.state_dict().items()}
    for number, optimizer in enumerate(optimizers):
        for index, state in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer{number}/{index}/{k}": v.detach().clone() for k, v in state.items()}
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "state.new", metadata={"meta": json.dumps(meta)})
    (folder / "state.new").replace(folder / "state.safetensors")


def read_network(folder: Path, network: nn.Module) -> dict[str, Any]:
    """Put the weights of a run's last checkpoint into `network`; return the run's step, tokens, seconds and log.

    Raises:
        FileNotFoundError: "training/target/state.safetensors is missing: train the target first".
    """
    path = folder / "state.safetensors"
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing: train the {folder.name} first")
    with safe_open(path, "pt") as file:
        meta = json.loads(file.metadata()["meta"])
    network.load_state_dict({k[6:]: v for k, v in load_file(path).items() if k.startswith("model/")})
    return meta


def load_state(folder: Path, network: nn.Module, optimizers: list[torch.optim.Optimizer]) -> dict[str, Any]:
    """Put a checkpoint back, optimizers included; return its meta data ({} where there is none)."""
    if not (folder / "state.safetensors").exists():
        return {}
    meta = read_network(folder, network)
    tensors = load_file(folder / "state.safetensors")
    for number, optimizer in enumerate(optimizers):
        state: dict[int, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            head, *rest = name.split("/")
            if head == f"optimizer{number}":
                state.setdefault(int(rest[0]), {})[rest[1]] = tensor
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    return meta


class Run:
    """One training run in a folder: `advance` trains until the budget or until `max_steps` more steps are done."""

    def __init__(
        self,
        folder: Path,
        network: Network,
        mixture: Mixture,
        recipe: Recipe,
        teacher: Network | None = None,
        *,
        compiled: bool = True,
        half: bool = True,
    ) -> None:
        self.folder, self.network, self.mixture, self.recipe = folder, network, mixture, recipe
        self.teacher, self.half = teacher, half
        self.optimizers = make_optimizers(network, recipe)
        self.meta: dict[str, Any] = {"step": 0, "tokens": 0, "seconds": 0.0, "log": []}
        self.meta |= load_state(folder, network, self.optimizers)
        self._loss = torch.compile(self._plain_loss, dynamic=False) if compiled else self._plain_loss

    def _plain_loss(self, tokens: Tensor, labels: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        recipe = self.recipe
        with torch.autocast("cpu", torch.bfloat16, enabled=self.half):
            logits, auxiliary = self.network(tokens)
            *early, last = logits.values()
            answers = cross_entropy(last, labels, weights)
            loss = recipe.answers * answers + recipe.auxiliary * auxiliary.mean()
            for exit_logits in early:
                loss = loss + recipe.exits * cross_entropy(exit_logits, labels, weights)
            if self.teacher is not None:
                with torch.no_grad():
                    wanted = list(self.teacher(tokens)[0].values())[-1]
                loss = loss + recipe.distil * divergence(last, wanted, weights)
        return loss, answers

    def learning_rates(self, progress: float) -> tuple[float, float]:
        """Return the rates of matrices and others at this step and `progress` (0 to 1) of the budget."""
        peak = next((r for r in self.recipe.rates if progress < r.until), self.recipe.rates[-1])
        warm = min(1.0, (self.meta["step"] + 1) / self.recipe.warmup)
        share = warm * min(1.0, max(0.0, (1 - progress) / (1 - self.recipe.steady_until)))
        return share * peak.matrices, share * peak.others

    def advance(
        self, *, max_steps: int | None = None, save_every: float = 120.0, evaluate: Any = None
    ) -> dict[str, Any]:
        """Train on; save every `save_every` seconds and at the end.

        Args:
            max_steps: stop after so many steps of this call (None: at the budget).
            save_every: seconds between checkpoints.
            evaluate: called with the network every hundred steps; its dict goes into the log.

        Returns:
            The run's meta data: step, tokens, seconds, log.
        """
        meta, began, saved = self.meta, time.perf_counter(), time.perf_counter()
        before, done, window = meta["seconds"], 0, []
        while meta["tokens"] < self.recipe.tokens and (max_steps is None or done < max_steps):
            progress = meta["tokens"] / self.recipe.tokens
            tokens, labels, weights = self.mixture.batch(meta["step"], progress)
            loss, answers = self._loss(tokens, labels, weights)
            loss.backward()
            nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
            for optimizer, rate in zip(self.optimizers, self.learning_rates(progress), strict=True):
                for group in optimizer.param_groups:
                    group["lr"] = rate
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
            meta["step"] += 1
            meta["tokens"] += tokens.numel()
            meta["seconds"] = before + time.perf_counter() - began
            done += 1
            window.append(answers.item())
            if meta["step"] % 20 == 0:
                entry = {"step": meta["step"], "tokens": meta["tokens"], "seconds": round(meta["seconds"], 1)}
                entry["loss"] = round(sum(window) / len(window), 4)
                window = []
                if evaluate is not None and meta["step"] % 100 == 0:
                    entry |= evaluate(self.network)
                meta["log"].append(entry)
                print(json.dumps(entry), flush=True)
            if time.perf_counter() - saved > save_every:
                save_state(self.folder, self.network, self.optimizers, meta)
                saved = time.perf_counter()
        save_state(self.folder, self.network, self.optimizers, meta)
        return meta
