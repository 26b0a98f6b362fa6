"""The typed configuration: schemas, the keys they have and what each decides, and what must hold of a config. No torch here."""

from distillctl.config.answering import SUFFIXES as ANSWER_SUFFIXES
from distillctl.config.api import API, ApiConfig
from distillctl.config.data import DATA_KINDS, AugmentConfig, DatasetConfig, ImageSetConfig, TextAugmentConfig, TextSetConfig
from distillctl.config.deploy import BudgetConfig, ExportStepConfig, PruneConfig, QuantizeConfig
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
from distillctl.config.lifelong import BESIDE, LifelongStageConfig, MemoryConfig
from distillctl.config.limits import has_budget
from distillctl.config.listings import DoctorConfig, LossesConfig, MethodsConfig, ModelsConfig, OptionsConfig, StrategiesConfig
from distillctl.config.models import ANSWERS, CAUSAL, ENSEMBLE, FILE, TOLD, CacheConfig, MemberConfig, ModelConfig, TeacherConfig
from distillctl.config.recorded import RECORDED, RecordedSetConfig, check_named, recorded_schema
from distillctl.config.rules import OF_FORMAT, broken_rule, check, check_attack, check_parts, home_of, nodes
from distillctl.config.schema import (
    SCHEMAS,
    CachesConfig,
    CompressConfig,
    Deploys,
    DistillConfig,
    Distils,
    EvaluateConfig,
    ExportConfig,
    FinetuneConfig,
    Finetunes,
    FitConfig,
    LifelongConfig,
    PredictConfig,
    PretrainConfig,
    Pretrains,
    RunConfig,
    StreamConfig,
    TrainConfig,
)
from distillctl.config.short import spell_out
from distillctl.config.stream import ALONE, StreamStageConfig
from distillctl.config.training import (
    AttackConfig,
    FinetuneStageConfig,
    LoraConfig,
    PartStageConfig,
    PretrainStageConfig,
    PromptConfig,
    StageConfig,
    TrackerConfig,
    TrainerConfig,
)
