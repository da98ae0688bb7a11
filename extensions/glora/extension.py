"""GLoRA (arXiv:2306.07967): one more kind of file among the LoRAs."""

from __future__ import annotations

from core.extend import AdapterKind, hookimpl


@hookimpl
def adapter_kinds() -> list[AdapterKind]:
    return [
        AdapterKind(
            name="glora",
            title="GLoRA",
            help="A LoRA, and a change that depends on the weight: arXiv:2306.07967.",
            endings=tuple((rf"\.{part}\.weight", part) for part in ("a1", "a2", "b1", "b2", "bm")),
            target=f"{__name__}.changes:glora",
        )
    ]
