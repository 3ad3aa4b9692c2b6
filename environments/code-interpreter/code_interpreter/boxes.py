"""Box-and-whisker charts, from the shapes that matplotlib draws for them.

The extraction of e2b-charts 1.0.0 compares sums of rounded numbers for equality: about every fourth chart has no result,
since a whisker then begins beside its box. It also takes outliers only one by one, where matplotlib draws all as one line.
"""

from __future__ import annotations

# As a part of the box's size: coordinates that shapes of a box share differ by rounding.
_TOLERANCE = 1e-6


def install() -> None:
    """Replaces the extraction of e2b-charts. Idempotent."""
    from e2b_charts.charts import bars, base

    def extract(self, ax) -> None:
        base.Chart2D._extract_info(self, ax)
        found, is_horizontal = boxes(ax)
        if is_horizontal:
            self._change_orientation()
        self.elements = [bars.BoxAndWhiskerData(**each) for each in found]

    bars.BoxAndWhiskerChart._extract_info = extract


def boxes(ax) -> "tuple[list[dict], bool]":
    """The boxes of `ax`, drawn as patches, and whether their values lie along the x axis."""
    extents = [patch.get_path().get_extents() for patch in ax.patches]
    lines = [([float(x) for x in line.get_xdata()], [float(y) for y in line.get_ydata()]) for line in ax.lines]
    is_horizontal = not any(_is_median(xs, ys, box.x0, box.x1) for xs, ys in lines for box in extents)
    if is_horizontal:
        lines = [(ys, xs) for xs, ys in lines]
    labels = [label.get_text() for label in (ax.get_yticklabels() if is_horizontal else ax.get_xticklabels())]
    found = []
    for index, box in enumerate(extents):
        left, right, low, high = (
            (box.y0, box.y1, box.x0, box.x1) if is_horizontal else (box.x0, box.x1, box.y0, box.y1)
        )
        label = labels[index] if index < len(labels) else ""
        found.append(_box(label, (left, right), (float(low), float(high)), lines))
    return found, is_horizontal


def _box(label: str, width: "tuple[float, float]", quartiles: "tuple[float, float]", lines: list) -> dict:
    left, right = width
    near = (right - left) * _TOLERANCE
    median = sum(quartiles) / 2
    values, outliers = list(quartiles), []
    for across, along in lines:
        if not across or min(across) < left - near or max(across) > right + near:
            continue
        if _is_median(across, along, left, right):
            median = along[0]
        elif len(across) != 2:
            outliers += along
        elif across[0] == across[1]:
            # A whisker; two outliers have this form too, but lie beyond a whisker, whose cap comes with it.
            (values if _touches(along, quartiles) else outliers).extend(along)
    return {
        "label": label,
        "min": min(values),
        "first_quartile": quartiles[0],
        "median": median,
        "third_quartile": quartiles[1],
        "max": max(values),
        "outliers": outliers,
    }


def _is_median(across: "list[float]", along: "list[float]", left: float, right: float) -> bool:
    """A median is the one line that is as wide as its box."""
    near = (right - left) * _TOLERANCE
    is_flat = len(across) == 2 and along[0] == along[1]
    return is_flat and left < right and abs(min(across) - left) <= near and abs(max(across) - right) <= near


def _touches(along: "list[float]", quartiles: "tuple[float, float]") -> bool:
    near = max(abs(value) for value in (*quartiles, 1e-300)) * _TOLERANCE
    return any(abs(value - quartile) <= near for value in along for quartile in quartiles)
