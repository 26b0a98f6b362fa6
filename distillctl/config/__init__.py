"""The typed configuration: schemas, the keys they have and what each decides, and what must hold of a config. No torch here."""

from distillctl.config.environment import SECRET_FREE_VARIABLES, read_variable
from distillctl.config.fields import AUTO, DECISIONS, Count, branch, chosen, count, number, option, value
from distillctl.config.keys import (
    branch_of,
    decides,
    entries,
    key_names,
    keys_that_decide,
    leaves,
    said_about,
    strangers,
    values_that_decide,
)
from distillctl.config.recorded import RECORDED, RecordedSetConfig, check_named, recorded_schema
from distillctl.config.rules import broken_rule, check, check_attack, check_parts, nodes
from distillctl.config.schema import (
    DATA_KINDS,
    ENSEMBLE,
    SCHEMAS,
    AttackConfig,
    AugmentConfig,
    CacheConfig,
    CachesConfig,
    DatasetConfig,
    DistillConfig,
    Distils,
    DoctorConfig,
    EvaluateConfig,
    FinetuneConfig,
    Finetunes,
    FinetuneStageConfig,
    FitConfig,
    ImageSetConfig,
    LoraConfig,
    LossesConfig,
    MemberConfig,
    MethodsConfig,
    ModelConfig,
    ModelsConfig,
    OptionsConfig,
    PredictConfig,
    PretrainConfig,
    Pretrains,
    PretrainStageConfig,
    StageConfig,
    TeacherConfig,
    TrackerConfig,
    TrainConfig,
    TrainerConfig,
)
