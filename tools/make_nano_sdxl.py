"""Makes the nano SDXL base from nothing: VAE, latents, UNet and text encoders together, judge, diffusers' folder.

    python -m tools.make_nano_sdxl --work build/nano --out models/nano-sdxl

Every stage saves its state in `--work` and an interrupted run goes on from there.  Run it with one thread
(`OMP_NUM_THREADS=1`) beside other work: it takes three hours on a CPU core.  `--base` goes on from a finished base.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffusers import AutoencoderKL

from tools.nano.export import export, load
from tools.nano.grid import sample_grid, sheet
from tools.nano.obedience import accuracy, obedient, train_judge
from tools.nano.text import make_tokenizers
from tools.nano.unet import make_latents, train_unet, untrained
from tools.nano.vae import drawings_only, folded, held_out_pixels, measure, train_vae, training_pixels


def round_of(text: str) -> tuple[int, float]:
    """Returns the steps and the rate of "2800:1.5e-3"."""
    steps, rate = text.split(":")
    return int(steps), float(rate)


def public(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a network's settings without what diffusers notes of where it was read from."""
    return {name: value for name, value in config.items() if not name.startswith("_")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True, help="folder for states and latents; kept between runs")
    parser.add_argument("--out", type=Path, required=True, help="folder of the finished pipeline")
    parser.add_argument("--base", type=Path, help="a finished base: its VAE stays, its other networks learn on")
    parser.add_argument("--vae-steps", type=int, default=2600, help="of 8 pictures")
    parser.add_argument(
        "--rounds",
        type=round_of,
        nargs="+",
        metavar="STEPS:RATE",
        default=[(2800, 1.5e-3), (1400, 1.2e-3), (3600, 1.2e-3)],
        help="of the UNet and the text encoders, each of 32 latents: steps and highest learning rate of each cosine",
    )
    parser.add_argument("--vae-pictures", type=int, default=8000)
    parser.add_argument("--pictures", type=int, default=24000)
    parser.add_argument("--peek", action="store_true", help="export and judge the states as they are, training nothing")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    if options.peek:
        options.vae_steps, options.rounds = 0, []

    tokenizers = make_tokenizers(options.work)
    nets = untrained(tokenizers[0])
    if options.base is None:
        pixels = training_pixels(options.work, options.vae_pictures)
        known = drawings_only(pixels)[:2000]
        vae = folded(train_vae(options.work, pixels, options.vae_steps, batch=8), known)
    else:
        base = load(options.base)
        vae = AutoencoderKL(**public(base.vae.config))
        vae.load_state_dict(base.vae.state_dict())
        for name, each in nets.items():
            each.load_state_dict(getattr(base, name).state_dict())
    pool = make_latents(options.work, vae, options.pictures)
    nets = train_unet(options.work, pool, tokenizers, nets, options.rounds, batch=32)
    pipeline = export(options.out, vae, nets, tokenizers)

    judge = train_judge(options.work)
    rows = sample_grid(pipeline)
    sheet(rows).save(options.out / "samples.png", optimize=True)
    found = {
        "vae": measure(pipeline.vae, held_out_pixels()),
        "judge on held-out drawings": accuracy(judge),
        "samples that obey": obedient(judge, rows),
    }
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
