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


@dataclass
class EngineConfig:
    """conf/engine"""

    kind: str = "transformers"
    precision: str | None = None
    context: int = 4096
    max_running: int = 8
    max_waiting: int = 64
    window_ms: float = 2.0
    max_wait_s: float = 30.0
    answer_s: float = 120.0
    memory_share: float = 0.9
    start_s: float = 120.0
    url: str | None = None
    served_name: str | None = None
    key: str | None = None
    program: str | None = None
    loads: bool = True
    options: list[str] = field(default_factory=list)


@dataclass
class AccessConfig:
    """conf/access"""

    kind: str = "development"
    issuer: str | None = None
    audience: str = "fedbank"
    jwks: str | None = None
    authority: str | None = None
    algorithms: list[str] = field(default_factory=list)
    role_claim: str = "roles"


@dataclass
class RedisConfig:
    """The ``redis`` section of conf/serve.yaml"""

    url: str | None = None
    authority: str | None = None
    certificate: str | None = None
    key: str | None = None


@dataclass
class TlsConfig:
    """The ``tls`` section of conf/serve.yaml"""

    certificate: str | None = None
    key: str | None = None
    client_ca: str | None = None


@dataclass
class LimitsConfig:
    """The ``limits`` section of conf/serve.yaml"""

    per_minute: float = 60.0
    burst: int = 30
    question_characters: int = 4000
    answer_tokens: int = 256
    max_answer_tokens: int = 1024
    request_s: float = 150.0


@dataclass
class SessionsConfig:
    """The ``sessions`` section of conf/serve.yaml"""

    max_turns: int = 20
    max_tokens: int = 2048
    idle_minutes: float = 30.0
    lifetime_hours: float = 8.0
    max_sessions: int = 10_000


@dataclass
class CacheConfig:
    """The ``cache`` section of conf/serve.yaml"""

    enabled: bool = False
    entries: int = 10_000
    minutes: float = 60.0


@dataclass
class RecordsConfig:
    """The ``records`` section of conf/serve.yaml"""

    database: str | None = None
    key: str | None = None
    retention_days: float = 180.0
    purge_at: str = "03:00"


@dataclass
class RolloutConfig:
    """The ``rollout`` section of conf/serve.yaml"""

    shadow_share: float = 0.2
    canary_share: float = 0.1
    automatic: bool = True
    probes: str | None = None
    answers: int = 200
    failure_rate: float = 0.02
    slowdown: float = 1.5
    agreement: float = 0.0
    longest_days: float = 7.0


@dataclass
class ServeConfig:
    """conf/serve.yaml"""

    model: ModelConfig = field(default_factory=ModelConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)
    access: AccessConfig = field(default_factory=AccessConfig)
    host: str = "127.0.0.1"
    port: int = 8100
    threads: int | None = None
    instruction: str | None = None
    redis: RedisConfig = field(default_factory=RedisConfig)
    tls: TlsConfig = field(default_factory=TlsConfig)
    limits: LimitsConfig = field(default_factory=LimitsConfig)
    sessions: SessionsConfig = field(default_factory=SessionsConfig)
    cache: CacheConfig = field(default_factory=CacheConfig)
    records: RecordsConfig = field(default_factory=RecordsConfig)
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
