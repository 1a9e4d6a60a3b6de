#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Writes docs/gallery.md and the pictures of the pages, in a size to be kept, from what the examples have drawn.

    docs/gallery.py FOLDER

FOLDER holds what the commands at the end of the page have left there. On Debian: apt-get install python3-pil
fonts-dejavu-core
"""

import json
import pathlib
import sys

from PIL import Image, ImageDraw, ImageFont

MODELS = ["nsf", "nsf_ar", "maf_mog", "maf", "iaf", "realnvp", "glow", "gaussianization", "planar", "nice", "rbig"]
ACROSS, SIDE, GAP, LINE = 6, 146, 4, 20  # columns of a sheet; pixels: a panel, between panels, a line of text
SMALL, BOLD = ImageFont.truetype("DejaVuSans.ttf", 12), ImageFont.truetype("DejaVuSans-Bold.ttf", 14)
IMAGES = pathlib.Path(__file__).parent / "images"


def load(path, width=None):
    picture = Image.open(path).convert("RGB")
    return picture.resize((width, round(picture.height * width / picture.width)), Image.LANCZOS) if width else picture


def save(picture, name, colors=64):
    picture.quantize(colors, dither=Image.Dither.NONE).save(IMAGES / name, optimize=True)


def save_film(frames, name):
    """All frames in the colours of the last one, which stays."""
    palette = frames[-1].quantize(48, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    first, *rest = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    first.save(IMAGES / name, save_all=True, append_images=rest, loop=0, optimize=True,
               duration=[120] * len(rest) + [3000])


def panels(path):
    """Data, model and samples of a picture by fit_2d: what is within its three frames."""
    picture = load(path)

    def inked(x, y):
        return picture.getpixel((x, y)) != (255, 255, 255)

    # the upper edges of the frames: the first row that is white only between and beside them
    top = next(y for y in range(picture.height)
               if sum(inked(x, y) for x in range(picture.width)) > 0.8 * picture.width)
    edges = [x for x in range(1, picture.width) if inked(x, top) != inked(x - 1, top)]
    return [picture.crop((left + 1, top + 1, right - 1, top + right - left - 1)).resize((SIDE, SIDE), Image.LANCZOS)
            for left, right in zip(edges[::2], edges[1::2])]


def sheet(folder, toy, kl):
    """A cell for the data and one for each model: name and divergence, density, samples."""
    rows, height = -(-(1 + len(MODELS)) // ACROSS), LINE + 2 * (SIDE + GAP)
    picture = Image.new("RGB", (ACROSS * (SIDE + GAP) - GAP, rows * (height + 2 * GAP) - 2 * GAP), "white")
    draw = ImageDraw.Draw(picture)

    def paste(panel, x, y):
        draw.rectangle((x, y, x + SIDE - 1, y + SIDE - 1), outline=(184, 189, 199))
        picture.paste(panel.crop((1, 1, SIDE - 1, SIDE - 1)), (x + 1, y + 1))

    for i, model in enumerate([None] + MODELS):
        x, y = i % ACROSS * (SIDE + GAP), i // ACROSS * (height + 2 * GAP)
        shown = model or MODELS[0]
        data, density, samples = panels(folder / f"{shown}_s1" / f"{toy}_{shown}.png")
        if model:
            draw.text((x, y + LINE - 4), model, "black", SMALL, "ls")
            draw.text((x + SIDE, y + LINE - 4), f"{kl[model]:.4f}", "black", SMALL, "rs")
            paste(density, x, y + LINE)
        else:
            draw.text((x + SIDE / 2, y + LINE + SIDE / 2), toy.replace("_", "\n"), "black", BOLD, "mm", align="center")
            draw.text((x + SIDE / 2, y + LINE + SIDE - 4), "data", "black", SMALL, "md")
        paste(samples if model else data, x, y + LINE + SIDE + GAP)
    return picture


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    folder = pathlib.Path(sys.argv[1])
    (IMAGES / "gallery").mkdir(parents=True, exist_ok=True)

    kl, seconds = {}, 0
    for model in MODELS:
        for fit in json.loads((folder / "toys" / f"{model}_s1" / "results.json").read_text()):
            kl.setdefault(fit["toy"], {})[model] = fit["kl"]
            seconds = max(seconds, fit["seconds"])
    for toy in kl:
        save(sheet(folder / "toys", toy, kl[toy]), f"gallery/{toy}.png")
    for name in ("layers_that_bend", "layers_that_mix"):
        save(load(folder / "layers" / f"{name}.png"), f"{name}.png", 256)
    save(load(folder / "energies" / "energies_planar.png", 900), "planar.png")
    save_film([load(path, 720) for path in sorted((folder / "bend" / "frames").glob("*.png"))], "bend_grid.gif")

    sheets = "\n\n".join(f"![{toy}: data, density and samples of every model](images/gallery/{toy}.png)" for toy in kl)

    planar = json.loads((folder / "energies" / "results.json").read_text())
    energies, lengths = (list(dict.fromkeys(fit[key] for fit in planar)) for key in ("energy", "length"))
    cell = {(fit["energy"], fit["length"]): f"{fit['kl']:.4f} ± {fit['kl_stderr']:.4f}" for fit in planar}
    starts = planar[0]["starts"]
    lines = [[energy] + [cell[energy, length] for length in lengths] for energy in energies]
    lines = [["energy"] + [f"K = {length}" for length in lengths], ["---"] * (1 + len(lengths))] + lines
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    (IMAGES.parent / "gallery.md").write_text(f"""<!-- written by docs/gallery.py -->
# Gallery

What the examples draw. The densities of flows are exact, and so are those of the toys: hence a number, the
Kullback-Leibler divergence in nats, and not only an impression.

## How layers bend space

![Ten panels while a flow learns two moons: a grid and coloured points under more and more layers](images/bend_grid.gif)

A grid, and points of the base that keep their colours, under the first 1, 2, ... layers of a spline flow in the
direction of sampling, while it learns two moons. [bend_grid](../examples/bend_grid.cpp) draws it, of any toy and seven
kinds of layers. What single layers do is shown in [choosing a layer](choosing-a-layer.md).

## Every toy by every model

Each model in its default shape, trained for {seconds:.0f} s of one core (`rbig` is built, not trained), with seed 1:
above its density, below 50'000 of its samples. The number is KL(truth || model) of this fit; the [table](toys.md)
has the means over seeds.

{sheets}

## Planar flows, from the density alone

The densities of Rezende & Mohamed 2015, table 1, and planar flows of length K, fitted by reverse KL without any data,
as in figure 3 of that paper: the best of {starts} starts of {planar[0]["steps"] // starts} steps.

![Target and planar flows of each length, for each energy](images/planar.png)

KL(model || truth), and its standard error:

{table}

## What a log-determinant costs

![Time of one row against the number of features, for nine layers and the naive way](images/jacobian_cost.png)

The figures, and what to choose when: [the cost of log-dets](jacobian_cost.md).

## To make this again

```sh
cmake --preset demo && cmake --build build/demo --target fit_2d fit_energy bend_grid draw_layers
build/demo/examples/fit_2d --all --model nsf --seconds 30 --out out/toys/nsf_s1    # and so for each other model
build/demo/examples/fit_energy --all --out out/energies
build/demo/examples/bend_grid --seconds 20 --frames 20 --out out/bend
build/demo/examples/draw_layers --out out/layers
docs/gallery.py out
```
""")


if __name__ == "__main__":
    main()
