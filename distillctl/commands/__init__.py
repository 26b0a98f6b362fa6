"""The subcommands: a file each with `run(config, folder)`, one for those that train, and this table of what they are for."""

from typing import NamedTuple


class Command(NamedTuple):
    """home: the module that runs it, where that is not called like the command. writes: whether it leaves files in the run's folder.

    learns: whether what it does is a run, which `--plan` and Python know, though it is no plan of steps.
    """

    summary: str
    examples: tuple[str, str, str]
    home: str = ""
    writes: bool = False
    learns: bool = False

    @property
    def is_run(self) -> bool:
        """Whether there is a plan of it, and a run that goes on."""
        return self.learns or self.home == "runs"

    @property
    def keeps(self) -> bool:
        """Whether the folder says what was asked for."""
        return self.writes or self.home == "runs"


COMMANDS = {
    "train": Command(
        "the whole pipeline: pretrain the teacher, distil, fine-tune, and the same student alone beside them",
        (
            "distillctl train",
            "distillctl train teacher=resnet152 student=mobilenetv2 dataset=image_folder dataset.root=images",
            "distillctl train -m loss.kd.temperature=1,2,4,8 seed=0,1,2",
        ),
        home="runs",
    ),
    "pretrain": Command(
        "train a teacher by labels",
        (
            "distillctl pretrain teacher=resnet32x4 dataset=cifar100 pretrain.epochs=240",
            "distillctl pretrain teacher=resnet50 teacher.pretrained=true teacher.new_head=true dataset=image_folder dataset.root=images",
            "distillctl pretrain resume=outputs/pretrain/20260101-120000-000000",
        ),
        home="runs",
    ),
    "distill": Command(
        "train a student by a teacher that is ready",
        (
            "distillctl distill teacher.checkpoint=outputs/pretrain/20260101-120000-000000 student=resnet8",
            "distillctl distill teacher=resnet152 teacher.pretrained=true student=mobilenetv2 dataset=image_folder dataset.root=imagenet",
            "distillctl distill teacher.checkpoint=teacher.safetensors student=resnet8x4 loss.kd.temperature=2 trainer.ema_decay=0.999",
        ),
        home="runs",
    ),
    "finetune": Command(
        "train a student that is ready a little longer, by labels",
        (
            "distillctl finetune student.checkpoint=outputs/distill/20260101-120000-000000",
            "distillctl finetune student.checkpoint=student.safetensors finetune.epochs=10 finetune.train=last finetune.stages=2",
            "distillctl finetune student=resnet18 student.checkpoint=resnet18.pth student.new_head=true dataset=cifar10",
        ),
        home="runs",
    ),
    "compress": Command(
        "a student that is ready made smaller: cut, taught again, of small numbers, and what that costs in accuracy",
        (
            "distillctl compress checkpoint=RUN prune=magnitude prune.ratio=0.5 teacher.checkpoint=TEACHER",
            "distillctl compress checkpoint=RUN quantize=auto export.format=onnx",
            "distillctl compress checkpoint=RUN prune=taylor prune.target_macs=0.5 finetune.epochs=5",
        ),
        home="runs",
    ),
    "export": Command(
        "a model that is ready as a file for another runtime, which is run back and compared before it is kept",
        (
            "distillctl export checkpoint=outputs/train/20260101-120000-000000",
            "distillctl export checkpoint=student.safetensors format=onnx quantize=static",
            "distillctl export checkpoint=student.safetensors verify=student.onnx",
        ),
        home="runs",
    ),
    "lifelong": Command(
        "tasks learnt one after another: what is forgotten of the earlier ones, by which strategy",
        (
            "distillctl lifelong strategy=derpp",
            "distillctl lifelong dataset=cifar100 tasks=10 strategy=icarl memory.size=2000 student=resnet20",
            "distillctl lifelong -m strategy=er,der,derpp,lwf,ewc,icarl seed=0,1,2 lifelong.beside=[]",
        ),
        home="runs",
    ),
    "stream": Command(
        "samples learnt once, in the order of time: predicted, then learnt; drifts told, models deployed through a gate",
        (
            "distillctl stream",
            "distillctl stream stream.path=incoming stream.source=watch stream.classes=[cat,dog] dataset.image_size=32 student=resnet20",
            "distillctl stream action=rollback folder=outputs/stream/20260101-120000-000000",
        ),
        writes=True,
        learns=True,
    ),
    "evaluate": Command(
        "what a checkpoint is worth: accuracy, F1, NLL, calibration, agreement with a teacher",
        (
            "distillctl evaluate checkpoint=outputs/train/20260101-120000-000000",
            "distillctl evaluate checkpoint=student.safetensors teacher.checkpoint=teacher.safetensors split=val",
            "distillctl evaluate checkpoint=resnet18.pth model=resnet18 dataset=cifar10",
        ),
        writes=True,
    ),
    "predict": Command(
        "class names and probabilities for images or folders of images",
        (
            "distillctl predict checkpoint=outputs/train/20260101-120000-000000 inputs=[cat.jpg]",
            "distillctl predict checkpoint=student.safetensors inputs=[photos] format=jsonl",
            "distillctl predict checkpoint=student.safetensors inputs=[a.png,b.png] top_k=5",
        ),
    ),
    "models": Command(
        "what can be named as a teacher or a student; their parameters and MACs; the taps of a model",
        (
            "distillctl models search=mobilenet",
            "distillctl models search=vit source=timm costs=true image_size=224 classes=1000",
            "distillctl models taps=resnet152 image_size=224",
        ),
    ),
    "losses": Command(
        "the losses that can be named: what each reads and what it costs a step",
        ("distillctl losses", "distillctl losses search=stage", "distillctl losses search=Hinton"),
        home="options",
    ),
    "methods": Command(
        "the methods that can be named: who trains and by whom, and what it costs a step",
        ("distillctl methods", "distillctl methods search=peer", "distillctl methods search=teacher"),
        home="options",
    ),
    "strategies": Command(
        "the strategies that can be named: how earlier tasks are not forgotten, and what that costs a step",
        ("distillctl strategies", "distillctl strategies search=memory", "distillctl strategies search=Buzzega"),
        home="options",
    ),
    "cache": Command(
        "the kept answers of teachers: what there is, whether it is whole, fill it, away with what is old",
        (
            "distillctl cache",
            "distillctl cache action=fill teacher.checkpoint=outputs/pretrain/20260101-120000-000000 dataset=cifar100 dataset.views=8",
            "distillctl cache action=prune older_than_days=30",
        ),
    ),
    "doctor": Command(
        "versions, devices, precisions that work, data found, disk and permissions",
        ("distillctl doctor", "distillctl doctor --cfg job", "DISTILLCTL_DATA=/data distillctl doctor"),
    ),
}
