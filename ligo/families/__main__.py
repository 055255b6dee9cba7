"""python -m ligo.families: the architectures that can be grown, by the `model_type` of their config.json."""

from __future__ import annotations

from ligo.families.base import FAMILIES


def listing() -> str:
    """One paragraph per family."""
    lines = []
    families = {name: FAMILIES.get(name) for name in FAMILIES.names()}
    for name, family in families.items():
        lines += [
            name,
            f"    model_type   {', '.join(family.model_types)}",
            f"    heads        {', '.join(f'{ending} ({objective})' for ending, objective in family.objectives.items())}",
            f"    norm         {family.norm.value}{', after each block' if family.post_norm else ''}",
        ]
        mixtures = [other.model_types[0] for other in families.values()
                    if set(other.dense_model_types) & set(family.model_types)]  # fmt: skip
        if mixtures:
            lines.append(f"    experts      target.num_experts=N makes it a {', '.join(mixtures)}")
        lines.append(f"    {family.reference}")
    return "\n".join(lines)


if __name__ == "__main__":
    print(listing())
