"""The colours of all pictures and of the report: Okabe and Ito's, for colour-blind people too."""

from __future__ import annotations

BLUE = "#0072B2"
VERMILION = "#D55E00"
GREEN = "#009E73"
PURPLE = "#CC79A7"
BLACK = "#000000"
ORANGE = "#E69F00"
SKY = "#56B4E9"
GREY = "#999999"

SERIES = (BLUE, VERMILION, GREEN, PURPLE, BLACK, ORANGE, SKY)  # of curves, in this order
NAMES = {
    "BLUE": BLUE,
    "VERMILION": VERMILION,
    "GREEN": GREEN,
    "PURPLE": PURPLE,
    "ORANGE": ORANGE,
    "SKY": SKY,
    "GREY": GREY,
}  # as the report's script and style sheet call them, %BLUE%


def rgb(colour: str) -> tuple[int, int, int]:
    """A colour as red, green and blue from 0 to 255, for OpenCV's drawings on RGB arrays."""
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)
