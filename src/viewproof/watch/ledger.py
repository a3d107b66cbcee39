"""The rest of what was read off, a line each, by topic."""

from viewproof.watch.examine import Examined


def ledger_of(x: Examined) -> dict[str, tuple[str, ...]]:
    """Lines by topic; topics without a line are left out."""
    lines: dict[str, list[str]] = {"how": [x.place]}
    lines["stopped by"] = [text for text in (x.failure, x.unrepeatable) if text]
    lines["not followed"] = [f"{plane}: {reason}" for plane, reason in x.planes.reasons.items()]
    lines["holds for"] = [f"what is not {plane}: {values}" for plane, values in x.planes.proved.items()]
    if x.planes.read_out:
        lines["holds for"].append(f"the loss read out at {x.planes.read_out} staying as it is")
    if x.plain is not None:
        record = x.plain.record
        lines["generators"] = [f"{name} moves" for name in record.generators] or ["no global generator moves"]
        lines["dtypes"] = [f"the loss at {loss.place} is {loss.dtype}" for loss in record.losses]
        lines["gradient support"] = [
            f"{name}: the loss reads {int(mask.sum())} of {mask.numel()} elements"
            for name, mask in record.support.items()
        ]
        lines["in-place writes"] = [f"{path} is written to" for path in record.in_place]
        groups: dict[float, int] = {}
        for p in record.parameters.values():
            if p.groups:
                groups[p.decay] = groups.get(p.decay, 0) + p.numel
        decayed = [p.name for p in record.parameters.values() if p.groups and p.decay and p.dim <= 1 and p.name]
        lines["weight decay"] = [f"{decay:g}: {count} parameters" for decay, count in groups.items()]
        lines["weight decay"] += [f"biases and norms are decayed: {', '.join(decayed[:3])}, ..."] if decayed else []
        two = [p.name for p in record.parameters.values() if len(p.groups) > 1]
        none = [p.name for p in record.parameters.values() if p.groups and not p.gradient]
        lines["parameters"] = [f"in two groups: {name}" for name in two[:4]]
        lines["parameters"] += [f"in an optimizer and without gradient: {', '.join(none[:4])}"] if none else []
        lines["time"] = [f"{record.seconds:.3f} s the plain step, {x.seconds:.3f} s all runs"]
    return {topic: tuple(texts) for topic, texts in lines.items() if texts}
