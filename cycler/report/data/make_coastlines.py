"""Make coastlines.npz from Natural Earth's 1:110m countries.

Natural Earth (naturalearthdata.com) is in the public domain. Its 1:110m country polygons travel inside the
geopandas wheel up to version 0.14 (`pip download --no-deps geopandas==0.14.4`, unpack,
geopandas/datasets/naturalearth_lowres); then

    python cycler/report/data/make_coastlines.py naturalearth_lowres.shp cycler/report/data/coastlines.npz

A border between two countries is an edge that two polygons share; the other edges are coast. The file holds
`longitude` and `latitude` (float32, degrees, -180 to 180), lines separated by NaN. It is packaged because the maps of a
report must be drawn without access to the internet.
"""

import struct
import sys
from collections import Counter, defaultdict
from itertools import pairwise
from pathlib import Path

import numpy as np

Point = tuple[float, float]


def polygon_rings(path: Path) -> list[list[Point]]:
    """Return all rings of a shapefile of polygons (ESRI Shapefile Technical Description, 1998, pages 8-9)."""
    data = path.read_bytes()
    rings, position = [], 100
    while position < len(data):
        words = struct.unpack_from(">i", data, position + 4)[0]
        body = position + 8
        parts, points = struct.unpack_from("<2i", data, body + 36)
        starts = [*struct.unpack_from(f"<{parts}i", data, body + 44), points]
        corners = np.frombuffer(data, "<f8", 2 * points, body + 44 + 4 * parts).reshape(points, 2).round(4)
        rings += [[(float(x), float(y)) for x, y in corners[a:b]] for a, b in pairwise(starts)]
        position = body + 2 * words
    return rings


def coast_edges(rings: list[list[Point]]) -> list[tuple[Point, Point]]:
    """Return the edges that only one ring has, without those along the map's frame (180 degrees, the pole)."""
    edges = [edge for ring in rings for edge in pairwise(ring)]
    seen = Counter(frozenset(edge) for edge in edges)

    def on_frame(a: Point, b: Point) -> bool:
        return abs(a[0]) == abs(b[0]) == 180 or a[1] == b[1] == -90

    return [(a, b) for a, b in edges if seen[frozenset((a, b))] == 1 and a != b and not on_frame(a, b)]


def join(edges: list[tuple[Point, Point]]) -> list[list[Point]]:
    """Join edges end to end into lines."""
    following: dict[Point, list[Point]] = defaultdict(list)
    arriving = Counter(end for _, end in edges)
    for start, end in edges:
        following[start].append(end)
    # Open lines are followed from their first point; closed coasts, which come last, may start anywhere.
    starts = sorted(following, key=lambda point: arriving[point])
    lines = []
    for start in starts:
        while following[start]:
            line = [start]
            while following[line[-1]]:
                line.append(following[line[-1]].pop())
            lines.append(line)
    return lines


if __name__ == "__main__":
    source, target = Path(sys.argv[1]), Path(sys.argv[2])
    lines = join(coast_edges(polygon_rings(source)))
    gap = np.full((1, 2), np.nan)
    joined = np.concatenate([points for line in lines for points in (np.array(line), gap)]).astype(np.float32)
    np.savez_compressed(target, longitude=joined[:, 0], latitude=joined[:, 1])
