"""What every setting is called and what type it has: one dataclass a section of ``conf/``, one a command.

Mutable because OmegaConf needs them so; whoever uses them turns them into frozen domain objects at once.
"""

from dataclasses import dataclass, field


@dataclass
class ColumnsConfig:
    """Names of the columns of a data file."""

    question: str = "question"
    answer: str = "answer"
    customer: str = "customer"
    key: str = "key"
    language: str | None = None


@dataclass
class DataConfig:
    """conf/data"""

    name: str = "synthetic"
    customers: int | None = None
    max_records: int | None = None
    path: str | None = None
    format: str | None = None
    columns: ColumnsConfig = field(default_factory=ColumnsConfig)


@dataclass
class PartitionConfig:
    """conf/partition"""

    kind: str = "dirichlet"
    alpha: float | None = None
    size_exponent: float = 0.0


@dataclass
class ModelConfig:
    """conf/model"""

    name: str = "tiny"
    path: str | None = None
    identifier: str | None = None
    revision: str | None = None
    dtype: str = "float32"
    quantisation: str = "none"
    gradient_checkpointing: str = "none"
    device: str = "auto"
    max_length: int = 64


@dataclass
class AdapterConfig:
    """conf/adapter"""

    rank: int = 8
    alpha: float = 16.0
    target_modules: list[str] = field(default_factory=list)
    last_layers: int | None = None
    dropout: float = 0.0


@dataclass
class PrivacyConfig:
    """conf/privacy"""

    enabled: bool = True
    epsilon: float | None = None
    delta: float | None = None
    clip_norm: float | None = None
    unit: str = "customer"


@dataclass
class TrainingConfig:
    """conf/training"""

    rounds: int = 1
    local_steps: int = 1
    expected_batch: int = 1
    records_per_customer: int = 1
    optimizer: str = "adam"
    learning_rate: float = 0.01
    momentum: float = 0.0
    micro_batch: int = 64
    per_example: str = "direct"


@dataclass
class AggregationConfig:
    """conf/aggregation"""

    rule: str = "fedsvd"
    weights: str = "equal"
    server_step: str = "mean"
    learning_rate: float = 1.0
    beta1: float = 0.9
    beta2: float = 0.99
    tau: float = 1e-3


@dataclass
class AgreedConfig:
    """What the parties of a campaign agree on, in a simulation as in a deployment"""

    adapter: AdapterConfig = field(default_factory=AdapterConfig)
    privacy: PrivacyConfig = field(default_factory=PrivacyConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    aggregation: AggregationConfig = field(default_factory=AggregationConfig)
    seed: int = 0


@dataclass
class HeldOutConfig:
    """The ``held_out`` section of conf/simulate.yaml"""

    fraction: float = 0.1
    max_records: int = 2000
    monitored_records: int = 400
    public_fraction: float = 0.02


@dataclass
class ComparisonsConfig:
    """The ``comparisons`` section of conf/simulate.yaml"""

    local_only: bool = True
    federated_nonprivate: bool = True
    centralized: bool = True


@dataclass
class SimulationConfig:
    """The ``simulation`` section of conf/simulate.yaml"""

    backend: str = "inline"
    ray_address: str | None = None
    cpus_per_bank: float = 1.0
    gpus_per_bank: float = 0.0
    threads: int | None = None
    banks_at_once: int | None = None


@dataclass
class SimulateConfig(AgreedConfig):
    """conf/simulate.yaml"""

    data: DataConfig = field(default_factory=DataConfig)
    partition: PartitionConfig = field(default_factory=PartitionConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    held_out: HeldOutConfig = field(default_factory=HeldOutConfig)
    comparisons: ComparisonsConfig = field(default_factory=ComparisonsConfig)
    simulation: SimulationConfig = field(default_factory=SimulationConfig)
    banks: int = 4
    output: str | None = None
    resume: str | None = None


@dataclass
class TermsConfig(AgreedConfig):
    """The terms of a proposal: what is agreed on beside the base model, with the one setting of it that is"""

    max_length: int = 64


@dataclass
class CampaignConfig(AgreedConfig):
    """conf/campaign.yaml"""

    model: ModelConfig = field(default_factory=ModelConfig)
    name: str = "campaign"
    attempts: int = 3
    patience_s: float = 600.0


@dataclass
class ClientConfig:
    """conf/client.yaml"""

    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    held_out_fraction: float = 0.1
    micro_batch: int = 64
    per_example: str = "direct"
    threads: int | None = None
    seed: int = 0
