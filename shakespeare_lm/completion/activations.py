"""Named activations of a network: record them, or replace them while it runs.

An activation has the name of the module that computes it (`network.named_modules()`): `blocks.0` is
the residual stream after the first block. `blocks.0.attention.heads.1` is one head's part of the
input of the attention's output layer, `[batch, time, head_dim]`.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from shakespeare_lm.completion.completer import Completer
from shakespeare_lm.completion.inference import evaluating
from shakespeare_lm.errors import UserError, check_choice
from shakespeare_lm.methods.ngram_memory import NGramMemory
from shakespeare_lm.model.attention import CausalSelfAttention
from shakespeare_lm.model.network import Network

Patch = float | Tensor | Callable[[Tensor], Tensor]


def run_with_cache(
    model: Network | Completer, text: str | Tensor, names: Iterable[str] | None = None
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the logits `[batch, time, vocab]` and the activations by name, in evaluation mode.

    Args:
        model: a network, or a `Completer`; its mode is restored.
        text: ids `[batch, time]`, at most `context_length` characters, or a text for a `Completer`.
        names: which activations to record; all by default.

    Raises:
        UserError: for an unknown name, a text that does not fit, or a compiled model.
    """
    network, cache = _network(model), dict[str, Tensor]()
    if isinstance(text, str):
        if not isinstance(model, Completer):
            raise UserError("text is a str: a network without a tokenizer needs ids [batch, time]")
        device = next(network.parameters()).device
        text = torch.tensor([model.tokenizer.encode_prompt(text)], device=device)
    names = _modules(network) if names is None else names
    record = {name: partial(cache.setdefault, name) for name in names}
    # Without inference mode, so that a probe can be trained on the activations.
    with patched(model, record), evaluating(network), torch.inference_mode(False), torch.no_grad():
        return network(text), cache


@contextmanager
def patched(model: Network | Completer, patches: Mapping[str, Patch]) -> Iterator[None]:
    """Replace activations by name inside a `with` block, in completions and training too.

    A patch is a number (0.0 knocks a head out), a tensor that can be broadcast to the activation,
    or a function that maps the activation to one of these.

    Raises:
        UserError: for an unknown name, a compiled model, which would ignore the patches, or, when
            the network runs, a patch of another shape.
    """
    modules = _modules(_network(model))
    with ExitStack() as hooks:
        for name, patch in patches.items():
            check_choice("activation", name, modules)
            hooks.enter_context(_hook(*modules[name], partial(_replacement, name, patch)))
        yield


def _network(model: Network | Completer) -> nn.Module:
    network = model.network if isinstance(model, Completer) else model
    compiled = isinstance(model, Completer) and model.compiled
    if compiled or any(x._compiled_call_impl or hasattr(x, "_orig_mod") for x in network.modules()):
        raise UserError("the model is compiled, which hides its activations: load it without")
    return network


def _modules(network: nn.Module) -> dict[str, tuple[Any, int | None]]:
    """Return for each activation its module, and its number if it is a head of that attention."""
    found: dict[str, tuple[Any, int | None]] = {}
    for name, module in network.named_modules():
        if not isinstance(module, Network | nn.ModuleList | NGramMemory):  # not called for a tensor
            found[name] = (module, None)
        if isinstance(module, CausalSelfAttention):
            found |= {f"{name}.heads.{head}": (module, head) for head in range(module.num_heads)}
    return found


def _hook(module: Any, head: int | None, replace: Callable[[Tensor], Tensor]) -> RemovableHandle:
    def replace_head(_: nn.Module, inputs: tuple[Tensor]) -> Tensor:
        heads = inputs[0].unflatten(-1, (module.num_heads, -1)).clone()
        heads[..., head, :] = replace(heads[..., head, :])
        return heads.flatten(-2)

    if head is None:
        return module.register_forward_hook(lambda _, inputs, output: replace(output))
    return module.output.register_forward_pre_hook(replace_head)


def _replacement(name: str, patch: Patch, old: Tensor) -> Tensor:
    new = patch(old) if callable(patch) else patch
    if new is old:
        return old
    if not isinstance(old, Tensor):  # a GRU returns two
        raise UserError(f"{name} is a {type(old).__name__}: it can be recorded, but not patched")
    try:
        return torch.as_tensor(new, dtype=old.dtype, device=old.device).expand_as(old)
    except (RuntimeError, TypeError):
        given = f"of shape {tuple(new.shape)}" if isinstance(new, Tensor) else repr(new)[:80]
        expected = f"a number, or a tensor that can be broadcast to {tuple(old.shape)}"
        raise UserError(f"the patch for {name} is {given}: expected {expected}") from None
