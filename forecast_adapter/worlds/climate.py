"""Compare the nature run's climate with ERA5's.

`python -m dacycle.forecast_adapter.worlds.climate NATURE docs/nature-run` prints a Markdown table and draws a picture.
The ERA5 numbers are the channel means and standard deviations that FengWu normalises with (its `data_mean.npy` and
`data_std.npy`), to four digits.
"""

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dacycle.forecast_adapter.channels import LEVELS, index, readable
from dacycle.forecast_adapter.physics import GRAVITY
from dacycle.forecast_adapter.worlds.reference import Reference

__all__ = ["describe", "draw"]

ERA5: dict[str, tuple[float, float]] = {
    "z50": (199800, 3755),
    "z200": (115000, 5541),
    "z500": (53830, 3300),
    "z1000": (777.6, 1099),
    "t50": (214.7, 9.496),
    "t200": (219.7, 5.933),
    "t500": (251.7, 13.46),
    "t850": (272.8, 16.0),
    "t2m": (278.8, 21.32),
    "q200": (1.737e-05, 2.094e-05),
    "q500": (7.819e-04, 1.023e-03),
    "q700": (2.246e-03, 2.493e-03),
    "q850": (4.328e-03, 4.185e-03),
    "u50": (4.449, 11.56),
    "u200": (15.3, 17.29),
    "u500": (7.078, 12.22),
    "u850": (1.283, 8.179),
    "v500": (0.0007, 9.321),
    "u10": (-0.1419, 5.61),
    "msl": (100980, 1336),
}


class Sample:
    """Every eighth state of a reference in memory: states (n, 69, H, W), and extra fields (n, H, W) by name."""

    def __init__(self, reference: Reference) -> None:
        self.grid = reference.grid
        self.times = reference.times[::8]
        self.states = np.stack([reference.array(time) for time in self.times])
        surface = [reference.surface(time, ("tp6h", "olr")) for time in self.times]
        self.surface = {name: np.stack([fields[name].values for fields in surface]) for name in surface[0]}
        self.month = self.times.astype("datetime64[M]").astype(int) % 12 + 1

    def global_mean(self, fields: NDArray) -> NDArray:
        """Return the mean over the first axis (times) and, weighted by area, the last two."""
        return (fields.mean(0) * self.grid.weights).mean((-2, -1))


def describe(sample: Sample) -> str:
    """Return the climate as Markdown: global means and standard deviations beside ERA5's, jets, rain, radiation."""
    mean = sample.global_mean(sample.states)
    std = np.sqrt(sample.global_mean((sample.states - mean[:, None, None]) ** 2))
    lines = ["| channel | unit | mean | ERA5 | standard deviation | ERA5 |", "|---|---|---|---|---|---|"]
    for name, (era_mean, era_std) in ERA5.items():
        i, (factor, unit) = index(name), readable(name)
        values = " | ".join(f"{factor * v:.4g}" for v in (mean[i], era_mean, std[i], era_std))
        lines.append(f"| {name} | {unit} | {values} |")
    rain, olr = (float(sample.global_mean(sample.surface[name])) for name in ("tp6h", "olr"))
    lines += ["", f"Precipitation {4 * rain:.2f} mm/day, outgoing long-wave radiation {olr:.1f} W/m2, global means."]
    for label, months in (("December to February", (12, 1, 2)), ("June to August", (6, 7, 8))):
        jets = sample.states[np.isin(sample.month, months), index("u200")].mean((0, 2))
        north, south = sample.grid.latitude > 0, sample.grid.latitude < 0
        peaks = [(jets[half].max(), sample.grid.latitude[half][jets[half].argmax()]) for half in (north, south)]
        text = " and ".join(f"{speed:.0f} m/s at {abs(lat):.0f}{'S' if lat < 0 else 'N'}" for speed, lat in peaks)
        lines.append(f"{label}: zonal-mean u200 jets of {text}.")
    return "\n".join(lines) + "\n"


def draw(sample: Sample, path: Path) -> None:
    """Draw zonal-mean wind in two seasons, rain and radiation by latitude, and storm tracks, as one PNG."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, 2, figsize=(10, 6.5), layout="constrained")
    wind = [index(f"u{level}") for level in LEVELS]
    for ax, label, months in zip(
        axes[0], ("December to February", "June to August"), ((12, 1, 2), (6, 7, 8)), strict=True
    ):
        section = sample.states[np.isin(sample.month, months)][:, wind].mean((0, 3))
        filled = ax.contourf(sample.grid.latitude, LEVELS, section, np.arange(-40, 61, 5), cmap="RdBu_r", extend="both")
        ax.set(title=f"zonal-mean u (m/s), {label}", ylim=(1000, 50), yscale="log", ylabel="hPa")
        ax.set_yticks(ticks := [50, 100, 200, 300, 500, 700, 1000], [str(level) for level in ticks], minor=False)
        ax.minorticks_off()
        figure.colorbar(filled, ax=ax)
    axes[1, 0].plot(sample.grid.latitude, 4 * sample.surface["tp6h"].mean((0, 2)), color="tab:blue")
    axes[1, 0].set(title="precipitation (mm/day, blue) and OLR (W/m2, red)", xlabel="latitude")
    axes[1, 0].twinx().plot(sample.grid.latitude, sample.surface["olr"].mean((0, 2)), color="tab:red")
    z500 = sample.states[:, index("z500")] / GRAVITY
    tracks = np.diff(z500, axis=0).std(0) / np.sqrt(2)  # two days apart: seasons cancel, weather stays
    shown = axes[1, 1].pcolormesh(sample.grid.longitude, sample.grid.latitude, tracks, cmap="viridis")
    axes[1, 1].set(title="two-day variability of z500 (m)", xlabel="longitude")
    figure.colorbar(shown, ax=axes[1, 1])
    figure.savefig(path, dpi=90)


def main() -> None:
    """Write OUT.png, and print the table, for the folder of a nature run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("nature", type=Path, help="folder of the nature run, or of one of its years")
    parser.add_argument("out", type=Path, help="picture to write, without its suffix")
    options = parser.parse_args()
    sample = Sample(Reference(options.nature))
    draw(sample, options.out.with_suffix(".png"))
    print(describe(sample))


if __name__ == "__main__":
    main()
