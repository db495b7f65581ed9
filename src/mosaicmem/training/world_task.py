"""Training of the world model: clips as latents, memory by the code that generation uses, flow matching."""

from __future__ import annotations

import math
from collections.abc import Container, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from mosaicmem._shapes import Bool, Float, Int64, Tensor
from mosaicmem.diffusion.flow import add_noise, draw_sigma, flow_loss, x0_from
from mosaicmem.errors import ConfigError, InputError, refuse
from mosaicmem.geometry.cameras import Cameras
from mosaicmem.geometry.token_grid import TokenGrid
from mosaicmem.memory.lifting import lift
from mosaicmem.memory.patches import Keyframe
from mosaicmem.memory.retrieval import RetrievalConfig
from mosaicmem.memory.store import PatchStore
from mosaicmem.models.conditioning import Alignment, MemoryTokens, assemble, draw_alignment, look
from mosaicmem.models.memory_batch import MemoryBatch
from mosaicmem.models.text import tokenize
from mosaicmem.models.transformer import TransformerConfig
from mosaicmem.models.vae import VAE
from mosaicmem.models.video_vae import VideoVAE
from mosaicmem.models.world_model import WorldNetwork, window_cameras
from mosaicmem.ops.prope import TokenCameras
from mosaicmem.training.cache import STEP
from mosaicmem.training.distributed import beside, on_device, sixteen_bits
from mosaicmem.training.latent_clip import LatentClip, read_latents
from mosaicmem.training.twins import (
    RETOLD,
    TWINS,
    deal,
    draw_twin,
    families,
    louder,
    other_words,
    shared_moving,
    twins_apart,
    words_missed,
)
from mosaicmem.training.weights import cell_weights, channel_weights, pixel_loss, wrong
from mosaicmem.worlds.episodes import FPS, Event, spoken

BUSIEST_OF = 8
"""Windows that are drawn for a busy sample."""


@dataclass(frozen=True)
class WorldTaskConfig:
    """How samples are drawn.

    Attributes:
        batch: Windows a step.
        latents: To generate in a window, after its anchor.
        past: Share of steps whose windows begin with the latent of the frames before their anchor, for a network that
            reads it.
        no_memory, no_cameras, no_text: Shares of samples without; one model then answers for every ablation.
        recent: Share of samples whose memory is only the newest few keyframes.
        future: Share of samples whose memory may also come from after the window: a clip seen from its end.
        max_keyframes: Memory of one sample.
        depth_error: Spread of a keyframe's depth scale, and of its smooth local error.
        echo: Share of samples whose history went through the autoencoder, as generated frames do.
        degrade: Share of samples with noise of up to 0.15 on anchor and memory, against drift.
        rehearse: Share of samples whose newest history the model made itself, one or two windows of it, decoded and
            encoded again as in generation, against drift.
        moving: What a cell that shows only moving things counts in the loss more than one that shows none.
        moving_most: What all that moves in a window may count more, in windows: a ball is small, a door is not. None:
            no limit.
        event: Share of samples of a clip with an event that begin right at it.
        busy: Share of samples that are, of eight drawn, the one in which the most moves: a door that opens is rare.
        twins: Share of samples that come in pairs, of clips that have twins (`cache.render_twins`): one window from
            nothing but noise, one memory, and all that differs is what happens and what is said (`training.twins`).
        apart: What an error in how twins differ counts beside the error of each, in cells that show moving things.
            In the difference cancels what nobody can know, such as where a ball will be, and what words change is left.
        keep: Above 0, all samples but twins are asked for what the weights that training started from answer, instead
            of for the truth, and count so often; where things move, and once something has begun by itself wherever
            these weights are wrong, it stays the truth. Twins then teach what is new and little else is forgotten
            (Li & Hoiem 2016, "Learning without Forgetting").
        retold: Share of samples that come in threes: one window from nothing but noise, told that nothing happens and
            two things that might, all asked for what the teacher answers. It needs `keep`, which alone keeps places
            and lets go of words: what they say of a ball is a thousandth of an answer.
        heard: What missing what the teacher's words change counts in these samples, see `training.twins.words_missed`.
        louder: How many times what words change for the teacher they are to change here: more than 1 draws balls more
            clearly than the teacher does.
        pixels: What an error in decoded frames counts beside one in latents, where the autoencoder can be
            differentiated.
        pixel_cells: Side of the square, in cells, of every latent that is decoded for it.
        shift: Of the noise levels.
        seed: Of all draws.
    """

    batch: int = 8
    latents: int = 4
    past: float = 0.8
    no_memory: float = 0.12
    no_cameras: float = 0.1
    no_text: float = 0.12
    recent: float = 0.12
    future: float = 0.5
    max_keyframes: int = 16
    depth_error: float = 0.02
    echo: float = 0.5
    degrade: float = 0.4
    rehearse: float = 0.15
    moving: float = 8.0
    moving_most: float | None = None
    event: float = 0.4
    busy: float = 0.0
    twins: float = 0.0
    apart: float = 0.0
    keep: float = 0.0
    retold: float = 0.0
    heard: float = 1.0
    louder: float = 1.0
    pixels: float = 10.0
    pixel_cells: int = 8
    shift: float = 2.0
    seed: int = 0

    def __post_init__(self) -> None:
        whole = ("batch", "latents", "max_keyframes", "pixel_cells")
        shares = ("past", "no_memory", "no_cameras", "no_text", "recent", "future", "echo", "degrade", "rehearse")
        shares += ("event", "busy", "twins", "retold")
        counts = ("depth_error", "moving", "apart", "keep", "heard", "louder", "pixels")
        most = self.moving_most
        told = {name: getattr(self, name) for name in (*whole, *shares, *counts)}
        refuse(
            *((told[name] < 1, f"{name} = {told[name]}: expected 1 or more") for name in whole),
            *((not 0 <= told[name] <= 1, f"{name} = {told[name]}: expected 0 to 1") for name in shares),
            *((not 0 <= told[name] < math.inf, f"{name} = {told[name]}: expected 0 or more") for name in counts),
            (not 0 < self.shift < math.inf, f"shift = {self.shift}: expected more than 0"),
            (most is not None and not 0 < most < math.inf, f"moving_most = {most}: expected more than 0, or none"),
            (self.seed < 0, f"seed = {self.seed}: expected 0 or more"),
        )
        few = "{} = {} of a batch of {}: gives no {} samples; give more of either"
        refuse(
            (0 < self.twins * self.batch < TWINS, few.format("twins", self.twins, self.batch, TWINS)),
            (0 < self.retold * self.batch < RETOLD, few.format("retold", self.retold, self.batch, RETOLD)),
            (self.retold > 0 and self.keep == 0, f"retold = {self.retold}: keeps what words change; give keep too"),
            (self.retold == 0 and self.heard != 1, f"heard = {self.heard}: counts what words change; give retold too"),
            (self.retold == 0 and self.louder != 1, f"louder = {self.louder}: of what words change; give retold too"),
            (self.twins + self.retold > 1, f"twins = {self.twins}, retold = {self.retold}: expected 1 together"),
            (self.apart > 0 and self.twins == 0, f"apart = {self.apart}: counts how twins differ; give twins too"),
            (self.apart > 0 and self.moving == 0, f"apart = {self.apart}: counts what moves; give moving above 0"),
        )


@dataclass(frozen=True)
class WorldBatch:
    """One step's samples."""

    latents: Float[Tensor, "b c l h w"]  # clean targets, the (degraded) anchor first
    sigma: Float[Tensor, " b"]
    noise: Float[Tensor, "b c g h w"]
    moving: Float[Tensor, "b 1 g h w"]  # share of cells that shows what moves, in any of its twins
    weight: Float[Tensor, "b 1 g h w"]  # of cells in the loss
    words: Int64[Tensor, "b s"]
    memory: MemoryBatch | None
    cameras: TokenCameras
    twins: Int64[Tensor, " b"]  # samples of one number are twins; -1 has none
    retold: Int64[Tensor, " b"]  # samples of one number are one window that is told different things; -1 is told one
    taught: Bool[Tensor, " b"]  # whether a teacher is asked
    begun: Bool[Tensor, " b"]  # whether something has begun by itself
    past: Float[Tensor, "b c h w"] | None = None


class WorldTask:
    """Flow matching with memory (see `training.task.Task`).

    Args:
        paths, held_out: Encoded clips.
        model, words: Sizes of the network.
        grid, config: Strides, and how samples are drawn.
        vae: The autoencoder of the latents: its kernel reads memory between cells, and rehearsals need it. Without
            one, cells are read bilinearly and nothing is rehearsed.
        teacher: The network whose answers are kept (`WorldTaskConfig.keep`).

    Raises:
        ConfigError: if there are no clips, or no twins or no teacher where the settings ask for them.
    """

    name = "world"

    def __init__(
        self, paths: Sequence[Path], held_out: Sequence[Path], model: TransformerConfig, grid: TokenGrid,
        config: WorldTaskConfig | None = None, *, words: int = 48, vae: VAE | None = None,
        teacher: WorldNetwork | None = None,
    ) -> None:  # fmt: skip
        self.settings, self.grid, self.words = config or WorldTaskConfig(), grid, words
        self.vae = vae
        self._decoder = vae.requires_grad_(False) if isinstance(vae, VideoVAE) and self.settings.pixels else None
        self.module = WorldNetwork(model, words)
        self.module.transformer.look_at_own_place()
        self._paths, self._held_out = list(paths), list(held_out)
        if not self._paths:
            raise ConfigError("no encoded clips to train on; render and encode some first")
        if self.settings.keep and teacher is None:
            raise ConfigError(f"keep = {self.settings.keep}: keeps what weights answer; give some to start from")
        self._teacher = teacher.eval().requires_grad_(False) if teacher and self.settings.keep else None
        cfg = self.settings
        self._families = families(self._paths, moving=cfg.apart > 0) if cfg.twins else []
        self._eventful, self._other_words = other_words(self._paths) if cfg.retold else ([], {})
        self._twins = TWINS * (int(cfg.twins * cfg.batch) // TWINS)  # the first so many samples of a step
        self._retold = RETOLD * (int(cfg.retold * cfg.batch) // RETOLD)  # those that follow

    @property
    def needs_weights(self) -> bool:
        """Whether the model rehearses: some of the history is then what it makes of it."""
        return self.settings.rehearse > 0 and self.vae is not None

    def batch(self, step: int, rank: int = 0, world_size: int = 1) -> WorldBatch:
        """The samples of a step that belong to a rank: a function of seed, step and rank, and of the weights where
        the model rehearses."""
        first = step * self.settings.batch
        sets = [TWINS] * (self._twins // TWINS) + [RETOLD] * (self._retold // RETOLD)
        members = deal(self.settings.batch, sets, rank, world_size)
        return self._collate([self._sample(self._paths, first + i) for i in members])

    def samples(self, indices: Sequence[int], *, held_out: bool = False) -> tuple[list[dict[str, Any]], WorldBatch]:
        """Windows by number, for tasks that go on from what this model makes of them, and their batch.

        A sample's `shown` is what memory shows of its reference frames (latents and good cells, None without memory),
        its `still` their true image latents `[l c h w]`. Held-out windows are not spoilt in any way.
        """
        paths = self._held_out if held_out else self._paths
        found = [self._sample(paths, i, plain=held_out) for i in indices]
        return found, self._collate(found)

    def loss(self, module: nn.Module, batch: WorldBatch) -> tuple[Tensor, dict[str, float]]:
        """Velocity error of the latents to generate, channels weighted by what they do to pixels."""
        assert isinstance(module, WorldNetwork)
        sigma = batch.sigma[:, None, None, None, None]
        x0 = batch.latents[:, :, 1:]
        noisy = add_noise(x0, batch.noise, sigma)
        guess = x0_from(_answer(module, batch, noisy), noisy, sigma, module.config.prediction)
        weight = channel_weights(module.gain[1])[:, None, None, None]
        cells = batch.weight
        if self._teacher is not None and torch.is_grad_enabled():  # held-out windows are asked for the truth
            x0, cells = self._kept(self._teacher, batch, noisy, weight)
        loss = flow_loss(guess, x0, batch.noise, sigma, "x0", weight=weight * cells)
        metrics: dict[str, float] = {}
        if self._twins and self.settings.apart:
            beyond = weight * (batch.weight - 1)  # where something moves: elsewhere twins are equal anyway
            differ = twins_apart(beyond.sqrt() * (guess - x0), batch.twins)
            loss = loss + self.settings.apart * differ
            metrics["apart"] = float(differ.detach())
        if self._retold and torch.is_grad_enabled():
            scale = (weight * batch.weight).sqrt()
            missed = words_missed(scale * (guess - x0), scale * x0, batch.retold)
            share = (batch.retold >= 0).float().mean()  # so that ranks with more sets or fewer count as one would
            loss = loss + self.settings.heard * share * missed
            metrics["words_missed"] = float(missed.detach())
        if self._decoder is not None:
            self._decoder = beside(self._decoder, x0)
            side = self.settings.pixel_cells if torch.is_grad_enabled() else max(x0.shape[-2:])
            flat = [z.transpose(1, 2).flatten(0, 1) for z in (guess, x0, cells)]
            seen = pixel_loss(self._decoder.decode_groups, flat[0], flat[1], side, flat[2][:, 0])
            loss = loss + self.settings.pixels * seen
            metrics["pixel_error"] = float(seen.detach())
        with torch.no_grad():
            high = batch.sigma > 0.7
            error = (weight * (guess - x0).square())[high].mean() if bool(high.any()) else torch.tensor(float("nan"))
        return loss, {"x0_error_high": float(error), **metrics}

    @torch.no_grad()
    def _kept(self, teacher: WorldNetwork, batch: WorldBatch, noisy: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        """What is asked for, and what its cells count, where a teacher answers for some samples."""
        x0, sigma = batch.latents[:, :, 1:], batch.sigma[:, None, None, None, None]
        taught, retold, begun = (of[:, None, None, None, None] for of in (batch.taught, batch.retold >= 0, batch.begun))
        teacher = teacher.to(x0.device)
        answer = x0_from(_answer(teacher, batch, noisy), noisy, sigma, teacher.config.prediction)
        answer = louder(answer, batch.retold, self.settings.louder)
        true = torch.where(retold, 0.0, batch.moving)  # nobody filmed what might have happened
        true = torch.where(begun, torch.maximum(true, wrong(weight * (answer - x0).square())), true)
        target = torch.where(taught, torch.lerp(answer, x0, true), x0)
        return target, torch.where(taught, self.settings.keep, 1.0) * batch.weight

    @torch.no_grad()
    def evaluate(self, module: nn.Module) -> dict[str, float]:
        """Held-out one-step x0 error from pure noise, with memory and without; with it, that of pixels too."""
        errors: dict[str, list[float]] = {"with": [], "without": []}
        pixels: list[float] = []
        assert isinstance(module, WorldNetwork)
        for start in range(0, 32, 8):
            samples = [self._sample(self._held_out, 10**6 + start + i, plain=True) for i in range(8)]
            for name in errors:
                batch = self._collate(samples, memory=name == "with")
                one = torch.ones(len(samples))
                clean = on_device(replace(batch, sigma=one), module.gain.device)
                metrics = self.loss(module, clean)[1]
                errors[name].append(metrics["x0_error_high"])
                if name == "with" and "pixel_error" in metrics:
                    pixels.append(metrics["pixel_error"])
        found = {f"held_out_{k}_memory": float(np.mean(v)) for k, v in errors.items()}
        return found | ({"held_out_pixels": float(np.mean(pixels))} if pixels else {})

    def config(self) -> dict[str, Any]:
        """Settings, model sizes and the data's identity."""
        data = {"clips": len(self._paths), "first": self._paths[0].stem, "last": self._paths[-1].stem}
        model = self.module.config.to_dict()
        return {"task": self.name, "settings": asdict(self.settings), "model": model, "words": self.words, "data": data}

    def picture(self, module: nn.Module) -> None:
        """No picture: latents need the autoencoder; `mosaicmem generate` shows what a checkpoint does."""

    def _sample(self, paths: list[Path], index: int, plain: bool = False) -> dict[str, Any]:
        cfg = self.settings
        step_number, member = divmod(index, cfg.batch)
        twins = member // TWINS if not plain and member < self._twins else -1
        later = member - self._twins
        retold = later // RETOLD if not plain and 0 <= later < self._retold else -1
        # one for a whole step: samples with memory of one kind have about as many tokens, and need little padding
        step = torch.Generator().manual_seed((cfg.seed * 1_000_003 + step_number) % 2**64)
        alignment = "mixture" if plain else draw_alignment(step)
        with_past = self.module.config.reads_past and (plain or float(torch.rand((), generator=step)) < cfg.past)
        common = None
        if twins >= 0:
            rng = np.random.default_rng((cfg.seed, step_number, twins))
            clip, start, common = draw_twin(self._families, member % TWINS, cfg.latents, int(with_past), rng)
        elif retold >= 0:
            rng = np.random.default_rng((cfg.seed, step_number, self._twins + retold))
            clip, start = self._drawn(self._eventful, rng, int(with_past), BUSIEST_OF)
        else:
            rng = np.random.default_rng((cfg.seed, index))
            busy = not plain and cfg.busy > 0 and rng.random() < cfg.busy
            clip, start = self._drawn(paths, rng, int(with_past), BUSIEST_OF if busy else 1)
        generator = torch.Generator().manual_seed(int(rng.integers(2**40)))
        history = clip.echo if not plain and rng.random() < cfg.echo else clip.image
        groups = clip.groups
        if not plain and twins < 0 and retold < 0 and rng.random() < cfg.rehearse:
            history, groups = self._rehearsed(clip, history, start, rng, generator)
        past = groups[start - 1] if with_past else None
        sample = self._window(clip, history, start, rng, generator, plain, alignment, past, common)
        if twins < 0 and retold < 0:
            begun = any(frame <= STEP * (start + 1) for frame, _ in clip.happens)
            return sample | {"taught": not plain and cfg.keep > 0, "begun": begun}
        told = clip.prompt(start) if twins >= 0 else self._retelling(clip, rng)[later % RETOLD]
        # sets without words would be one question with two answers, and the first look settles what words change
        return sample | {"prompt": told, "sigma": torch.ones(()), "twins": twins, "retold": retold, "taught": twins < 0}

    def _retelling(self, clip: LatentClip, rng: np.random.Generator) -> list[str]:
        """A clip's caption, and with two things that might happen."""
        words = self._other_words[clip.event]
        chosen = [words[int(k)] for k in rng.choice(len(words), RETOLD - 1, replace=False)]
        return [clip.caption, *(spoken(clip.caption, [Event(0, text)], 0) for text in chosen)]

    def _drawn(
        self, paths: list[Path], rng: np.random.Generator, first: int, many: int
    ) -> tuple[LatentClip, int]:  # fmt: skip
        """A clip and where its window begins; of `many` drawn, the one in which the most moves."""
        found: list[tuple[LatentClip, int]] = []
        for _ in range(many):
            path = paths[int(rng.integers(len(paths)))]
            clip = read_latents(path)
            self._check_long_enough(clip, path)
            found.append((clip, _window_start(clip, self.settings.latents, rng, self.settings.event, first)))
        return max(found, key=lambda drawn: _movement(*drawn, self.settings.latents))

    def _check_long_enough(self, clip: LatentClip, path: Path) -> None:
        """Refuse a clip without a window of its own: one beyond its ends would be read from elsewhere in it."""
        size, past = self.settings.latents, int(self.module.config.reads_past)
        if len(clip.groups) < size + past:
            raise InputError(
                f"{path}: holds {len(clip.groups)} latents to generate, a window takes {size}"
                f"{' and the one before it' if past else ''}; give a smaller task.latents, or leave such clips out"
            )

    def _window(
        self, clip: LatentClip, history: Tensor, start: int, rng: np.random.Generator, generator: torch.Generator,
        plain: bool = True, alignment: Alignment = "mixture", past: Tensor | None = None,
        common: Container[int] | None = None,
    ) -> dict[str, Any]:  # fmt: skip
        """The sample of one window; a plain one keeps everything and spoils nothing. Memory holds no keyframe but
        `common` ones, if given."""
        cfg = self.settings
        groups = clip.groups[start : start + cfg.latents]
        scale = float(clip.depth[0][clip.depth[0] > 0].median()) if bool((clip.depth[0] > 0).any()) else 1.0
        window = clip.cameras[STEP * start : STEP * (start + cfg.latents) + 1]
        anchor = history[start : start + 1]
        if not plain and rng.random() < cfg.degrade:
            level = float(rng.uniform(0, 0.15))
            anchor = anchor + level * torch.randn(anchor.shape, generator=generator)
            past = None if past is None else past + level * torch.randn(past.shape, generator=generator)
        tokens, shown = self._memory(clip, history, start, window, rng, generator, plain, alignment, common)
        with_cameras = plain or rng.random() >= cfg.no_cameras
        sigma = draw_sigma(1, generator, cfg.shift)
        return {
            "latents": torch.cat([anchor, groups]).transpose(0, 1),
            "sigma": sigma[0],
            "noise": torch.randn(groups.transpose(0, 1).shape, generator=generator),
            "moving": torch.zeros(groups[:, :1].transpose(0, 1).shape)
            if clip.moving is None
            else clip.moving[None, start : start + cfg.latents],
            "prompt": clip.prompt(start) if plain or rng.random() >= cfg.no_text else "",
            "tokens": tokens,
            "shown": shown,
            "still": clip.image[start + 1 : start + cfg.latents + 1],
            "window": window.recentred().scaled(1 / scale),
            "past": past,
            "before": None if past is None else _before(clip, start, scale),
            "cameras": with_cameras,
        }

    @torch.no_grad()
    def _rehearsed(
        self, clip: LatentClip, history: Tensor, start: int, rng: np.random.Generator, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """History and groups whose newest frames before `start` the model made, one step a window, from what was
        before."""
        size = self.settings.latents
        windows = min(int(rng.integers(1, 3)), start // size)
        first = start - windows * size
        if self.vae is None or not windows or any(first < at < start for at in clip.beginnings):
            return history, clip.groups
        history, groups = history.clone(), clip.groups.clone()
        for at in range(first, start, size):
            past = groups[at - 1] if at and self.module.config.reads_past else None
            sample = self._window(clip, history, at, rng, generator, past=past)
            history[at + 1 : at + size + 1], groups[at : at + size] = self._imagine(sample)
        return history, groups

    @torch.no_grad()
    def guess(self, batch: WorldBatch) -> Float[Tensor, "b c g h w"]:
        """Windows by the model as it is now, in one step from pure noise."""
        module, device = self.module, self.module.gain.device
        batch = on_device(replace(batch, sigma=torch.ones_like(batch.sigma)), device)
        with torch.autocast(device.type, torch.bfloat16, enabled=sixteen_bits("auto", device)):
            out = _answer(module, batch, batch.noise)
        return x0_from(out.float(), batch.noise, torch.ones((), device=device), module.config.prediction)

    def _imagine(self, sample: dict[str, Any]) -> tuple[Float[Tensor, "l c h w"], Float[Tensor, "l c h w"]]:
        """A window by the model as it is now, in one step: as memory would hold its reference frames, and itself."""
        assert self.vae is not None
        batch = self._collate([sample])
        anchor, x0 = batch.latents[:, :, :1], self.guess(batch).cpu()
        frames = self.vae.decode_video(torch.cat([anchor, x0], dim=2))[0].transpose(0, 1)
        return self.vae.encode_image(frames[STEP::STEP]), x0[0].transpose(0, 1)

    def _memory(
        self, clip: LatentClip, history: Tensor, start: int, window: Cameras,
        rng: np.random.Generator, generator: torch.Generator, plain: bool, alignment: Alignment,
        common: Container[int] | None,
    ) -> tuple[MemoryTokens | None, tuple[Tensor, Tensor] | None]:  # fmt: skip
        """What memory would show of this window, as tokens and as a picture of its reference frames (`canvas`)."""
        cfg = self.settings
        ahead = [STEP * at + 1 for at in clip.beginnings if at > start]
        chosen = choose_keyframes(len(clip.image), start, cfg, rng, ahead[0] if ahead else None)
        chosen = [k for k in chosen if common is None or k in common]
        if not plain and rng.random() < cfg.no_memory:
            return None, None
        level = float(rng.uniform(0, 0.15)) if not plain and rng.random() < cfg.degrade else 0.0
        error = 0.0 if plain else cfg.depth_error
        store = PatchStore.empty().insert_all(
            [_keyframe(clip, history[k], k, self.grid, error, level, generator) for k in chosen]
        )
        kernel = None if self.vae is None else self.vae.kernel
        whole = bool(self.module.config.memory_subframes)
        view = look(store, window, self.grid, RetrievalConfig().inventing(), every=whole, kernel=kernel)
        times = (STEP * (start + 1 + torch.arange(len(view.mosaic)))).double() / FPS
        tokens = assemble(
            store, view.mosaic, alignment,
            first_latent=1, subframes=view.earlier, times=times, read=view.read,
        )  # fmt: skip
        return tokens, view.reference

    def _collate(self, samples: list[dict[str, Any]], memory: bool = True) -> WorldBatch:
        width = self.module.config.in_channels * self.grid.patch**2
        tokens = [s["tokens"] if memory else None for s in samples]
        empty = _no_tokens(width)
        batch = MemoryBatch.pad([t if t is not None else empty for t in tokens], width)
        past = [s["past"] for s in samples if s["past"] is not None]
        before = [s["before"] for s in samples] if past else None
        cameras = window_cameras([s["window"] for s in samples], self.grid, before)
        off = torch.tensor([not s["cameras"] for s in samples])
        for matrices in (cameras.P, cameras.PT, cameras.Pinv):
            matrices[off] = torch.eye(4)
        twins = torch.tensor([s.get("twins", -1) for s in samples])
        moving = shared_moving(torch.stack([s["moving"] for s in samples]), twins)
        return WorldBatch(
            torch.stack([s["latents"] for s in samples]),
            torch.stack([s["sigma"] for s in samples]),
            torch.stack([s["noise"] for s in samples]),
            moving,
            cell_weights(moving, self.settings.moving, self.settings.moving_most),
            tokenize([s["prompt"] for s in samples], self.words),
            batch if len(batch) else None,
            cameras,
            twins,
            torch.tensor([s.get("retold", -1) for s in samples]),
            torch.tensor([s.get("taught", False) for s in samples]),
            torch.tensor([s.get("begun", False) for s in samples]),
            torch.stack(past) if past else None,
        )


def _answer(network: WorldNetwork, batch: WorldBatch, noisy: Tensor) -> Float[Tensor, "b c g h w"]:
    """What a network makes of the windows of a batch."""
    return network.predict(
        noisy, batch.sigma, network.text(batch.words), batch.latents[:, :, 0],
        past=batch.past, memory=batch.memory, cameras=batch.cameras,
    )  # fmt: skip


def choose_keyframes(
    count: int, start: int, cfg: WorldTaskConfig, rng: np.random.Generator, before: int | None = None
) -> list[int]:
    """Keyframes (in steps of 4 frames) of one sample's memory, the anchor's always among them.

    None lies within 4 raw frames of a frame to be generated, except the anchor.

    Args:
        count: Keyframes of the clip.
        start: The anchor's.
        before: If given, only keyframes before this raw frame count besides the past.
    """
    past = list(range(start))
    future = [k for k in range(start + cfg.latents + 2, count) if before is None or STEP * k < before]
    kind = rng.random()
    if kind < cfg.recent:
        chosen = past[-int(rng.integers(1, 5)) :] if rng.random() < 0.6 else []
    else:
        pool = past + (future if rng.random() < cfg.future else [])
        keep = len(pool) if rng.random() < 0.5 else int(rng.integers(0, len(pool) + 1))
        keep = min(keep, cfg.max_keyframes - 1)
        chosen = sorted(int(k) for k in rng.choice(pool, keep, replace=False)) if keep else []
    return [*[k for k in chosen if k < start], start, *[k for k in chosen if k > start]]


def _before(clip: LatentClip, start: int, scale: float) -> Cameras:
    """Cameras of the group before an anchor, as the window's."""
    cameras = clip.cameras[[STEP * start, *range(STEP * (start - 1) + 1, STEP * start + 1)]]
    return cameras.recentred().scaled(1 / scale)[1:]


def _movement(clip: LatentClip, start: int, latents: int) -> float:
    """Share of a window that shows what moves; 0 where nobody knows."""
    return 0.0 if clip.moving is None else float(clip.moving[start : start + latents].mean())


def _window_start(clip: LatentClip, latents: int, rng: np.random.Generator, at_event: float, first: int = 0) -> int:
    """An anchor keyframe whose window the clip holds, and in which nothing begins but at its first latent; often right
    before the event."""
    last = len(clip.groups) - latents
    at = (clip.event_frame - 1) // STEP
    if clip.event and first <= at <= last and rng.random() < at_event:
        return at
    starts = range(min(first, last), last + 1)
    whole = [s for s in starts if not any(s < at < s + latents for at in clip.beginnings)]
    return int(rng.choice(whole or starts))


def _keyframe(
    clip: LatentClip, latents: Tensor, k: int, grid: TokenGrid, error: float, level: float, generator: torch.Generator
) -> Keyframe:  # fmt: skip
    depth = clip.depth[k]
    if error:
        coarse = error * torch.randn(1, 1, 4, 4, generator=generator)
        smooth = nn.functional.interpolate(coarse, depth.shape, mode="bicubic", align_corners=False)[0, 0]
        depth = depth * (smooth + error * torch.randn((), generator=generator)).exp()
    if level:
        latents = latents + level * torch.randn(latents.shape, generator=generator)
    return lift(latents, depth, clip.cameras[STEP * k], grid, frame=STEP * k, time=STEP * k / FPS)


def _no_tokens(width: int) -> MemoryTokens:
    none = torch.zeros(0, dtype=torch.int64)
    return MemoryTokens(
        torch.zeros(0, width), torch.zeros(0, 3, dtype=torch.float64), none, torch.zeros(0, 2, dtype=torch.int64), none,
        none.bool(),
    )  # fmt: skip
