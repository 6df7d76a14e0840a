"""The options of a model and its training once more, for type checkers."""

from typing import TypedDict

from shakespeare_lm.model.config import Activation, Norm, PositionKind
from shakespeare_lm.training.optimizer import Schedule


class ModelKeywords(TypedDict, total=False):
    """The names and types of `ModelConfig`, for signatures that pass them on."""

    # NetworkConfig
    network: str
    context_length: int
    num_layers: int
    num_heads: int
    d_model: int
    d_feedforward: int | None
    positions: PositionKind
    norm: Norm
    activation: Activation
    bias: bool
    qkv_bias: bool
    tied_head: bool
    scale_embedding: bool
    previous_characters: int
    zero_init: bool
    dropout: float
    attention_dropout: float
    # MemoryConfig
    memory_order: int
    memory_share: float
    # OptimizerConfig
    optimizer: str
    learning_rate: float
    muon_learning_rate: float
    weight_decay: float
    beta2: float
    schedule: Schedule
    warmup_steps: int
    decay_steps: int | None
    restart_step: int | None
    # DistillationConfig, MultiTokenConfig, ObjectiveConfig
    ngram_distillation: float
    distillation: float
    teachers: str | None
    characters_ahead: int
    objective: str
