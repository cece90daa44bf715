"""Charts as SVG, drawn on the server: what a page needs to show them is in them."""

from base64 import b64encode
from collections.abc import Callable
from collections.abc import Sequence
from pygal.style import Style
from typing import Any
from typing import NamedTuple

import pygal

#: Colours of Bootstrap, which are told apart on white also by those who see no red or green.
BLUE, GREEN, RED, GREY = "#0d6efd", "#198754", "#dc3545", "#6c757d"

#: What fits a phone without its texts getting too small to be read, and half a desktop as it is.
WIDTH, HEIGHT = 420, 210

#: Names of the marks on the axis of time: one of so many spans.
MARKS = 5


class Line(NamedTuple):
    """One line. ``values``: None where there is none, which is drawn as zero. ``fill``: down to the axis."""

    label: str
    colour: str
    values: Sequence[float | None]
    fill: bool = False


def line_chart(
    series: Sequence[Line],
    times: Sequence[str],
    value_text: Callable[[float], str] = "{:.0f}".format,
    least: float = 5,
) -> str:
    """A chart as the address of an image, with a value of each line for each of the times. ``least``: up to
    which value the axis goes at least.

    An image, so that its style and the page's leave each other alone, and no filter of pages can spoil it.
    """
    style = Style(
        background="transparent",
        plot_background="transparent",
        foreground="#495057",
        foreground_strong="#212529",
        foreground_subtle="#ced4da",
        guide_stroke_color="#dee2e6",
        major_guide_stroke_color="#ced4da",
        opacity=".15",
        transition="0s",
        colors=tuple(line.colour for line in series),
        font_family="system-ui, sans-serif",
        label_font_size=13,
        major_label_font_size=13,
        legend_font_size=14,
    )
    chart: Any = pygal.Line(
        js=(),  # else it would name scripts of another host
        style=style,
        width=WIDTH,
        height=HEIGHT,
        margin=6,
        stroke_style={"width": 2},
        show_dots=False,
        include_x_axis=True,
        range=(0, max(least, *(value or 0 for line in series for value in line.values))),
        min_scale=2,
        max_scale=6,
        legend_at_bottom=True,
        legend_at_bottom_columns=len(series),
        legend_box_size=10,
        truncate_legend=-1,
        truncate_label=-1,
        show_minor_x_labels=False,
        value_formatter=value_text,
    )
    chart.x_labels = list(times)
    chart.x_labels_major = list(times)[:: max(1, len(times) // MARKS)]
    for line in series:
        chart.add(line.label, [value or 0 for value in line.values], fill=line.fill)
    return "data:image/svg+xml;base64," + b64encode(chart.render()).decode()
