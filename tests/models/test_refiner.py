"""The refiner: what memory does not show it never touches, and what it reads it reads where memory shows it."""

from __future__ import annotations

import math

import pytest
import torch
from tests.tiny_models import CHANNELS, write_tiny_model

from mosaicmem.errors import ConfigError, InputError, MissingWeightsError
from mosaicmem.models.checkpoint import load_refiner, load_vae
from mosaicmem.models.refiner import TAKEN, Refiner, RefinerConfig, refine, settled

BLOCKS = 2


def refiner(seed: int = 0) -> Refiner:
    """Random weights, none zero."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = Refiner(RefinerConfig(CHANNELS, width=8, blocks=BLOCKS)).requires_grad_(False)
        for p in network.parameters():
            p += 0.2 * torch.randn_like(p)
    return network


def inputs(h: int = 6, w: int = 7) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    gen = torch.Generator().manual_seed(0)
    made, shown = torch.randn(2, 3, CHANNELS, h, w, generator=gen)
    return made, shown, torch.rand(3, h, w, generator=gen) > 0.4


def test_it_starts_as_what_was_made_and_a_quarter_of_memory():
    made, shown, good = inputs()
    share = torch.where(good[:, None], 1 / (1 + torch.tensor(1.0).exp()), 0)
    found = Refiner(RefinerConfig(CHANNELS, width=8))(made, shown, good)
    torch.testing.assert_close(found, made + share * (shown - made))


def test_where_memory_is_not_good_its_content_is_not_read():
    (made, shown, good), network = inputs(), refiner()
    spoilt = torch.where(good[:, None], shown, torch.nan)
    assert torch.equal(network(made, spoilt, good), network(made, shown, good))
    assert not torch.equal(network(made, shown + 1, good), network(made, shown, good))
    assert not torch.equal(network(made, shown, ~good), network(made, shown, good)), "and where it is good matters"


def test_a_cell_looks_two_cells_further_with_every_block():
    made, shown, good = inputs(16, 16)
    good[:] = True
    changed = shown.clone()
    changed[:, :, 8, 7] += 1
    network = refiner()
    moved = (network(made, changed, good) != network(made, shown, good)).any(1).any(0)
    rows, columns = moved.nonzero().unbind(-1)
    assert moved[8, 7] and bool(((rows - 8).abs() <= 2 * BLOCKS).all() and ((columns - 7).abs() <= 2 * BLOCKS).all())
    assert len(rows) > 20


def test_frames_of_which_memory_shows_nothing_stay_bit_for_bit(tmp_path):
    vae, network = load_vae(write_tiny_model(tmp_path / "tiny") / "vae.safetensors"), refiner()
    gen = torch.Generator().manual_seed(1)
    frames = torch.rand(3, 3, 48, 56, generator=gen) * 2 - 1
    _, shown, good = inputs()
    good[1] = False
    fine = refine(network, vae, frames, shown, good, share=0.6, agree=2.0)
    assert torch.equal(fine[1], frames[1]) and not torch.equal(fine[0], frames[0])
    for i in (0, 2):
        known, made = (shown[i : i + 1], good[i : i + 1]), vae.encode_image(frames[i : i + 1])
        latents = settled(0.4 * made + 0.6 * network(made, *known), *known, network.gain, 2.0)
        torch.testing.assert_close(fine[i : i + 1], vae.decode_image(latents), rtol=1e-4, atol=1e-4)
    assert torch.equal(refine(network, vae, frames, shown, torch.zeros_like(good)), frames)


GAIN = torch.linspace(0.05, 0.3, CHANNELS)


def by_hand(fine, shown, good, agree: float) -> torch.Tensor:
    """`settled`, cell by cell."""
    out = fine.clone()
    n, _, h, w = fine.shape
    for i, y, x in [(i, y, x) for i in range(n) for y in range(h) for x in range(w) if good[i, y, x]]:
        near = [
            float((GAIN * (shown - fine)[i, :, b, a]).square().sum())
            for b in range(max(0, y - 1), min(h, y + 2))
            for a in range(max(0, x - 1), min(w, x + 2))
            if good[i, b, a]
        ]
        share = TAKEN * math.exp(-sum(near) / len(near) / agree**2)
        out[i, :, y, x] = fine[i, :, y, x] + share * (shown - fine)[i, :, y, x]
    return out


def test_memory_settles_what_it_agrees_about():
    fine, noise, good = inputs()
    shown = fine + 0.3 * noise
    spoilt = torch.where(good[:, None], shown, torch.nan)
    for agree in (0.05, 0.2, 1.0):
        found = settled(fine, spoilt, good, GAIN, agree)
        torch.testing.assert_close(found, by_hand(fine, shown, good, agree))
        assert torch.equal(found.movedim(1, -1)[~good], fine.movedim(1, -1)[~good]), "nothing known, nothing touched"
    assert torch.equal(settled(fine, shown, good, GAIN, 0.0), fine)


def test_what_has_moved_is_not_taken_back():
    """A ball that memory shows elsewhere stays where it was made, what lies around it is memory's."""
    gain = torch.full((CHANNELS,), 0.1)
    fine, good = torch.zeros(1, CHANNELS, 9, 9), torch.ones(1, 9, 9, dtype=torch.bool)
    shown = fine + 0.05
    fine[..., 4, 4] = 10.0
    found = settled(fine, shown, good, gain, 0.1)
    torch.testing.assert_close(found[..., 4, 4], fine[..., 4, 4], rtol=0, atol=1e-3)
    torch.testing.assert_close(found[..., 0, 0], torch.full((1, CHANNELS), 0.05 * TAKEN), rtol=0.05, atol=0)


def test_weights_come_back_and_what_is_no_refiner_is_refused(tmp_path):
    folder = write_tiny_model(tmp_path / "tiny")
    network = load_refiner(folder / "refiner.safetensors")
    assert network.config == RefinerConfig(CHANNELS, width=8, blocks=1) and not network.training
    assert not any(p.requires_grad for p in network.parameters())
    with pytest.raises(InputError, match="holds a network for 'vae'; expected one for 'refiner'"):
        load_refiner(folder / "vae.safetensors")
    with pytest.raises(MissingWeightsError):
        load_refiner(folder / "none.safetensors")
    with pytest.raises(ConfigError, match="unknown settings of a refiner: depth"):
        RefinerConfig.from_dict({"depth": 3})
    with pytest.raises(ConfigError, match="at least 1"):
        RefinerConfig(width=0)
