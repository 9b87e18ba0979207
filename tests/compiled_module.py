"""Compare `torch.compile` of `Bert.as_module()` with the module as it is: answers and gradients.

    python tests/compiled_module.py

It takes a minute or two and a C++ compiler, without which it says so and ends with exit code 0.
Exit 1 where something differs by more than a float32 sum in another order may, or where the blocks
do not end up in one graph. Ids are checked in Python, so there are cuts before the blocks.
"""

import shutil
import sys
import time
from typing import Any

import tiny
import torch
from torch._inductor.exc import InductorError

TOLERANCE = 1e-5


def main() -> int:
    if not any(map(shutil.which, ("c++", "g++", "clang++"))):
        print("skipped: there is no C++ compiler, which torch.compile needs on a CPU")
        return 0
    ids_BS = torch.randint(1, 31, (4, 7), generator=torch.Generator().manual_seed(0))
    mask_BS = (torch.arange(7) < torch.tensor([[7], [6], [5], [2]])).long()
    worst: dict[str, float] = {}
    start = time.perf_counter()
    for training in (False, True):
        plain, twin = (tiny.classifier().as_module().train(training) for _ in range(2))
        compiled: Any = torch.compile(twin)
        said = []
        for module in (plain, compiled):
            torch.manual_seed(1)
            logits_BC = module(ids_BS, mask_BS, ids_BS % 2)
            (logits_BC * torch.arange(8.0).view(4, 2)).sum().backward()
            said.append(logits_BC.detach())
        name = "training" if training else "evaluation"
        worst[f"{name}, answers"] = (said[0] - said[1]).abs().max().item()
        pairs = zip(plain.parameters(), twin.parameters(), strict=True)
        worst[f"{name}, gradients"] = max(float((a.grad - b.grad).abs().max()) for a, b in pairs)
    sizes: list[int] = []

    def count(graph: Any, _: Any) -> Any:
        sizes.append(len(graph.graph.nodes))
        return graph.forward

    torch.compiler.reset()
    torch.compile(plain.eval(), backend=count)(ids_BS, mask_BS, ids_BS % 2)
    one_graph = sum(size > 60 for size in sizes) == 1
    for name, error in worst.items():
        print(f"{name:<24} {error:.1e}  (at most {TOLERANCE:.0e})")
    print(f"the blocks are {'one graph' if one_graph else f'cut: graphs of {sizes} nodes'}")
    print(f"{time.perf_counter() - start:.0f} seconds, torch {torch.__version__}")
    return int(not one_graph or max(worst.values()) > TOLERANCE)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except InductorError as error:
        sys.exit(f"torch.compile failed: {str(error).splitlines()[0]}")
