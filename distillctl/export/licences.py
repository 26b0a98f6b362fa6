"""What is known of the licence of weights, by where they began; libraries say so of what they publish, and nobody else knows."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Origin:
    """Where weights began. source: `scratch`, or the library that publishes them, torchvision or timm. name: what they are called there."""

    source: str
    name: str = ""


def licence_note(origin: Origin, whose: str, shown: str) -> str:
    """Sentences in Markdown. whose: the net that has the weights, as a sentence begins with it. shown: the name of the weights, as Markdown."""
    if origin.source == "scratch":
        return f"{whose} began with random weights, not with published ones."
    begun = f"{whose} began with weights that {origin.source} publishes ({shown})."
    if origin.source == "torchvision":
        swag = "; those named SWAG are under CC-BY-NC 4.0, which does not allow commercial use" if "swag" in origin.name.lower() else ""
        return (
            f"{begun} torchvision says of them that they may have their own licences or terms and conditions derived from the data set used "
            f"for training, and that it is the user's responsibility to determine whether they may be used{swag}."
        )
    if origin.source == "timm":
        licence = timm_licence(origin.name)
        stated = f" Their entry there states the licence {licence}." if licence else " Their entry there states no licence."
        return (
            f"{begun}{stated} timm says of weights that were trained on ImageNet that it was released for non-commercial research purposes "
            f"only, that it is not clear what follows for the use of the weights, and that legal advice is best sought before commercial use."
        )
    return begun


def timm_licence(name: str) -> str | None:
    """What timm's list of weights states, as `apache-2.0`; None where it states nothing."""
    from timm.models import get_pretrained_cfg

    described = get_pretrained_cfg(name, allow_unregistered=True)
    stated = getattr(described, "license", None)
    return stated if isinstance(stated, str) and stated not in ("", "unknown") else None
