"""Dropout that a resumed run repeats: checkpoints hold no random state, so each step has a seed of
its own.

Enters: where in the training a step is. Leaves: torch's generators, seeded for it.
"""

import random

import torch


def seed_dropout(where: str, device: torch.device) -> None:
    """Seed the generators of the CPU and of the device for the step that `where` names: with its
    seed, epoch, batch and process.
    """
    seed = random.Random(f"dropout {where}").getrandbits(63)
    # Not `torch.manual_seed`, which takes a millisecond: it records who called it.
    torch.default_generator.manual_seed(seed)
    if device.type != "cpu":
        torch.get_device_module(device).manual_seed(seed)
