"""What `test_compiled_blocks_answer_the_same_from_one_graph` runs; prints the layouts for which it holds."""

from __future__ import annotations

from collections.abc import Callable

import torch
from tests.models.cases import Inputs, random_inputs, random_transformer
from tests.ops.cases import LAYOUTS, error
from torch import Tensor

from mosaicmem.models.transformer import VideoTransformer
from mosaicmem.ops.prope import Layout, TokenCameras


def answer(network: VideoTransformer, x: Inputs, cameras: TokenCameras | None) -> Tensor:
    return network(x.latents, x.timesteps, x.text, memory=x.memory, cameras=cameras)


@torch.no_grad()
def check(layout: Layout) -> None:
    network, inputs = random_transformer(layout), random_inputs()
    x = inputs.with_memory(mask=torch.arange(10).expand(2, 10) < 6)
    plain, blind = answer(network, x, x.cameras), answer(network, x, None)
    graphs: list[torch.fx.GraphModule] = []

    def noted(graph: torch.fx.GraphModule, _: list[Tensor]) -> Callable[..., Tensor]:
        graphs.append(graph)
        return graph.forward

    network.compile_blocks(backend=noted)
    assert error(answer(network, x, x.cameras), plain) < 1e-5
    assert len(graphs) == 1 < len(network.blocks), f"{len(graphs)} graphs; expected one that all blocks share"
    assert error(answer(network, x, None), blind) < 1e-5 and len(graphs) == 2
    assert error(plain, blind) > 1e-3, "control: cameras matter"


for layout in LAYOUTS:
    check(layout)
    torch._dynamo.reset()
    print(layout)
