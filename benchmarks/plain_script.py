"""What a competent user writes in an afternoon: Optuna, timm, DataLoader, StratifiedGroupKFold.

The yardstick of `search_cost.py`. It is idiomatic and has no deliberate slowness: pretrained
weights, worker processes that decode and augment, frozen parts in eval mode and without
gradients, AdamW with warm-up and cosine, mixed precision on CUDA, median pruning. It shares the
recipe, the space, the folds and the sampler's seed with `bench`, and none of its machinery.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import optuna
import torch
import torch.nn.functional as F
from PIL import Image
from sklearn.metrics import balanced_accuracy_score
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

# How far each policy goes: roll, crop and masks as shares of the side, and masks of each kind.
POLICIES = {
    "none": None,
    "light": (0.25, 0.10, 0.05, 1),
    "medium": (0.50, 0.20, 0.10, 1),
    "strong": (0.50, 0.30, 0.15, 2),
}

# Leading modules of each network, in the five parts that can be frozen.
PARTS = {
    "resnet50": (["conv1", "bn1"], ["layer1"], ["layer2"], ["layer3"], ["layer4"]),
    "efficientnet_lite0": (
        ["conv_stem", "bn1", "blocks.0"],
        ["blocks.1"],
        ["blocks.2"],
        ["blocks.3", "blocks.4"],
        ["blocks.5", "blocks.6", "conv_head", "bn2"],
    ),
}


@dataclass(frozen=True)
class Task:
    """Pictures, folds and what all trials share."""

    files: list[Path]
    labels: np.ndarray
    crop: tuple[int, int, int, int] | None
    folds: list[np.ndarray]
    epochs: int
    image_size: int
    batch_size: int
    backbone: str
    make_network: Callable[[], nn.Module]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    device: str
    workers: int
    bf16: bool = False  # on a CPU, where most scripts train in float32


class Spectrograms(Dataset):
    def __init__(self, task: Task, indices: np.ndarray, policy: str) -> None:
        self.task, self.indices, self.policy = task, indices, policy
        self.finish = v2.Compose(
            [v2.ToDtype(torch.float32, scale=True), v2.Normalize(task.mean, task.std)]
        )

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, position: int) -> tuple[torch.Tensor, int]:
        index = self.indices[position]
        size = self.task.image_size
        image = Image.open(self.task.files[index]).convert("RGB")
        if self.task.crop:
            image = image.crop(self.task.crop)
        tensor = v2.functional.pil_to_tensor(image.resize((size, size), Image.BICUBIC))
        return self.finish(self.augment(tensor)), int(self.task.labels[index])

    def augment(self, image: torch.Tensor) -> torch.Tensor:
        strength = POLICIES[self.policy]
        if strength is None:
            return image
        roll, crop, mask, masks = strength
        size = image.shape[-1]
        image = image.roll(round(random.uniform(-roll, roll) * size), dims=2)
        kept = round(size * (1 - random.uniform(0, crop)))
        left = random.randint(0, size - kept)
        image = v2.functional.resized_crop(image, 0, left, size, kept, [size, size])
        fill = int(image.float().mean())
        for _ in range(masks):
            for dim in (1, 2):
                length = int(random.uniform(0, mask) * size)
                start = random.randint(0, size - length)
                image.narrow(dim, start, length).fill_(fill)
        return image


def freeze(network: nn.Module, backbone: str, depth: int) -> list[nn.Module]:
    frozen = [network.get_submodule(name) for part in PARTS[backbone][:depth] for name in part]
    for module in frozen:
        module.requires_grad_(False)
    return frozen


def train_fold(task: Task, recipe: dict, fold: int, seed: int, report: Callable) -> float:
    torch.manual_seed(seed)
    random.seed(seed)
    validation = task.folds[fold]
    train = np.concatenate([part for k, part in enumerate(task.folds) if k != fold])
    loader_options = {
        "num_workers": task.workers,
        "persistent_workers": task.workers > 0,
        "pin_memory": task.device == "cuda",
    }
    train_loader = DataLoader(
        Spectrograms(task, train, recipe["augmentation"]),
        task.batch_size,
        shuffle=True,
        drop_last=len(train) % task.batch_size == 1,
        **loader_options,
    )
    validation_loader = DataLoader(
        Spectrograms(task, validation, "none"), task.batch_size, **loader_options
    )
    network = task.make_network().to(task.device)
    frozen = freeze(network, task.backbone, recipe["freeze_depth"])
    head = list(network.get_classifier().parameters())
    head_ids = {id(parameter) for parameter in head}
    body = [p for p in network.parameters() if p.requires_grad and id(p) not in head_ids]
    rate = recipe["learning_rate"]
    optimizer = torch.optim.AdamW(
        [
            {"params": body, "lr": rate},
            {"params": head, "lr": rate * recipe["head_lr_factor"]},
        ],
        weight_decay=recipe["weight_decay"],
    )
    steps = task.epochs * len(train_loader)
    warmup = max(1, steps // 10)
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: (
            (step + 1) / warmup
            if step < warmup
            else 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))
        ),
    )
    loss_of = nn.CrossEntropyLoss(label_smoothing=recipe["label_smoothing"])
    half = task.bf16 or task.device == "cuda"
    autocast = torch.autocast(task.device, torch.bfloat16, enabled=half)
    score = 0.0
    for epoch in range(task.epochs):
        network.train()
        for module in frozen:
            module.eval()
        if recipe["batch_norm"] == "frozen":
            for module in network.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()
        for images, labels in train_loader:
            images, labels = images.to(task.device), labels.to(task.device)
            share, partner = 1.0, torch.arange(len(labels), device=task.device)
            if recipe["mixup"] > 0:
                share = float(np.random.beta(recipe["mixup"], recipe["mixup"]))
                partner = torch.randperm(len(labels), device=task.device)
                images = share * images + (1 - share) * images[partner]
            with autocast:
                logits = network(images)
                loss = share * loss_of(logits, labels)
                loss = loss + (1 - share) * loss_of(logits, labels[partner])
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_([p for p in network.parameters() if p.requires_grad], 1.0)
            optimizer.step()
            scheduler.step()
        network.eval()
        predicted = []
        with torch.no_grad(), autocast:
            for images, _ in validation_loader:
                logits = network(images.to(task.device)).float()
                predicted.append(F.softmax(logits, dim=1).argmax(dim=1).cpu())
        score = balanced_accuracy_score(task.labels[validation], torch.cat(predicted).numpy())
        report(fold, epoch, score)
    return float(score)


def run_trial(task: Task, recipe: dict, seed: int, report: Callable | None = None) -> float:
    """Cross-validate one recipe; return the mean balanced accuracy of the last epochs."""
    ignore = lambda fold, epoch, score: None  # noqa: E731
    scores = [
        train_fold(task, recipe, fold, seed + fold, report or ignore)
        for fold in range(len(task.folds))
    ]
    return float(np.mean(scores))


def search(
    task: Task,
    distributions: dict,
    first: list[dict],
    trials: int,
    seed: int,
    on_trial: Callable[[optuna.Study], None],
) -> optuna.Study:
    """The afternoon's study: TPE, median pruning on the running mean."""
    study = optuna.create_study(
        direction="maximize",
        sampler=optuna.samplers.TPESampler(seed=seed),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=2),
    )
    for params in first:
        study.enqueue_trial(params)

    def objective(trial: optuna.Trial) -> float:
        recipe = {name: trial._suggest(name, d) for name, d in distributions.items()}
        finished: dict[int, float] = {}

        def report(fold: int, epoch: int, score: float) -> None:
            finished[fold] = score
            trial.report(float(np.mean(list(finished.values()))), fold * task.epochs + epoch)
            if trial.should_prune():
                raise optuna.TrialPruned

        return run_trial(task, recipe, seed + 1000 * trial.number, report)

    study.optimize(objective, n_trials=trials, callbacks=[lambda study, trial: on_trial(study)])
    return study
