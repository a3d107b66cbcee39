"""DINO on scikit-learn's digits: a student predicts its EMA teacher's output on another view.

``--bug``: the teacher runs with gradients: backward goes through the target as well.
"""

import argparse
import copy
from contextlib import nullcontext

import torch
from torch import nn
from torch.utils.data import DataLoader
from two_views import TwoViews

OUT, MOMENTUM, TEACHER_TEMPERATURE, STUDENT_TEMPERATURE = 64, 0.99, 0.04, 0.1


def network() -> nn.Module:
    """An encoder with its projection head."""
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1),
        nn.GELU(),
        nn.Conv2d(32, 64, 3, stride=2, padding=1),
        nn.GELU(),
        nn.Flatten(),
        nn.Linear(1024, 128),
        nn.GELU(),
        nn.Linear(128, OUT),
    )


def main() -> None:
    """Train."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--bug", action="store_true")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    student = network()
    teacher = copy.deepcopy(student)
    center = torch.zeros(OUT)
    optimizer = torch.optim.AdamW(student.parameters(), lr=5e-4)
    for epoch in range(arguments.epochs):
        for first, second in DataLoader(TwoViews(), batch_size=16, shuffle=True, drop_last=True):
            with nullcontext() if arguments.bug else torch.no_grad():
                said = [teacher(view) for view in (first, second)]
                goals = [((logits - center) / TEACHER_TEMPERATURE).softmax(-1) for logits in said]
            guesses = [(student(view) / STUDENT_TEMPERATURE).log_softmax(-1) for view in (second, first)]
            loss = sum(-(goal * guess).sum(-1).mean() for goal, guess in zip(goals, guesses, strict=True)) / 2
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            with torch.no_grad():
                center.mul_(0.9).add_(torch.cat(said).mean(0), alpha=0.1)
                for mine, theirs in zip(teacher.parameters(), student.parameters(), strict=True):
                    mine.mul_(MOMENTUM).add_(theirs, alpha=1 - MOMENTUM)
        print(f"epoch {epoch}: loss {loss.item():.4f}")


if __name__ == "__main__":
    main()
