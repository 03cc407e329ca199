"""The official network with filled weights."""

from __future__ import annotations

import json

import fill
import pytest
import torch

from vis_projects.cfbi.convert import convert
from vis_projects.cfbi.network import CFBINetwork


@pytest.fixture(scope="session")
def official_state(golden) -> dict[str, torch.Tensor]:
    listing = json.loads(golden("cfbi/official_keys.json").read_text())
    aliases, keys = listing["aliases"], listing["keys"]
    state = {}
    for key, shape in keys.items():
        name = key
        for alias, target in aliases.items():
            if key.startswith(alias):
                name = target + key[len(alias) :]
        state[key] = torch.from_numpy(fill.values(name, tuple(shape)))
    return state


@pytest.fixture(scope="session")
def filled_network(official_state) -> CFBINetwork:
    net = CFBINetwork().eval()
    state = convert(official_state)
    net.load_state_dict({k.removeprefix("network."): v for k, v in state.items()})
    return net
