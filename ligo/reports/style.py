"""What figures share: colours that can be told apart on white and on black, and charts without a frame of their own."""

from __future__ import annotations

from typing import Any

COLOURS = ("#2f80d8", "#dd7411", "#1f9a78", "#c74a86", "#8f63d6", "#8c7d1c", "#c2452d", "#5f7a92")
ARM_COLOURS = {
    "grown": "#2f80d8",
    "scratch": "#dd7411",
    "short": "#c2452d",
    "continue": "#c74a86",
    "small": "#8f63d6",
    "learn": "#1f9a78",
}


def plain(plot: Any, text_size: str = "13px") -> None:
    """Take background and frame from a Bokeh plot; the page gives its words and lines their colours."""
    plot.background_fill_color = plot.border_fill_color = plot.outline_line_color = None
    for axis in (*plot.xaxis, *plot.yaxis):
        axis.axis_label_text_font_style = "normal"
        axis.minor_tick_line_color = None
        axis.major_label_text_font_size = axis.axis_label_text_font_size = text_size
    for legend in plot.legend:
        legend.background_fill_color = legend.border_line_color = None
        legend.orientation = "horizontal"
        legend.label_text_font_size = text_size
